"""What spans say of a request: the names of OpenTelemetry's conventions, and which notes are told.

Only here and where a call is made are attributes named. What may stand in a span is listed, not what may not:
numbers, names of the configuration, outcomes. What callers and upstreams wrote stays out.

Source: OpenTelemetry semantic conventions, GenAI, database and HTTP spans, as of 1.38.
"""

from typing import Final

from gateway.context import Note, RequestContext
from gateway.messages import ChatEvent, Usage
from gateway.routes import Upstream
from regions.runtime import tracing
from regions.runtime.tracing import Attributes, Kind, Span, Trace

TOLD: Final = frozenset(
    {
        *("region", "replica", "upstream", "embedder", "reason", "tier", "wait_s", "outcome", "state"),
        *("matches", "passages", "tokens", "window", "limit", "kind", "source"),
    }
)
"""Details of notes that become attributes of the root's events; errors in words are in the log."""
_OWN_SPANS: Final = frozenset({"attempt", "answer"})
MAX_REASONS: Final = 8


def tell(trace: Trace, ctx: RequestContext, outcome: str, *, is_failure: bool) -> str:
    """Complete the root span of a request that ends; why its trace has to be kept, "" when it need not be."""
    root, answer = trace.root, ctx.trail.last("answer")
    root.attributes |= {
        "meridian.request_id": ctx.request_id,
        "meridian.tenant": ctx.tenant.id,
        "meridian.dialect": ctx.dialect,
        "meridian.outcome": outcome,
    }
    if answer:
        root.attributes |= _of_answer(answer)
    for note in ctx.trail.notes:
        if note.name not in _OWN_SPANS:
            root.event(note.name, ctx.started_s + note.at_s, **_told(note))
    if is_failure:
        root.error = outcome
        return "error"
    return "degraded" if answer.get("degraded") else ""


def _told(note: Note) -> Attributes:
    return {
        name: value
        for name, value in note.details.items()
        if name in TOLD and isinstance(value, str | bool | int | float)
    }


def _of_answer(answer: dict[str, object]) -> Attributes:
    told: Attributes = {
        "gen_ai.request.model": str(answer["route"]),
        "gen_ai.response.model": str(answer["model"]),
        "meridian.cost_usd": float(str(answer["cost_usd"])),
    }
    if answer["ttft_s"] is not None:
        told["gen_ai.response.time_to_first_chunk"] = float(str(answer["ttft_s"]))
    if answer["degraded"]:
        told["meridian.degraded"] = str(answer["degraded"])
    return told


class ChatSpan:
    """The span of one attempt at an upstream. Made by `begin`, only where something is traced."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self._has_named = False
        self._reasons: list[str] = []

    @classmethod
    def begin(cls, route: str, upstream: Upstream) -> "ChatSpan | None":
        """None: nothing is traced. It ends with `settled`."""
        above = tracing.current()
        if above is None:
            return None
        attributes: Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": upstream.model,
            "meridian.route": route,
            "meridian.upstream": upstream.name,
        }
        name = f"chat {upstream.model}"
        return cls(above.trace.begin(name, Kind.CLIENT, attributes, parent_id=above.span_id))

    def opened(self) -> None:
        """The first content came."""
        first_s = self.span.trace.clock() - self.span.start_s
        self.span.event("gen_ai.first_token")
        self.span.attributes["gen_ai.response.time_to_first_chunk"] = first_s

    def saw(self, event: ChatEvent) -> None:
        """An event came: the first one says who answers, the last ones why they end."""
        if not self._has_named:
            self._has_named = True
            for name in ("id", "model"):
                value = event.chunk.get(name)
                if isinstance(value, str):
                    self.span.attributes[f"gen_ai.response.{name}"] = value[:200]
        if event.finish_reason is not None and len(self._reasons) < MAX_REASONS:
            self._reasons.append(event.finish_reason)

    def settled(self, outcome: str, usage: Usage, cost_usd: float) -> None:
        """The attempt is over."""
        attributes = self.span.attributes
        if self._reasons:
            attributes["gen_ai.response.finish_reasons"] = tuple(self._reasons)
        attributes |= {
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "meridian.cost_usd": cost_usd,
            "meridian.outcome": outcome,
        }
        self.span.end("" if outcome in _NO_ERROR else outcome)


_NO_ERROR: Final = frozenset({"ok", "left"})
"""How an attempt may end without being anybody's failure."""
