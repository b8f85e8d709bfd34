"""Quotas counted in the region's shared store, for all of its gateways together.

One script, so one round trip, whatever the number of quotas; its clock is the store's, so gateways' clocks do
not matter. While the store does not answer, each process counts its own share, beginning where the store was
when it last told us. When it is back, a bucket there is taken to be no fuller than the shares that were used
meanwhile say, so an outage is never followed by a second burst, even when the store forgot everything.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis.asyncio import Redis

from gateway.limiters.local import LocalLimiter
from gateway.policies.token_bucket import Charge, Verdict, verdict
from gateway.shared_store import SharedStore, StoreDown

BEAT_S: Final = 2.0
GONE_S: Final = 7.0
"""A process that was not heard of for so long counts for nothing."""

_BUCKETS: Final = """
-- A bucket is the time (microseconds) at which it is full again, kept until then.
-- KEYS: buckets. ARGV: take or settle; then for each bucket: per minute, cost, the least taken already.
-- Gives each bucket's level before, as text: Lua's numbers come back as integers.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local levels, waits = {}, false
for i, key in ipairs(KEYS) do
  local per_min = tonumber(ARGV[3 * i - 1])
  local behind = math.max(tonumber(redis.call('GET', key) or '0') - now, 0)
  levels[i] = math.max(behind * per_min / 60000000, tonumber(ARGV[3 * i + 1]))
  waits = waits or levels[i] + math.min(tonumber(ARGV[3 * i]), per_min) - per_min > 0.000001
end
for i, key in ipairs(KEYS) do
  local per_min, level = tonumber(ARGV[3 * i - 1]), levels[i]
  if ARGV[1] == 'settle' or not waits then
    level = math.max(level + tonumber(ARGV[3 * i]), 0)
  end
  local behind = level * 60000000 / per_min
  if behind >= 1 then
    redis.call('SET', key, string.format('%.0f', now + behind), 'PX', math.ceil(behind / 1000) + 1)
  else
    redis.call('DEL', key)
  end
  levels[i] = string.format('%.6f', levels[i])
end
return levels
"""

_BEAT: Final = """
-- KEYS: the living. ARGV: who lives, for how many microseconds. Gives how many there are.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[2] / 1000))
return redis.call('ZCARD', KEYS[1])
"""


class RedisLimiter:
    """`gateway.limiters.base.Limiter` on a `SharedStore`."""

    def __init__(
        self,
        store: SharedStore,
        *,
        region: str,
        clock: Callable[[], float],
        sharers: int,
        on_change: Callable[[bool, int], None] = lambda _is_shared, _sharers: None,
    ) -> None:
        """`sharers`: processes, until the store has told how many there are. `on_change` is told when this
        process begins to count alone (False) or together (True), and among how many it shares.
        """
        self._store, self._clock, self._sharers = store, clock, sharers
        self._prefix = f"{store.prefix}:limits:{region}"
        self._local = LocalLimiter(clock, lambda: self._sharers)
        self._on_change = on_change
        self.is_shared = True
        self._alone: set[str] = set()
        """Buckets that were used here while the store did not answer, and were not told to it since."""
        self._owed: dict[str, Charge] = {}
        self._has_owed = asyncio.Event()
        self._me = uuid.uuid4().hex

    @property
    def sharers(self) -> int:
        return self._sharers

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Count among the living, and settle, until the block ends."""
        await self._beat()
        try:
            async with asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(self._keep_beating()), tasks.create_task(self._keep_settling())]
                try:
                    yield
                finally:
                    for task in working:
                        task.cancel()
        finally:
            await self._settle_owed()
            with suppress(StoreDown):
                await self._store.ask(lambda redis: redis.zrem(f"{self._prefix}:live", self._me))

    async def take(self, charges: Sequence[Charge]) -> Verdict:
        if not charges:
            return Verdict([])
        try:
            levels = await self._ask("take", charges)
        except StoreDown:
            self._alone.update(charge.quota.key for charge in charges)
            self._turn(is_shared=False)
            return self._local.take_now(charges)
        found = verdict(charges, levels)
        for charge, level in zip(charges, levels, strict=True):
            self._local.follow(charge.quota, level if found.refused else level + charge.cost)
        self._turn(is_shared=True)
        return found

    def settle(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            before = self._owed.get(charge.quota.key)
            cost = charge.cost + (before.cost if before is not None else 0.0)
            self._owed[charge.quota.key] = Charge(charge.quota, cost)
        self._has_owed.set()

    async def _keep_settling(self) -> None:
        while True:
            await self._has_owed.wait()
            await self._settle_owed()

    async def _settle_owed(self) -> None:
        owed, self._owed = self._owed, {}
        self._has_owed.clear()
        for charge in owed.values():
            try:
                await self._ask("settle", [charge])
            except StoreDown:
                self._alone.add(charge.quota.key)
                self._local.settle([charge])

    async def _ask(self, what: str, charges: Sequence[Charge]) -> list[float]:
        """Each quota's level before. Raises: StoreDown."""
        told = [charge.quota.key for charge in charges if charge.quota.key in self._alone]
        args: list[str | float] = [what]
        for charge in charges:
            least = self._local.all_level(charge.quota) if charge.quota.key in told else 0.0
            args += [charge.quota.per_min, charge.cost, least]
        keys = [f"{self._prefix}:{charge.quota.key}" for charge in charges]
        levels = [float(level) for level in await self._run(_BUCKETS, keys, args)]
        self._alone.difference_update(told)
        return levels

    async def _run(self, script: str, keys: Sequence[str], args: Sequence[str | float]) -> Any:
        async def call(redis: Redis) -> Any:
            return await redis.register_script(script)(keys=keys, args=args)

        return await self._store.ask(call)

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await self._beat()

    async def _beat(self) -> None:
        with suppress(StoreDown):  # then what was known of the others stays
            living = await self._run(_BEAT, [f"{self._prefix}:live"], [self._me, GONE_S * 1e6])
            self._sharers = max(int(living), 1)

    def _turn(self, *, is_shared: bool) -> None:
        """Say so when it changes; a store that is slow once is not left yet."""
        if is_shared != self.is_shared and is_shared == self._store.is_trusted:
            self.is_shared = is_shared
            self._on_change(is_shared, self._sharers)
