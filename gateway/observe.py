"""Observer: the one place where an ended request becomes a log line and metrics.

It stands at the edge rather than in a pipeline, because it must also see what never reached one: a
wrong key, a body too large, a drain.
"""

from collections.abc import Sequence
from typing import Any

import structlog

from gateway.context import RequestContext
from gateway.errors import Fault, GatewayError
from gateway.telemetry import STAGES, Telemetry

_CAUSES = (
    "llm_failed",
    "retrieval_down",
    "embedder_unavailable",
    "replica_unavailable",
    "replica_passed_over",
)
"""Notes that explain an answer that fell short although the request ended well."""

_LEVELS = {Fault.CLIENT: "info", Fault.GATEWAY: "error", Fault.UPSTREAM: "warning"}


class Observer:
    """Counts and logs requests as they end."""

    def __init__(self, telemetry: Telemetry, log: structlog.stdlib.BoundLogger) -> None:
        self._telemetry, self._log = telemetry, log

    def rejected(self, dialect: str, call: str, request_id: str, error: GatewayError) -> None:
        """A request that ended before it had a tenant."""
        self._telemetry.requests.labels(dialect, call, error.code).inc()
        self._log.info("rejected", request_id=request_id, dialect=dialect, call=call, error=error.code)

    def ended(self, ctx: RequestContext, call: str, error: BaseException | None) -> None:
        """A request that had a tenant: answered, failed, or left by its caller."""
        outcome, level = _outcome(error)
        elapsed_s = ctx.elapsed_s()
        self._telemetry.requests.labels(ctx.dialect, call, outcome).inc()
        self._telemetry.request_seconds.labels(ctx.dialect, call).observe(elapsed_s)
        for stage in STAGES:
            if stage in ctx.trail.stages_s:
                self._telemetry.stage_seconds.labels(stage).observe(ctx.trail.stages_s[stage])
        answer = ctx.trail.last("answer")
        self._count_answer(answer)
        attempts = [note.details for note in ctx.trail.notes if note.name == "attempt"]
        self._count_attempts(attempts)
        self._log.log(
            _NUMBER[level],
            "request",
            request_id=ctx.request_id,
            tenant=ctx.tenant.id,
            dialect=ctx.dialect,
            call=call,
            outcome=outcome,
            seconds=round(elapsed_s, 4),
            stages={name: round(s, 4) for name, s in ctx.trail.stages_s.items()},
            **answer,
            **({"attempts": attempts} if attempts else {}),
            **{name: ctx.trail.last(name) for name in _CAUSES if ctx.trail.last(name)},
            **({"error": str(error)} if error is not None else {}),
            **({"detail": error.detail} if isinstance(error, GatewayError) and error.detail else {}),
            # Only what we did not foresee is worth a traceback.
            **({"exc_info": error} if type(error) is GatewayError else {}),
        )

    def _count_answer(self, answer: dict[str, Any]) -> None:
        if not answer:
            return
        model = answer["route"]
        if answer["ttft_s"] is not None:
            self._telemetry.ttft_seconds.labels(model).observe(answer["ttft_s"])
        if answer["degraded"]:
            self._telemetry.degraded.labels(*answer["degraded"].split("; reason=")).inc()

    def _count_attempts(self, attempts: Sequence[dict[str, Any]]) -> None:
        for attempt in attempts:
            upstream = attempt["upstream"]
            self._telemetry.attempts.labels(upstream, attempt["outcome"]).inc()
            self._telemetry.attempt_seconds.labels(upstream).observe(attempt["ms"] / 1000)
            # Also what an attempt that broke had sent is billed, and no answer tells of it.
            self._telemetry.tokens.labels(attempt["route"], "input").inc(attempt["input_tokens"])
            self._telemetry.tokens.labels(attempt["route"], "output").inc(attempt["output_tokens"])
            self._telemetry.cost_usd.labels(attempt["route"]).inc(attempt["cost_usd"])


_NUMBER = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def _outcome(error: BaseException | None) -> tuple[str, str]:
    """How the request ended, as a bounded label, and the level that this deserves."""
    if error is None:
        return "ok", "info"
    if isinstance(error, GatewayError):
        return error.code, _LEVELS[error.fault]
    if isinstance(error, Exception) and not isinstance(error, ConnectionError):
        return "internal_error", "error"
    return "client_gone", "info"
