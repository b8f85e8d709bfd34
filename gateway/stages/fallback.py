"""Fallback: one upstream after the other, until one answers. The end of the chat pipeline.

What is decided stands in `policies.chain`; here it is done: waiting, fitting the prompt into the window of
the upstream that is asked, asking it, and telling the chain what became of it.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from gateway.context import RequestContext
from gateway.errors import (
    CircuitOpen,
    ContextTooLong,
    DeadlineExceeded,
    GatewayError,
    UpstreamRejected,
    UpstreamUnavailable,
)
from gateway.messages import ChatRequest, Complexity, Degrade, RagMode
from gateway.policies.backoff import Rng
from gateway.policies.chain import Ask, Chain
from gateway.policies.complexity import first_tier
from gateway.policies.failures import FailureClass, classify
from gateway.policies.health import Health
from gateway.policies.retry_budget import RetryBudget
from gateway.routes import Route, Routes, Tier, Upstream
from gateway.stages.base import UpstreamCall, UpstreamHandler
from gateway.stages.pack import Pack, Packing
from gateway.stages.scouts import Scouts
from gateway.stream import EventStream

EXCERPT_RESERVE_S: Final = 0.25
"""Kept back from the deadline while an excerpt may still answer: composing one takes a few ms."""

OpenFor = Callable[[Upstream, float], float]
"""How long an upstream's breaker stays open yet, in seconds, at that time."""


class Fallback:
    """Walk the route of a request."""

    def __init__(
        self,
        routes: Routes,
        attempt: UpstreamHandler,
        pack: Pack,
        *,
        health: Health,
        budget: RetryBudget,
        open_s: OpenFor,
        scouts: Scouts,
        rng: Rng,
    ) -> None:
        self._scouts = scouts
        self._routes, self._attempt, self._pack = routes, attempt, pack
        self._health, self._budget, self._open_s, self._rng = health, budget, open_s, rng

    async def __call__(self, ctx: RequestContext, request: ChatRequest) -> EventStream:
        """The first answer that opens. Raises: the error that says most about why none did."""
        route = self._routes.find(request.model)
        if not route.upstreams:
            raise UpstreamUnavailable(f"no upstream is configured for the model {request.model!r}")
        packing = self._pack.begin(ctx, request)
        give_up_s = ctx.deadline_s - (EXCERPT_RESERVE_S if may_excerpt(request) else 0.0)
        chain = Chain(
            route,
            await self._first(ctx, request, route, packing),
            health=self._health,
            budget=self._budget,
            open_s=self._open_s,
            rng=self._rng,
            give_up_s=give_up_s,
            tokens=packing.about_tokens,
        )
        errors: list[GatewayError] = []
        while (ask := chain.next(ctx.clock())) is not None:
            await asyncio.sleep(max(0.0, ask.at_s - ctx.clock()))
            try:
                return await self._ask(ctx, ask, chain, packing, give_up_s)
            except DeadlineExceeded:
                raise
            except GatewayError as error:
                errors.append(error)
        raise _last_word(errors) or self._nobody(ctx, route)

    async def _first(self, ctx: RequestContext, request: ChatRequest, route: Route, packing: Packing) -> Tier:
        if ctx.complexity != Complexity.AUTO:
            return first_tier(ctx.complexity, request, 0, 0)
        equals = [u for u in route.upstreams if u.tier is Tier.EQUAL] or route.upstreams
        window = max(upstream.card.window_tokens for upstream in equals)
        tier = first_tier(ctx.complexity, request, await packing.tokens(window), window)
        ctx.note("complexity", tier=tier.value)
        return tier

    async def _ask(
        self, ctx: RequestContext, ask: Ask, chain: Chain, packing: Packing, give_up_s: float
    ) -> EventStream:
        """One attempt. Raises: GatewayError: it failed, and the chain knows."""
        upstream = ask.upstream
        try:
            fitted = await packing.into(upstream.card.window_tokens)
            now_s = ctx.clock()
            # While somebody else could still be asked, nobody is waited for until there is no time for it.
            share_s = (give_up_s - now_s) / (2 if ask.has_others else 1)
            call = UpstreamCall(
                request=fitted.request,
                upstream=upstream,
                content_by_s=now_s + share_s,
                give_up_s=give_up_s,
                is_held=ctx.is_whole or not fitted.request.stream,
                prompt_tokens=fitted.tokens,
            )
            if ask.is_fallback and not self._is_known(upstream, now_s):
                is_known = partial(self._is_known_by_now, ctx, upstream)
                async with self._scouts.turn(upstream.name, is_known, call.content_by_s):
                    answer = await self._attempt(ctx, call)
            else:
                answer = await self._attempt(ctx, call)
        except CircuitOpen:
            ctx.note("skipped", upstream=upstream.name, reason="circuit_open")
            raise
        except GatewayError as error:
            if not isinstance(error, ContextTooLong):
                chain.sent(upstream)
            chain.failed(
                upstream,
                classify(error),
                asked_s=error.retry_after_s,
                may_ask_again=error.should_retry is not False,
            )
            raise
        self._budget.earn()
        return answer

    def _is_known(self, upstream: Upstream, now_s: float) -> bool:
        """Whether one knows what asking it would come to: it answered of late, or its breaker is open."""
        return self._health.is_proven(upstream, now_s) or self._open_s(upstream, now_s) > 0

    def _is_known_by_now(self, ctx: RequestContext, upstream: Upstream) -> bool:
        return self._is_known(upstream, ctx.clock())

    def _nobody(self, ctx: RequestContext, route: Route) -> GatewayError:
        """Nobody could be asked at all: all are open, out, or want to be left alone for too long."""
        now_s = ctx.clock()
        waits = [
            max(self._open_s(upstream, now_s), self._health.wait_until_s(upstream) - now_s)
            for upstream in route.upstreams
        ]
        wait_s = min((wait_s for wait_s in waits if wait_s > 0), default=None)
        return UpstreamUnavailable(
            f"no upstream of the model {route.alias!r} can be asked now", retry_after_s=wait_s
        )


def may_excerpt(request: ChatRequest) -> bool:
    """Whether an excerpt may stand in for a model's answer."""
    return (
        request.mode is not RagMode.OFF and request.rag.degrade is not Degrade.NEVER and request.takes_excerpt
    )


def _last_word(errors: list[GatewayError]) -> GatewayError | None:
    """The error for the caller: the last, but "too long" only when that is all there was.

    An upstream with a shorter window than the others says nothing about the request.
    """
    others = [error for error in errors if classify(error) is not FailureClass.CONTEXT]
    if others:
        sent = [error for error in others if not isinstance(error, CircuitOpen)]
        return (sent or others)[-1]
    if not errors:
        return None
    last = errors[-1]
    if not isinstance(last, UpstreamRejected) or ContextTooLong.code.encode() in last.body:
        return last  # in words that callers know
    too_long = ContextTooLong("the conversation does not fit any model's window", param="messages")
    too_long.__cause__ = last
    return too_long
