"""Budgets in the chat pipeline: what an answer may cost is set aside before a model is asked, then settled.

`KeepToBudget` stands right before the models, inside Degrade: what is answered from memory or from excerpts
costs nothing and needs no budget, and by then the passages are known that the prompt will have. `TurnAway`
stands before retrieval, so that somebody who is refused again and again costs no embedding and no query.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

from gateway.allowances import Budget, OverBudget
from gateway.budgets import Budgets
from gateway.catalogue import cost_usd
from gateway.context import RequestContext
from gateway.errors import QuotaExceeded
from gateway.messages import ChatRequest, Complexity, RagMode, Usage
from gateway.routes import Routes, Upstream
from gateway.stages.base import ChatHandler
from gateway.stages.fallback import EXCERPT_RESERVE_S, may_excerpt
from gateway.stages.metering import spent_usd
from gateway.stream import EventStream

BYTES_A_TOKEN: Final = 3
"""Of a prompt: English has more, so an estimate is rather high; a Chinese character has three."""
PASSAGE_BYTES: Final = 100
"""About what the fence and the title of a passage add."""


class TurnAway:
    """Refuse at once whom the budget is known to refuse later, and who would get no excerpt either."""

    def __init__(self, budgets: Budgets, routes: Routes, *, answer_tokens: int) -> None:
        self._budgets, self._routes, self._answer_tokens = budgets, routes, answer_tokens

    async def __call__(
        self, ctx: RequestContext, request: ChatRequest, call_next: ChatHandler
    ) -> EventStream:
        """Raises: QuotaExceeded."""
        budget = ctx.tenant.budget
        if budget is not None and not gets_excerpt(request, budget):
            # Without the passages this is less than it will be.
            upstreams = self._routes.find(request.model).upstreams
            least_usd = estimated_usd(request, upstreams, self._answer_tokens)
            if least_usd and request.mode is not RagMode.SNIPPETS:
                self._budgets.check(ctx.tenant.id, budget, least_usd)
        return await call_next(ctx, request)


class KeepToBudget:
    """Reserve, pass on, settle. Over the soft threshold answers begin with the route's cheaper upstreams."""

    def __init__(self, budgets: Budgets, routes: Routes, *, answer_tokens: int) -> None:
        self._budgets, self._routes, self._answer_tokens = budgets, routes, answer_tokens

    async def __call__(
        self, ctx: RequestContext, request: ChatRequest, call_next: ChatHandler
    ) -> EventStream:
        """Raises: QuotaExceeded: there is no money for it, or none that is known of."""
        budget, tenant = ctx.tenant.budget, ctx.tenant.id
        estimate_usd = estimated_usd(request, self._routes.find(request.model).upstreams, self._answer_tokens)
        if budget is None or not estimate_usd:
            return await call_next(ctx, request)
        try:
            held = await self._budgets.reserve(
                tenant, budget, estimate_usd, wait_s=max(0.0, ctx.remaining_s() - EXCERPT_RESERVE_S)
            )
        except QuotaExceeded as error:
            ctx.note("over_budget", reason=error.reason, estimate_usd=estimate_usd)
            raise
        if (ratio := self._budgets.known_ratio(tenant, budget)) >= budget.soft_ratio:
            ctx.note("economy", spent_ratio=round(ratio, 4))
            ctx = dataclasses.replace(ctx, complexity=Complexity.ECONOMY.value)
        before_usd = spent_usd(ctx)

        def settle(_: BaseException | None) -> None:
            held.settle(spent_usd(ctx) - before_usd)

        try:
            answer = await call_next(ctx, request)
        except BaseException as error:
            settle(error)
            raise
        return answer.tap(settle)


def gets_excerpt(request: ChatRequest, budget: Budget) -> bool:
    """Whether a request beyond the budget is answered with an excerpt, if there is anything to cite."""
    return budget.over is OverBudget.SNIPPETS and may_excerpt(request)


def estimated_usd(request: ChatRequest, upstreams: Sequence[Upstream], answer_tokens: int) -> float:
    """What one attempt costs at most, as a rule: by the dearest upstream, with the longest answer."""
    size = sum(len(bytes(field)) for field in request.fields.values())
    size += sum(len(passage.text.encode()) + PASSAGE_BYTES for passage in request.passages)
    output = (request.max_answer_tokens or answer_tokens) * request.choices
    return max(
        (
            cost_usd(
                each.card,
                Usage(
                    input_tokens=min(size // BYTES_A_TOKEN + 1, each.card.window_tokens),
                    output_tokens=min(output, each.card.window_tokens * request.choices),
                ),
            )
            for each in upstreams
        ),
        default=0.0,
    )
