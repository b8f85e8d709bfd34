"""What an answer says of itself beside the dialect's own fields: headers, the `meridian` object, the trail.

Headers tell what is known when the first content has come; the `meridian` object, in a body or in a stream's
last event, tells all of it. No upstream is named to callers: how many were asked is theirs to know, which
ones is in the operators' receipt.
"""

import math
from typing import Any

from gateway.context import ANSWER, ATTEMPT, RequestContext
from gateway.edge import render
from gateway.errors import GatewayError
from gateway.messages import AnswerFacts
from gateway.receipts import shown
from gateway.wire import openai as wire


def headers(facts: AnswerFacts) -> dict[str, str]:
    """What is known of an answer when its first content has come."""
    told = {"x-meridian-model": facts.model, "x-meridian-cache": facts.cache}
    if facts.cache_age_s is not None:
        told["age"] = str(int(facts.cache_age_s))
    if facts.source is not None:
        told |= render.source_headers(facts.source)
    if facts.degraded is not None:
        told["x-meridian-degraded"] = f"{facts.degraded.kind}; reason={facts.degraded.reason}"
    return told


def fields(
    region: str, ctx: RequestContext, facts: AnswerFacts, *, include_receipt: bool = False
) -> dict[str, Any]:
    """The fields that an ended answer carries: `meridian`, and `degraded` when it fell short."""
    source = facts.source
    meridian = {
        **_request(region, ctx),
        "replica": facts.replica,
        "model": facts.model,
        "ttft_ms": None if facts.ttft_s is None else round(facts.ttft_s * 1000, 1),
        "total_ms": round(ctx.elapsed_s() * 1000, 1),
        "cost_usd": round(facts.cost_usd, 8),
        "cache": facts.cache,
        "usage": wire.encode_usage(facts.usage) if facts.usage else None,
    }
    if source is not None and source.lsn is not None:
        meridian["lsn"] = source.lsn
    if source is not None and source.staleness_s is not None:
        meridian["staleness_ms"] = math.ceil(source.staleness_s * 1000)
    if include_receipt:
        meridian["receipt"] = shown(ctx)
    if facts.cache_age_s is not None:
        meridian |= {"age_s": round(facts.cache_age_s, 1), "saved_usd": round(facts.saved_usd, 8)}
    if facts.degraded is None:
        return {"meridian": meridian}
    degraded = {"kind": facts.degraded.kind, "reason": facts.degraded.reason}
    return {"meridian": meridian, "degraded": degraded}


def failed(region: str, ctx: RequestContext, error: GatewayError) -> dict[str, Any]:
    """The event that ends a broken stream. What would be headers of an error response stands beside it."""
    meridian = {**_request(region, ctx), "should_retry": error.retryable}
    if error.retry_after_s is not None:
        meridian["retry_after_ms"] = max(1, math.ceil(error.retry_after_s * 1000))
    return {**render.openai_error(error), "meridian": meridian}


def _request(region: str, ctx: RequestContext) -> dict[str, Any]:
    attempts = sum(note.name == ATTEMPT for note in ctx.trail.notes)
    return {"request_id": ctx.request_id, "region": region, "attempts": attempts}


def leave_note(ctx: RequestContext, facts: AnswerFacts) -> None:
    """Leave on the trail what the observer counts."""
    usage = facts.usage
    ctx.note(
        ANSWER,
        route=facts.route,
        model=facts.model,
        replica=facts.replica,
        ttft_s=facts.ttft_s,
        input_tokens=usage.input_tokens if usage else 0,
        output_tokens=usage.output_tokens if usage else 0,
        cost_usd=facts.cost_usd,
        cache=facts.cache,
        saved_usd=facts.saved_usd,
        degraded=f"{facts.degraded.kind}; reason={facts.degraded.reason}" if facts.degraded else "",
    )
