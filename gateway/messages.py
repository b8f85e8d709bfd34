"""What flows through the pipelines: values of no dialect.

Pure. A chat request keeps the caller's JSON fields as raw bytes, so that what we do not know passes
through untouched; a chat event keeps the bytes it came as, so that what we do not change is relayed
as it came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import msgspec

from regions.names import RegionId
from regions.positions import Lsn


class RagMode(StrEnum):
    """How much of Meridian a chat request wants."""

    AUTO = "auto"  # retrieve, then generate; snippets when generation fails
    OFF = "off"  # a plain proxy to the model
    SNIPPETS = "snippets"  # retrieve, answer with cited excerpts, call no LLM


class Degrade(StrEnum):
    """Whether an excerpt may stand in for a generated answer."""

    ALLOW = "allow"
    NEVER = "never"


class Complexity(StrEnum):
    """Which tier of a route's upstreams a request should begin with; `auto` leaves it to the route."""

    ECONOMY = "economy"
    STANDARD = "standard"
    LONG_CONTEXT = "long_context"
    AUTO = "auto"


class RagOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body's `rag` object; None means: the tenant's default."""

    index: str | None = None
    namespace: str | None = None
    top_k: int | None = None
    filter: dict[str, Any] | None = None
    min_score: float | None = None
    mode: RagMode | None = None
    degrade: Degrade | None = None
    include_context: bool | None = None
    include_receipt: bool | None = None
    complexity: Complexity | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation, read only as far as retrieval and packing need."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved piece of text. `number` is what a citation marker in the answer says, from 1."""

    number: int
    id: str
    text: str
    score: float
    title: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to answer.

    `fields` holds every top-level field of the caller's body as raw JSON except `rag`, `stream` and
    `stream_options`; `turns` is `messages` as text. `rag` is as asked until `settled`. `takes_excerpt`:
    nothing in the request rules out an excerpt as its answer (required tools, JSON, logprobs, `n` > 1).
    """

    model: str
    turns: Sequence[Turn]
    fields: Mapping[str, msgspec.Raw]
    rag: RagOptions
    stream: bool
    include_usage: bool
    choices: int = 1
    max_answer_tokens: int | None = None
    takes_excerpt: bool = True
    passages: Sequence[Passage] = ()

    @property
    def question(self) -> str:
        """The last user turn's text, or "" when there is none."""
        return next((t.text for t in reversed(self.turns) if t.role == "user"), "")

    @property
    def mode(self) -> RagMode:
        return self.rag.mode or RagMode.AUTO

    def settled(self, *, mode: RagMode, degrade: Degrade) -> "ChatRequest":
        """The request with what it leaves open filled in."""
        rag = msgspec.structs.replace(
            self.rag, mode=self.rag.mode or mode, degrade=self.rag.degrade or degrade
        )
        return replace(self, rag=rag)

    def with_passages(self, passages: Sequence[Passage]) -> "ChatRequest":
        return replace(self, passages=passages)

    def with_messages(self, messages: msgspec.Raw) -> "ChatRequest":
        return replace(self, fields={**self.fields, "messages": messages})


@dataclass(frozen=True, slots=True)
class Usage:
    """LLM tokens of one answer; `cached_tokens` is the part of the input the provider had cached."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ChatEvent:
    """One event of a chat answer.

    `raw` is the event's SSE bytes, its blank line included, or None when a stage made or changed it
    and the edge must render `chunk`. `content` is the text it adds, "" for none; `reasoning` what a
    reasoning model thinks aloud before. `chunk` is the decoded `chat.completion.chunk`.
    """

    chunk: dict[str, Any]
    raw: bytes | None = None
    content: str = ""
    has_tool_call: bool = False
    reasoning: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None

    @property
    def is_content(self) -> bool:
        """Whether a caller would notice it: text, thought or a tool call; no role, comment, empty delta.

        Thought counts: hundreds of such events may come before the first word of the answer.
        """
        return bool(self.content) or self.has_tool_call or bool(self.reasoning)


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts to embed under a model alias."""

    model: str
    texts: Sequence[str]
    encoding: str = "float"
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class Degraded:
    """How an answer fell short of a full one, and why; told to the caller and to operators."""

    kind: str
    reason: str

    def __str__(self) -> str:
        """As in the header `x-meridian-degraded`."""
        return f"{self.kind}; reason={self.reason}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a read was answered: the replica's region and the position it showed.

    `staleness_s` is how old it may have been (None: not judged); `is_stale` says that this was more than
    the caller accepts, and that the tenant takes it all the same.
    """

    region: RegionId
    lsn: Lsn | None = None
    staleness_s: float | None = None
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """A change that was taken: its position.

    `matched` counts what a filter matched, as of `counted_at` when that was not the change itself (None: it
    is not known). `acked` says how far the change has come: "applied", "region=…", or "durable" when the
    caller waited for more in vain (None: not waited for).
    """

    lsn: Lsn | None
    matched: int | None = None
    counted_at: Lsn | None = None
    acked: str | None = None


STALE: Final = Degraded("stale", "no_fresh_replica")
"""Of an answer from a `Source` that is stale."""

SPARSE_ONLY: Final = Degraded("sparse_only", "embedder_unavailable")
"""Of passages that were found by their words alone."""


@dataclass(slots=True)
class AnswerFacts:
    """What is known about an answer beside its events; filled by the stages as they learn it.

    `model` is the one that answered, by its provider's name; `route` the alias that was asked for.
    `ttft_s` runs from the request's acceptance to its first content event. `cache` is what the prompt cache
    did: hit, stale, coalesced, miss, off; of a hit there is an age, and what it cost when it was made.
    """

    route: str
    model: str = ""
    ttft_s: float | None = None
    degraded: Degraded | None = None
    usage: Usage | None = None
    cost_usd: float = 0.0
    source: Source | None = None
    passages: Sequence[Passage] = ()
    annotations: Sequence[Mapping[str, Any]] = ()
    cache: str = "off"
    cache_age_s: float | None = None
    saved_usd: float = 0.0

    @property
    def replica(self) -> str | None:
        """The region whose replica gave the passages."""
        return None if self.source is None else self.source.region
