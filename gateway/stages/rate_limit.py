"""RateLimit: a model is asked only within the tenant's, the key's and the model's tokens a minute.

What an answer will take is estimated before anything is spent on it. What the attempts really took is settled
at its end, however that comes: a failure, a caller that left and an answer from the cache took what their
attempts did, which may be nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

from gateway.admission import Admission
from gateway.allowances import Resource
from gateway.context import ATTEMPT, RequestContext
from gateway.embedders.base import Embedded
from gateway.messages import ChatRequest, EmbedRequest
from gateway.policies import quotas
from gateway.policies.token_bucket import Charge
from gateway.stages.base import ChatHandler, Handler
from gateway.stream import EventStream


class RateLimit:
    """Raises RateLimited for a conversation that is over a limit."""

    def __init__(self, admission: Admission, *, answer_tokens: int, top_k: int) -> None:
        self._admission, self._answer_tokens, self._top_k = admission, answer_tokens, top_k

    async def __call__(
        self, ctx: RequestContext, request: ChatRequest, call_next: ChatHandler
    ) -> EventStream:
        top_k = ctx.tenant.defaults.top_k or self._top_k
        estimate = quotas.tokens_of_chat(request, answer_tokens=self._answer_tokens, top_k=top_k)
        charges = quotas.of_model(ctx.tenant, ctx.key, request.model, estimate)
        await self._admission.charge(ctx, charges)
        try:
            answer = await call_next(ctx, request)
        except BaseException:
            self._settle(ctx, charges)
            raise
        return answer.tap(lambda _: self._settle(ctx, charges))

    def _settle(self, ctx: RequestContext, charges: Sequence[Charge]) -> None:
        attempts = [note.details for note in ctx.trail.notes if note.name == ATTEMPT]
        used = sum(each["input_tokens"] + each["output_tokens"] for each in attempts)
        self._admission.settle(_corrections(charges, used))


class RateLimitEmbed:
    """The same for /v1/embeddings."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def __call__(
        self, ctx: RequestContext, request: EmbedRequest, call_next: Handler[EmbedRequest, Embedded]
    ) -> Embedded:
        charges = quotas.of_model(ctx.tenant, ctx.key, request.model, quotas.tokens_of_texts(request.texts))
        await self._admission.charge(ctx, charges)
        used = 0
        try:
            embedded = await call_next(ctx, request)
            used = embedded.tokens
            return embedded
        finally:
            self._admission.settle(_corrections(charges, used))


def _corrections(charges: Sequence[Charge], used: float) -> list[Charge]:
    """What to settle of tokens that were taken by estimate."""
    return [
        replace(charge, cost=used - charge.cost)
        for charge in charges
        if charge.quota.resource is Resource.TOKENS
    ]
