"""Degrade: when every path to a model's answer has failed, answer with cited excerpts and say so.

A budget that is spent is one of these failures, unless its tenant would rather be refused.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

from gateway.context import RequestContext
from gateway.errors import (
    AnswerUnavailable,
    DeadlineExceeded,
    GatewayError,
    QuotaExceeded,
    UpstreamProtocolError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.messages import (
    AnswerFacts,
    ChatEvent,
    ChatRequest,
    Degrade,
    Degraded,
    Passage,
    RagMode,
    Usage,
)
from gateway.policies.snippets import FROM_PASSAGES, compose_snippets
from gateway.policies.sparse import SparseEncoder
from gateway.routes import SNIPPETS
from gateway.stages.base import ChatHandler
from gateway.stages.budget import gets_excerpt
from gateway.stages.fallback import EXCERPT_RESERVE_S
from gateway.stages.metering import spent_usd
from gateway.stages.search_text import MAX_QUERY_CHARS
from gateway.stream import EventStream

COMPOSED_ON_THE_LOOP: Final = 8_000
"""Characters of passages read."""
COMPOSED_PER_S: Final = 200_000
"""Characters, by a busy machine; a quiet one reads twice as many."""
LEAST_READ_CHARS: Final = 4_000

_UPSTREAM_FAILED: Final = (
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamProtocolError,
    UpstreamRejected,
    DeadlineExceeded,
)


class DegradeToSnippets:
    """Stand in for a model that cannot answer; only before its first content, only where that is enough."""

    def __init__(self, encoder: SparseEncoder, wall_clock: Callable[[], float]) -> None:
        self._encoder, self._wall_clock = encoder, wall_clock

    async def __call__(
        self, ctx: RequestContext, request: ChatRequest, call_next: ChatHandler
    ) -> EventStream:
        if request.mode is RagMode.SNIPPETS or request.model == SNIPPETS:
            return await self._excerpt(ctx, request, "requested")
        try:
            return await call_next(ctx, request)
        except _UPSTREAM_FAILED as error:
            if isinstance(error, UpstreamRejected) and error.is_callers:
                raise
            ctx.note("llm_failed", error=error.message, detail=error.detail)
            if request.mode is RagMode.OFF:
                raise
            nothing_to_cite = bool(ctx.trail.last("retrieval_down"))
            if request.rag.degrade is Degrade.NEVER or not request.takes_excerpt or nothing_to_cite:
                raise AnswerUnavailable(
                    f"no model answered, and an excerpt cannot stand in: {error.message}",
                    retry_after_s=error.retry_after_s or 1,
                    detail=error.detail,
                ) from error
            return await self._excerpt(ctx, request, reason_of(error, ctx.deadline_s - ctx.clock()))
        except QuotaExceeded as error:
            budget, nothing_to_cite = ctx.tenant.budget, bool(ctx.trail.last("retrieval_down"))
            if budget is None or nothing_to_cite or not gets_excerpt(request, budget):
                raise
            return await self._excerpt(ctx, request, error.reason)

    async def _excerpt(self, ctx: RequestContext, request: ChatRequest, reason: str) -> EventStream:
        left_s = max(0.0, ctx.deadline_s - ctx.clock())
        passages = readable(request.passages, max(LEAST_READ_CHARS, int(left_s * COMPOSED_PER_S)))
        text = await self._composed(request.question[:MAX_QUERY_CHARS], passages)
        facts = AnswerFacts(
            route=request.model,
            model=SNIPPETS,
            ttft_s=ctx.elapsed_s(),
            degraded=Degraded("snippets", reason),
            usage=Usage(),
            cost_usd=spent_usd(ctx),
            passages=request.passages,
        )
        return EventStream(facts, excerpt_events(text, ctx.request_id, int(self._wall_clock())))

    async def _composed(self, question: str, passages: Sequence[Passage]) -> str:
        if sum(len(passage.text) for passage in passages[:FROM_PASSAGES]) <= COMPOSED_ON_THE_LOOP:
            return compose_snippets(question, passages, self._encoder)
        return await asyncio.to_thread(compose_snippets, question, passages, self._encoder.fork())


def readable(passages: Sequence[Passage], chars: int) -> Sequence[Passage]:
    """The passages of an excerpt, cut to so many characters together when there is no time for more."""
    used = passages[:FROM_PASSAGES]
    if sum(len(passage.text) for passage in used) <= chars:
        return passages
    each = chars // len(used)
    return [dataclasses.replace(passage, text=passage.text[:each]) for passage in used]


def reason_of(error: GatewayError, left_s: float) -> str:
    """Why there is an excerpt, in the words of the contract; `left_s` is what is left of the deadline."""
    ran_out = isinstance(error, UpstreamTimeout) and left_s <= EXCERPT_RESERVE_S
    return "deadline" if ran_out or isinstance(error, DeadlineExceeded) else "llm_unavailable"


def excerpt_events(text: str, request_id: str, created: int) -> Sequence[ChatEvent]:
    """An excerpt as the chunks a model would have sent; `created` in Unix seconds."""

    def event(delta: dict[str, str], finish: str | None) -> ChatEvent:
        chunk = {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": SNIPPETS,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        }
        return ChatEvent(chunk=chunk, content=delta.get("content", ""), finish_reason=finish)

    return [event({"role": "assistant", "content": text}, None), event({}, "stop")]
