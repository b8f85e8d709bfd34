"""Admission: whether a tenant may come in now, by its limits. What may come in still waits for a slot.

Requests a minute and requests under way count for every call of either dialect, before its body is read;
what a model is asked for counts when the model is known: `stages.rate_limit`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from gateway.allowances import Quota, Resource
from gateway.context import RequestContext
from gateway.errors import RateLimited
from gateway.limiters.base import Limiter
from gateway.policies import quotas
from gateway.policies.token_bucket import Charge, duration, tightest

CONCURRENT_AGAIN_S: Final = 1.0
"""What a caller is told that has too much under way: when some of it ends is not known."""


class Admission:
    """The limits of all tenants, as this process enforces them."""

    def __init__(self, limiter: Limiter, refused: Callable[[str, str], None]) -> None:
        """`refused` is told the tenant's id and the limit, in a word."""
        self._limiter, self._refused = limiter, refused
        self._under_way: dict[str, int] = {}

    async def charge(self, ctx: RequestContext, charges: Sequence[Charge]) -> None:
        """Take from all of these quotas. Raises: RateLimited: one of them is used up; nothing was taken."""
        if not charges:
            return
        verdict = await self._limiter.take(charges)
        for standing in verdict.standings:
            known = ctx.standings.get(standing.quota.resource)
            ctx.standings[standing.quota.resource] = tightest(known or standing, standing)
        if verdict.refused is not None:
            raise self._refusal(ctx, verdict.refused, verdict.wait_s)

    def settle(self, charges: Sequence[Charge]) -> None:
        """Take what was used beyond an estimate, or give back what was not."""
        self._limiter.settle(charges)

    async def enter(self, ctx: RequestContext) -> None:
        """Count a request against the tenant's and the key's requests a minute. Raises: RateLimited."""
        await self.charge(ctx, quotas.of_request(ctx.tenant, ctx.key))

    @contextmanager
    def under_way(self, ctx: RequestContext) -> Iterator[None]:
        """Count it among what is under way while the block lasts. Raises: RateLimited: it is one too many."""
        limits = [("the tenant", ctx.tenant.id, ctx.tenant.limits.concurrent)]
        if ctx.key is not None:
            limits.append(("this key", ctx.key.digest, ctx.key.limits.concurrent))
        bounded = [(whose, name, most) for whose, name, most in limits if most is not None]
        for whose, name, most in bounded:
            if self._under_way.get(name, 0) >= most:
                self._refused(ctx.tenant.id, "concurrent")
                limit = f"concurrent requests of {whose}"
                raise RateLimited(
                    f"{limit}: {most} are under way", limit=limit, retry_after_s=CONCURRENT_AGAIN_S
                )
        for _, name, _ in bounded:
            self._under_way[name] = self._under_way.get(name, 0) + 1
        try:
            yield
        finally:
            for _, name, _ in bounded:
                self._under_way[name] -= 1
                if not self._under_way[name]:
                    del self._under_way[name]

    def _refusal(self, ctx: RequestContext, quota: Quota, wait_s: float) -> RateLimited:
        self._refused(ctx.tenant.id, quota.resource.value)
        message = f"{quota.name}: the limit of {quota.per_min:g} is reached; try again in {duration(wait_s)}"
        return RateLimited(message, limit=quota.name, retry_after_s=wait_s)


def headers(ctx: RequestContext) -> dict[str, str]:
    """`x-ratelimit-*` of whatever was counted: the quota that will be reached first, of each kind."""
    told: dict[str, str] = {}
    for resource in Resource:
        standing = ctx.standings.get(resource)
        if standing is not None:
            told[f"x-ratelimit-limit-{resource.value}"] = f"{standing.quota.per_min:g}"
            told[f"x-ratelimit-remaining-{resource.value}"] = str(standing.remaining)
            told[f"x-ratelimit-reset-{resource.value}"] = duration(standing.reset_s)
    return told
