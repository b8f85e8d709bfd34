"""What a tenant may do and how much of it: grants, limits, budget, cache rules. Values; pure.

They stand in the tenants file, under a tenant or under one of its keys. A limit that is not set is none.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

PERIOD_S: Final = 60.0
"""Of rates, in tenants' files and answers' headers."""


Listed = Literal["indexes", "models", "operations"]
"""Grants that are lists of names."""


class Operation(StrEnum):
    """What a call does, as far as a grant cares."""

    CHAT = "chat"  # chat completions, with what they retrieve, and embeddings
    READ = "read"  # queries, fetches, lists, stats, text searches
    WRITE = "write"  # upserts, updates, deletes, text records
    ADMIN = "admin"  # making and deleting namespaces


class Priority(StrEnum):
    """Who goes first when there is not enough for all, and who is shed last."""

    INTERACTIVE = "interactive"
    BATCH = "batch"
    INGESTION = "ingestion"


class Grants(BaseModel):
    """What may be named; an empty list grants everything of its kind that the tenant could name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    indexes: list[str] = Field(default_factory=list, description="Indexes; empty: all.")
    namespaces: list[str] = Field(
        default_factory=list,
        description="Namespaces by the tenant's own names for them; 'name*' takes every one that begins so.",
    )
    models: list[str] = Field(default_factory=list, description="Models by their aliases; empty: all.")
    operations: list[Operation] = Field(
        default_factory=list, description="chat, read, write, admin; empty: all."
    )

    def allows(self, kind: Listed, name: str) -> bool:
        granted: list[str] = [*getattr(self, kind)]
        return not granted or name in granted

    def allows_namespace(self, name: str) -> bool:
        return not self.namespaces or any(_covers(pattern, name) for pattern in self.namespaces)

    def beyond(self, whole: "Grants") -> list[str]:
        """What of this is not within `whole`, as "kind: name"."""
        kinds: tuple[Listed, ...] = ("indexes", "models", "operations")
        named = ((kind, name) for kind in kinds for name in getattr(self, kind))
        found = [f"{kind}: {name}" for kind, name in named if not whole.allows(kind, name)]
        return found + [f"namespaces: {each}" for each in self.namespaces if not whole.allows_namespace(each)]


def _covers(pattern: str, name: str) -> bool:
    """Whether a grant holds for a name, or for everything that another grant's pattern holds for."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


Positive = Annotated[int, Field(gt=0)]


class Limits(BaseModel):
    """How much at a time, in one region; every gateway of the region counts together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_min: Positive | None = Field(None, description="Calls of either dialect.")
    tokens_per_min: Positive | None = Field(
        None, description="LLM and embedding tokens: estimated at admission, settled by usage."
    )
    concurrent: Positive | None = Field(None, description="Requests under way in one gateway process.")


class OverBudget(StrEnum):
    """What a tenant whose budget is spent gets."""

    SNIPPETS = "snippets"  # cited excerpts, which cost nothing
    REFUSE = "refuse"  # 429 insufficient_quota


class Budget(BaseModel):
    """What a tenant may spend on LLMs in a calendar month (UTC), in all regions together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    monthly_usd: float = Field(gt=0, description="USD a calendar month, UTC.")
    soft_ratio: float = Field(
        0.8, gt=0, le=1, description="From this share on, answers begin with the route's cheaper upstreams."
    )
    over: OverBudget = Field(OverBudget.SNIPPETS, description="snippets: cited excerpts; refuse: 429.")
    home: str | None = Field(
        None, description="The region that keeps the account. [the first of regions.places]"
    )


class CacheRules(BaseModel):
    """What may be answered from memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="Answer a repeated question from the prompt cache.")
    proxy: bool = Field(
        False,
        description="Also where nothing is retrieved (rag.mode off): a model's own words.",
    )
    ttl_s: float = Field(3600, gt=0, description="Oldest answer given out.")
    max_staleness_s: float = Field(
        0, ge=0, description="How long an answer may outlive a change of its namespace; 0: not at all."
    )


class Resource(StrEnum):
    """What is limited, by the names that answers' headers have for it."""

    REQUESTS = "requests"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Quota:
    """So much a minute. `key` tells buckets apart; `whose` is for people, such as "this key"."""

    key: str
    resource: Resource
    whose: str
    per_min: float

    @property
    def name(self) -> str:
        return f"{self.resource.value} per minute of {self.whose}"

    @property
    def per_s(self) -> float:
        return self.per_min / PERIOD_S


@dataclass(frozen=True, slots=True)
class Standing:
    """A quota after it was asked: how much is left, and seconds until it is full."""

    quota: Quota
    remaining: int
    reset_s: float
