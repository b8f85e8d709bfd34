"""Models that nobody typed: those a provider lists itself, with prices, become models of this gateway.

Each becomes a model of its own, with the provider as its one upstream. What the configuration says goes
first: a model of the same alias, and a price of the same name under `catalogue`. What has no price that can
be relied on is left out, with the reason. A provider that cannot be asked at start-up is asked again later:
nothing waits for it longer than its `list_s`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

import structlog

from gateway import providers
from gateway.catalogue import ModelCard
from gateway.config import GatewayConfig, ModelConfig, ProviderConfig, UpstreamConfig
from gateway.errors import GatewayError
from gateway.providers.base import Resolve
from gateway.wire.model_list import Listed, decode_models
from regions.runtime import plugins

AGAIN_S: Final = 30.0
"""Between two questions to a provider that did not answer."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A model that a provider lists and that is not offered."""

    provider: str
    model: str
    why: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What the providers' lists come to: models by alias, their cards by name, and what is missing."""

    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    cards: Mapping[str, ModelCard] = field(default_factory=dict)
    left_out: Sequence[LeftOut] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    """By provider: why its list is not known."""

    def into(self, config: GatewayConfig) -> GatewayConfig:
        """The configuration with these models beside its own."""
        if not self.models:
            return config
        return config.model_copy(
            update={
                "models": {**self.models, **config.models},
                "catalogue": {**self.cards, **config.catalogue},
            }
        )


Lists = Mapping[str, Sequence[Listed]]


class Imports:
    """The providers' lists, as far as they are known; `imported` is what they come to."""

    def __init__(self, config: GatewayConfig, resolve: Resolve, log: structlog.stdlib.BoundLogger) -> None:
        self._config, self._resolve, self._log = config, resolve, log
        self._lists: dict[str, Sequence[Listed]] = {}
        self.imported = Imported()

    async def look(self) -> bool:
        """Ask every provider whose list is not known; whether one came."""
        asked = {
            name: section
            for name, section in self._config.providers.items()
            if section.import_models and name not in self._lists
        }
        lists, problems = await _fetch(asked, self._resolve)
        self._lists.update(lists)
        self.imported = derive(self._config, self._lists, problems)
        for name in lists:
            offered = sum(
                alias_of(self._config.providers[name], each) in self.imported.models for each in lists[name]
            )
            self._log.info("models_imported", provider=name, models=offered, listed=len(lists[name]))
        for name, problem in problems.items():
            self._log.warning("models_not_imported", provider=name, error=problem, again_s=AGAIN_S)
        return bool(lists)

    async def keep_looking(self, tell: Callable[[], Awaitable[None]]) -> None:
        """Ask again until every list is known; `tell` is called after each that came."""
        while self.imported.problems:
            await asyncio.sleep(AGAIN_S)
            if await self.look():
                await tell()


async def _fetch(
    sections: Mapping[str, ProviderConfig], resolve: Resolve
) -> tuple[dict[str, Sequence[Listed]], dict[str, str]]:
    """Lists by provider, and why others have none."""
    found = await asyncio.gather(*(_listed(name, section, resolve) for name, section in sections.items()))
    named = list(zip(sections, found, strict=True))
    return (
        {name: each for name, each in named if not isinstance(each, str)},
        {name: each for name, each in named if isinstance(each, str)},
    )


async def _listed(name: str, section: ProviderConfig, resolve: Resolve) -> Sequence[Listed] | str:
    """The provider's models, or why they are not known."""
    module = plugins.find(providers, section.kind)
    try:
        async with asyncio.timeout(section.list_s):
            body = await module.list_models(module.Config(**section.own()), name, resolve)
        return await asyncio.to_thread(decode_models, body)
    except TimeoutError:
        return f"no list within {section.list_s:g} s"
    except GatewayError as error:
        return f"{error.message} {error.detail}".strip()
    except ValueError as error:
        return str(error)


def derive(config: GatewayConfig, lists: Lists, problems: Mapping[str, str]) -> Imported:
    """Models out of lists: pure."""
    models: dict[str, ModelConfig] = {}
    cards: dict[str, ModelCard] = {}
    left_out: list[LeftOut] = []
    for name, section in config.providers.items():
        for listed in _wanted(section, lists.get(name, ())):
            alias = alias_of(section, listed)
            known = config.catalogue.get(listed.id) or listed.card or config.cards().get(listed.id)
            why = "" if known is not None else listed.why
            if alias in config.models or alias in models:
                why = "another model has its name; set a prefix"
            if why or known is None:
                left_out.append(LeftOut(name, listed.id, why))
                continue
            card = f"{name}:{listed.id}"
            cards[card] = known
            upstream = UpstreamConfig(kind=section.kind, model=listed.id, **section.own())
            models[alias] = ModelConfig(upstreams=[upstream], card=card)
    return Imported(models, cards, left_out, dict(problems))


def alias_of(section: ProviderConfig, listed: Listed) -> str:
    return section.prefix + listed.id


def _wanted(section: ProviderConfig, lists: Sequence[Listed]) -> Iterator[Listed]:
    for listed in lists:
        if not section.only or any(fnmatchcase(listed.id, pattern) for pattern in section.only):
            yield listed
