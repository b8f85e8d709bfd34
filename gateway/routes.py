"""Routes: from the model a tenant names to the upstreams that serve it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.catalogue import ModelCard
from gateway.errors import NotFound

SNIPPETS: Final = "snippets"
"""The model that calls no LLM: it answers with cited excerpts."""


class Tier(StrEnum):
    """What an upstream is to its route."""

    EQUAL = "equal"  # as good as any other of this tier: asked first
    LONGER = "longer"  # for what does not fit the others' windows
    CHEAPER = "cheaper"  # for simple questions, and when no equal can answer


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider's model at an endpoint with a key. `name` is unique and tells operators which.

    `weight` is its share among the healthy of its tier. `account` is whose rates and bill it draws on.
    """

    name: str
    model: str
    card: ModelCard
    tier: Tier = Tier.EQUAL
    weight: float = 1.0
    account: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """An alias and the upstreams that serve it; with none it always answers in snippets.

    `max_attempts` bounds what is sent to all of them together for one request.
    """

    alias: str
    upstreams: Sequence[Upstream]
    max_attempts: int = 3


class Routes:
    """Every model that tenants may name."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = {**routes, SNIPPETS: Route(SNIPPETS, ())}

    def aliases(self) -> list[str]:
        return list(self._routes)

    def find(self, alias: str) -> Route:
        """Raises: NotFound: no such model; the message lists those there are."""
        route = self._routes.get(alias)
        if route is None:
            known = ", ".join(sorted(self._routes))
            raise NotFound(
                f"there is no model {alias[:100]!r}; there are: {known}",
                code="model_not_found",
                param="model",
            )
        return route
