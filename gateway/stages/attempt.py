"""Attempt: one call of one upstream, timed and billed. The end of the chat pipeline.

Today a route's first upstream is the only one asked; the fallback chain stands around this handler, in
`gateway.pipelines`, and hands it the upstream to try.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from gateway.catalogue import cost_usd
from gateway.context import RequestContext
from gateway.errors import UpstreamUnavailable
from gateway.messages import AnswerFacts, ChatEvent, ChatRequest, Degrade, RagMode, Usage
from gateway.policies import tokens
from gateway.providers.base import ChatProvider, OpenedAnswer
from gateway.routes import Routes, Upstream
from gateway.stream import EventStream

EXCERPT_RESERVE_S: Final = 0.25
"""Kept back from the deadline while an excerpt may still answer: composing one takes a few ms."""


class Attempt:
    """Ask the route's upstream; the answer opens at its first content event."""

    def __init__(self, routes: Routes, providers: Mapping[str, ChatProvider]) -> None:
        self._routes, self._providers = routes, providers

    async def __call__(self, ctx: RequestContext, request: ChatRequest) -> EventStream:
        upstreams = self._routes.find(request.model).upstreams
        if not upstreams:
            raise UpstreamUnavailable(f"no upstream is configured for the model {request.model!r}")
        upstream = upstreams[0]
        left_s = ctx.remaining_s()
        if request.rag.degrade is Degrade.ALLOW and request.mode is not RagMode.OFF:
            left_s = max(0.0, left_s - EXCERPT_RESERVE_S)
        stream = request.stream or request.mode is not RagMode.OFF
        started_s = ctx.clock()
        ctx.note("attempt", upstream=upstream.name)
        opened = await self._providers[upstream.name].open(request, stream=stream, timeout_s=left_s)
        ctx.trail.took("llm_first_token", ctx.clock() - started_s)
        facts = AnswerFacts(
            route=request.model, model=upstream.model, passages=request.passages, ttft_s=ctx.elapsed_s()
        )
        return _Metered(ctx, request, upstream, facts, started_s).stream(opened)


class _Metered:
    """Counts what an answer uses while it passes, and bills it when it ends, however it ends."""

    def __init__(
        self,
        ctx: RequestContext,
        request: ChatRequest,
        upstream: Upstream,
        facts: AnswerFacts,
        started_s: float,
    ) -> None:
        self._ctx, self._request, self._upstream, self._facts = ctx, request, upstream, facts
        self._started_s = started_s
        self._text: list[str] = []

    def stream(self, opened: OpenedAnswer) -> EventStream:
        async def close() -> None:
            await opened.close()
            await self._settle()

        return EventStream(self._facts, opened.head, opened.rest, close).map(self._count)

    def _count(self, event: ChatEvent) -> tuple[ChatEvent]:
        if event.usage is not None:
            self._facts.usage = event.usage
            self._facts.cost_usd = cost_usd(self._upstream.card, event.usage)
        elif event.is_content:
            self._text.append(event.reasoning + event.content)
        return (event,)

    async def _settle(self) -> None:
        self._ctx.trail.took("llm_total", self._ctx.clock() - self._started_s)
        if self._facts.usage is None:
            # The provider did not say, or its answer was cut: bill what we saw of it.
            self._facts.usage = await asyncio.to_thread(self._estimate)
            self._facts.cost_usd = cost_usd(self._upstream.card, self._facts.usage)

    def _estimate(self) -> Usage:
        prompt = self._ctx.trail.last("packed").get("tokens")
        if prompt is None:
            prompt = sum(tokens.count(turn.text) for turn in self._request.turns)
        return Usage(input_tokens=prompt, output_tokens=tokens.count("".join(self._text)))
