"""Receipts: what became of a request, for whoever asks later by its id.

A receipt is the request's trail, put in order: what was tried, where, how long it took, how stale it was,
what it cost, and why the answer fell short. It is the operators': it names upstreams and regions. What of it
a caller may see in the answer's own body is `shown`.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from gateway.context import ANSWER, ATTEMPT, RequestContext
from gateway.errors import GatewayError

KEPT: Final = 2_000
"""Receipts in memory; each has at most `context.MAX_NOTES` steps, so about 10 KB at the worst."""

_SHOWN_OF_AN_ATTEMPT: Final = ("model", "outcome", "ms", "input_tokens", "output_tokens", "cost_usd")


class Step(msgspec.Struct, frozen=True):
    """One thing that happened, `at_ms` after the request was accepted."""

    name: str
    at_ms: float
    details: Mapping[str, Any]


class Receipt(msgspec.Struct, frozen=True):
    """One request, from its acceptance to its last byte. `ended_s` is seconds since 1970.

    `stages_ms` is the time spent in each stage; stages overlap (an LLM's total holds its first token), so
    they do not add up to `total_ms`.
    """

    request_id: str
    tenant: str
    dialect: str
    call: str
    outcome: str
    ended_s: float
    total_ms: float
    stages_ms: Mapping[str, float]
    answer: Mapping[str, Any]
    steps: list[Step]
    error: str = ""
    detail: str = ""
    trace_id: str = ""
    """32 hexadecimal digits; "" where nothing is traced."""

    def attempts(self) -> list[Mapping[str, Any]]:
        """The calls of LLM upstreams, in order."""
        return [step.details for step in self.steps if step.name == ATTEMPT]

    def last(self, name: str) -> Mapping[str, Any]:
        """Details of the latest step of that name; {} when there is none."""
        return next((step.details for step in reversed(self.steps) if step.name == name), {})


def receipt_of(
    ctx: RequestContext, call: str, outcome: str, error: BaseException | None, ended_s: float
) -> Receipt:
    """The receipt of a request that has just ended so."""
    return Receipt(
        request_id=ctx.request_id,
        tenant=ctx.tenant.id,
        dialect=ctx.dialect,
        call=call,
        outcome=outcome,
        ended_s=ended_s,
        total_ms=_ms(ctx.elapsed_s()),
        stages_ms={name: _ms(s) for name, s in ctx.trail.stages_s.items()},
        answer=ctx.trail.last(ANSWER),
        steps=[
            Step(note.name, _ms(note.at_s), note.details) for note in ctx.trail.notes if note.name != ANSWER
        ],
        error="" if error is None else str(error),
        detail=error.detail if isinstance(error, GatewayError) else "",
        trace_id="" if ctx.trail.trace is None else f"{ctx.trail.trace.trace_id:032x}",
    )


def shown(ctx: RequestContext) -> dict[str, Any]:
    """What a caller who asks for it gets of the trail so far: no upstream, account or region behind it."""
    attempts = [
        {name: note.details[name] for name in _SHOWN_OF_AN_ATTEMPT if name in note.details}
        for note in ctx.trail.notes
        if note.name == ATTEMPT
    ]
    stages = {name: _ms(s) for name, s in ctx.trail.stages_s.items()}
    return {"stages_ms": stages, "attempts": attempts}


class Receipts:
    """The receipts of the last requests of this process. An id that comes twice means the later one."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._by_id: OrderedDict[str, Receipt] = OrderedDict()

    def add(self, receipt: Receipt) -> None:
        self._by_id.pop(receipt.request_id, None)
        self._by_id[receipt.request_id] = receipt
        if len(self._by_id) > self._kept:
            self._by_id.popitem(last=False)

    def find(self, request_id: str) -> Receipt | None:
        return self._by_id.get(request_id)

    def latest(self, count: int) -> Iterator[Receipt]:
        """The last `count` of them, the newest first."""
        return islice(reversed(self._by_id.values()), count)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
