"""Observer: the one place where an ended request becomes a receipt, a log line and metrics.

It stands at the edge rather than in a pipeline, because it must also see what never reached one: a
wrong key, a body too large, a drain.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from gateway import spans
from gateway.context import RequestContext
from gateway.errors import Fault, GatewayError, Overloaded
from gateway.receipts import Receipt, Receipts, receipt_of
from gateway.telemetry import STAGES, Telemetry
from regions.runtime.tracing import Tracer

_CAUSES = (
    "llm_failed",
    "over_budget",
    "retrieval_down",
    "embedder_unavailable",
    "replica_unavailable",
    "replica_passed_over",
)
"""Notes that explain an answer that fell short although the request ended well."""

_LEVELS = {Fault.CLIENT: "info", Fault.GATEWAY: "error", Fault.UPSTREAM: "warning"}


Exemplar = dict[str, str] | None


class Observer:
    """Counts and logs requests as they end, keeps their receipts, ends their traces.

    `wall_clock`: seconds since 1970.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        log: structlog.stdlib.BoundLogger,
        receipts: Receipts,
        wall_clock: Callable[[], float],
        tracer: Tracer | None = None,
    ) -> None:
        self._telemetry, self._log = telemetry, log
        self._receipts, self._wall_clock = receipts, wall_clock
        self._tracer = tracer

    def rejected(self, dialect: str, call: str, request_id: str, error: GatewayError) -> None:
        """A request that ended before it had a tenant."""
        self._telemetry.requests.labels(dialect, call, error.code).inc()
        self._log.info("rejected", request_id=request_id, dialect=dialect, call=call, error=error.code)

    def ended(self, ctx: RequestContext, call: str, error: BaseException | None) -> None:
        """A request that had a tenant: answered, failed, or left by its caller."""
        outcome, level = _outcome(error)
        receipt = receipt_of(ctx, call, outcome, error, self._wall_clock())
        self._receipts.add(receipt)
        exemplar = self._end_trace(ctx, outcome, is_failure=level != "info")
        self._telemetry.requests.labels(ctx.dialect, call, outcome).inc()
        self._telemetry.request_seconds.labels(ctx.dialect, call).observe(ctx.elapsed_s(), exemplar)
        for stage in STAGES:
            if stage in ctx.trail.stages_s:
                self._telemetry.stage_seconds.labels(stage).observe(ctx.trail.stages_s[stage], exemplar)
        self._count_answer(receipt.answer, exemplar)
        self._count_attempts(receipt.attempts(), exemplar)
        # Only what we did not foresee is worth a traceback.
        foreseen = {} if type(error) is not GatewayError else {"exc_info": error}
        self._log.log(_NUMBER[level], "request", **_line(receipt), **foreseen)

    def _end_trace(self, ctx: RequestContext, outcome: str, *, is_failure: bool) -> Exemplar:
        """What measurements point to: the request's trace, when there is one that is kept."""
        trace = ctx.trail.trace
        if trace is None or self._tracer is None:
            return None
        keep = spans.tell(trace, ctx, outcome, is_failure=is_failure)
        return {"trace_id": f"{trace.trace_id:032x}"} if self._tracer.end(trace, keep) else None

    def _count_answer(self, answer: Mapping[str, Any], exemplar: Exemplar) -> None:
        if not answer:
            return
        model = answer["route"]
        if answer["ttft_s"] is not None:
            self._telemetry.ttft_seconds.labels(model).observe(answer["ttft_s"], exemplar)
        self._telemetry.cache_answers.labels(model, answer["cache"]).inc()
        self._telemetry.cache_saved_usd.labels(model).inc(answer["saved_usd"])
        if answer["degraded"]:
            self._telemetry.degraded.labels(*answer["degraded"].split("; reason=")).inc()

    def _count_attempts(self, attempts: Sequence[Mapping[str, Any]], exemplar: Exemplar) -> None:
        for attempt in attempts:
            upstream = attempt["upstream"]
            self._telemetry.attempts.labels(upstream, attempt["outcome"]).inc()
            self._telemetry.attempt_seconds.labels(upstream).observe(attempt["ms"] / 1000, exemplar)
            if "token_ms" in attempt:
                self._telemetry.inter_token_seconds.labels(attempt["route"]).observe(
                    attempt["token_ms"] / 1000, exemplar
                )
            # Also what an attempt that broke had sent is billed, and no answer tells of it.
            self._telemetry.tokens.labels(attempt["route"], "input").inc(attempt["input_tokens"])
            self._telemetry.tokens.labels(attempt["route"], "output").inc(attempt["output_tokens"])
            self._telemetry.cost_usd.labels(attempt["route"]).inc(attempt["cost_usd"])


def _line(receipt: Receipt) -> dict[str, Any]:
    """The receipt as fields of a log line: without steps that neither cost nor explain anything."""
    attempts = receipt.attempts()
    return {
        "request_id": receipt.request_id,
        "tenant": receipt.tenant,
        "dialect": receipt.dialect,
        "call": receipt.call,
        "outcome": receipt.outcome,
        "ms": receipt.total_ms,
        "stages_ms": receipt.stages_ms,
        **({"trace_id": receipt.trace_id} if receipt.trace_id else {}),
        **receipt.answer,
        **({"attempts": attempts} if attempts else {}),
        **{name: receipt.last(name) for name in _CAUSES if receipt.last(name)},
        **({"error": receipt.error} if receipt.error else {}),
        **({"detail": receipt.detail} if receipt.detail else {}),
    }


_NUMBER = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def _outcome(error: BaseException | None) -> tuple[str, str]:
    """How the request ended, as a bounded label, and the level that this deserves."""
    if error is None:
        return "ok", "info"
    if isinstance(error, GatewayError):
        # What is shed is many lines and nobody's defect: metrics and alerts tell of load.
        return error.code, "warning" if isinstance(error, Overloaded) else _LEVELS[error.fault]
    if isinstance(error, Exception) and not isinstance(error, ConnectionError):
        return "internal_error", "error"
    return "client_gone", "info"
