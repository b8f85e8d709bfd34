"""Quotas counted in this process alone: without a shared store, or while that does not answer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from aiolimiter import AsyncLimiter

from gateway.allowances import PERIOD_S, Quota
from gateway.policies.token_bucket import Charge, Verdict, verdict

MOST: Final = 20_000
"""Buckets in memory; with more, those that are full are forgotten, which changes nothing."""


class Bucket(AsyncLimiter):
    """aiolimiter's leaky bucket, asked instead of waited for, by a clock that is handed in.

    Its level may exceed `max_rate`: a debt. It is never below 0, whatever the clock does.
    """

    def level(self, now_s: float) -> float:
        """What is taken and has not come back."""
        elapsed_s = max(now_s - self._last_check, 0.0)
        self._last_check = max(now_s, self._last_check)
        self._level = max(self._level - elapsed_s * self._rate_per_sec, 0.0)
        return self._level

    def add(self, now_s: float, cost: float) -> None:
        self._level = max(self.level(now_s) + cost, 0.0)

    def put(self, now_s: float, level: float) -> None:
        self.level(now_s)
        self._level = max(level, 0.0)


class LocalLimiter:
    """`gateway.limiters.base.Limiter` in a dict. A quota is shared evenly by `sharers()` processes."""

    def __init__(self, clock: Callable[[], float], sharers: Callable[[], int] = lambda: 1) -> None:
        self._clock, self._sharers = clock, sharers
        self._buckets: dict[str, Bucket] = {}

    async def take(self, charges: Sequence[Charge]) -> Verdict:
        return self.take_now(charges)

    def take_now(self, charges: Sequence[Charge]) -> Verdict:
        now_s, shares = self._clock(), [Charge(self._share(c.quota), c.cost) for c in charges]
        buckets = [self._bucket(c.quota) for c in shares]
        found = verdict(shares, [bucket.level(now_s) for bucket in buckets])
        if found.refused is None:
            for bucket, charge in zip(buckets, shares, strict=True):
                bucket.add(now_s, charge.cost)
        # Told as of the whole quota: how it is shared out is ours alone.
        whole = {charge.quota.key: charge.quota for charge in charges}
        return Verdict(
            [replace(each, quota=whole[each.quota.key]) for each in found.standings],
            found.refused and whole[found.refused.key],
            found.wait_s,
        )

    def settle(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            self._bucket(self._share(charge.quota)).add(self._clock(), charge.cost)

    def all_level(self, quota: Quota) -> float:
        """The level of the whole quota, when every process has used as much as this one."""
        return self._bucket(self._share(quota)).level(self._clock()) * self._sharers()

    def follow(self, quota: Quota, all_level: float) -> None:
        """Have this process's share of a level that somebody else counted."""
        self._bucket(self._share(quota)).put(self._clock(), all_level / self._sharers())

    def _share(self, quota: Quota) -> Quota:
        sharers = self._sharers()
        if sharers == 1:
            return quota
        return Quota(quota.key, quota.resource, quota.whose, quota.per_min / sharers)

    def _bucket(self, quota: Quota) -> Bucket:
        found = self._buckets.get(quota.key)
        if found is None:
            if len(self._buckets) >= MOST:
                self._forget()
            found = self._buckets[quota.key] = Bucket(quota.per_min, PERIOD_S)
        elif found.max_rate != quota.per_min:  # the tenants file or the number of processes changed
            found.level(self._clock())
            found.max_rate, found._rate_per_sec = quota.per_min, quota.per_s
        return found

    def _forget(self) -> None:
        now_s = self._clock()
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if bucket.level(now_s) > 0}
