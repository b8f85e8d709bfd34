"""The region's shared store: one Redis or Valkey that the gateways of a region count and cache in.

It is never needed: whoever asks has an answer of their own for when it does not answer. So nobody waits for
it longer than a few of its timeouts, nothing is tried twice, and a breaker leaves it alone once it fails.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.errors import CircuitOpen
from gateway.policies.breaker import Breaker, BreakerTerms, State
from gateway.policies.guard import Blame, guarded
from regions.errors import RegionsError

T = TypeVar("T")

BREAKER: Final = "shared_store"
TERMS: Final = BreakerTerms(window_s=1, min_failures=3, failure_ratio=0.3, open_s=1)
"""Quick to leave it alone, and to try it again: a probe costs one caller one timeout."""


class StoreDown(RegionsError):
    """The store did not answer in time, or is left alone because it has not lately."""


class SharedStore:
    """Calls on the store, each within `timeout_s` and at most once."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        connections: int,
        prefix: str,
        clock: Callable[[], float],
        breaker: Breaker,
    ) -> None:
        """Raises: ValueError: `url` is none of redis://, rediss:// or unix://."""
        self.prefix, self._timeout_s, self._clock, self._breaker = prefix, timeout_s, clock, breaker
        self._redis = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                url,
                max_connections=connections,
                timeout=timeout_s,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                # The library's own default is ten attempts: seconds, where we have milliseconds.
                retry=Retry(NoBackoff(), 0),
                health_check_interval=0,
            )
        )

    async def ask(self, call: Callable[[Redis], Awaitable[T]]) -> T:
        """What `call` gives. Raises: StoreDown: unavailable; perhaps the call takes effect all the same."""
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task is not None else 0
        try:
            return await self._ask(call)
        finally:
            # redis-py closes a connection under asyncio.wait_for, which on Python 3.11 returns as if nothing
            # had been when it is cancelled at that moment. A loop that asks for ever would then never end.
            if task is not None and task.cancelling() > cancelled_before:
                raise asyncio.CancelledError

    async def _ask(self, call: Callable[[Redis], Awaitable[T]]) -> T:
        try:
            with guarded(
                self._breaker, self._clock, _blame, patience_s=self._timeout_s, fair_s=self._timeout_s
            ):
                # Waiting for a connection, making one, and the answer have a timeout each.
                async with asyncio.timeout(2 * self._timeout_s):
                    return await call(self._redis)
        except CircuitOpen as error:
            raise StoreDown(error.message) from None
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreDown(f"the shared store did not answer: {error!r}") from error

    @property
    def is_trusted(self) -> bool:
        """Whether calls are made, rather than probes or none."""
        return self._breaker.state(self._clock()) is State.CLOSED

    async def close(self) -> None:
        await self._redis.aclose(close_connection_pool=True)


def _blame(error: Exception) -> Blame:
    return Blame.DEPENDENCY if isinstance(error, RedisError | OSError | TimeoutError) else Blame.CALLER
