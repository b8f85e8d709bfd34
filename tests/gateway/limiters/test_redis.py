"""Limits counted together, on a real valkey-server: exact over gateways, bounded and unhurried without it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.allowances import Quota, Resource
from gateway.limiters.redis import RedisLimiter
from gateway.policies.breaker import Breaker
from gateway.policies.token_bucket import Charge
from gateway.shared_store import TERMS, SharedStore, StoreDown
from tests.contracts.valkey_process import ValkeyProcess

PER_MIN = 6_000
QUOTA = Quota("{t}:tenant:requests", Resource.REQUESTS, "the tenant", PER_MIN)
ONE = [Charge(QUOTA, 1)]
PATIENCE_S = 0.05


@pytest.fixture
def valkey(tmp_path: Path) -> ValkeyProcess:
    return ValkeyProcess(tmp_path)


@pytest.fixture(autouse=True)
def running(valkey: ValkeyProcess) -> object:
    valkey.start()
    yield
    valkey.kill()


def now_s() -> float:
    return asyncio.get_running_loop().time()


def store_at(url: str) -> SharedStore:
    breaker = Breaker("shared_store", TERMS)
    return SharedStore(url, timeout_s=0.02, connections=8, prefix="test", clock=now_s, breaker=breaker)


@asynccontextmanager
async def limiters(url: str, count: int) -> AsyncIterator[list[RedisLimiter]]:
    """As many gateways as that, each with its own connections."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            store = store_at(url)
            stack.push_async_callback(store.close)
            limiter = RedisLimiter(store, region="us-east", clock=now_s, sharers=1)
            await stack.enter_async_context(limiter.running())
            made.append(limiter)
        await asyncio.gather(*(limiter._beat() for limiter in made))  # so that each knows of all
        yield made


async def hammer(made: list[RedisLimiter], for_s: float, pause_s: float = 0.001) -> tuple[int, float]:
    """Ask from each as fast as that for so long: how many were let through, and the longest wait (s)."""
    let_through, longest_s, end_s = 0, 0.0, now_s() + for_s

    async def ask(limiter: RedisLimiter) -> None:
        nonlocal let_through, longest_s
        while now_s() < end_s:
            began_s = now_s()
            verdict = await limiter.take(ONE)
            longest_s = max(longest_s, now_s() - began_s)
            let_through += verdict.refused is None
            await asyncio.sleep(pause_s)

    async with asyncio.TaskGroup() as tasks:
        for limiter in made:
            tasks.create_task(ask(limiter))
    return let_through, longest_s


async def use_up(made: list[RedisLimiter]) -> None:
    await made[0].take([Charge(QUOTA, PER_MIN)])


async def test_two_gateways_together_let_through_capacity_and_refill(valkey: ValkeyProcess) -> None:
    async with limiters(valkey.url, 2) as made:
        await made[0].take([Charge(QUOTA, PER_MIN - 100)])
        began_s = now_s()
        let_through, _ = await hammer(made, 2.0)
        expected = 100 + QUOTA.per_s * (now_s() - began_s)
        assert let_through == pytest.approx(expected, rel=0.02, abs=2)


async def test_what_one_took_the_other_sees_and_a_settlement_too(valkey: ValkeyProcess) -> None:
    async with limiters(valkey.url, 2) as (one, other):
        assert (await one.take([Charge(QUOTA, PER_MIN)])).refused is None
        refused = await other.take([Charge(QUOTA, 600)])
        assert refused.refused == QUOTA
        assert refused.wait_s == pytest.approx(6, abs=0.1)
        one.settle([Charge(QUOTA, -700), Charge(QUOTA, 50)])
        async with asyncio.timeout(2):
            while (await other.take([Charge(QUOTA, 600)])).refused is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await one.take([Charge(QUOTA, 600)])).refused == QUOTA


async def test_buckets_leave_nothing_behind_once_they_are_full(valkey: ValkeyProcess) -> None:
    quick = Quota("{t}:tenant:tokens", Resource.TOKENS, "the tenant", 60_000)
    store = store_at(valkey.url)
    async with limiters(valkey.url, 1) as (limiter,):
        await limiter.take([Charge(quick, 100)])
        async with asyncio.timeout(5):
            while await store.ask(lambda redis: redis.keys("*tokens*")):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        ttl_ms = await store.ask(lambda redis: redis.pttl("test:limits:us-east:live"))
    await store.close()
    assert 0 < ttl_ms <= 7_000


async def test_all_quotas_of_a_request_are_taken_or_none(valkey: ValkeyProcess) -> None:
    small = Quota("{t}:key:requests", Resource.REQUESTS, "this key", 1)
    async with limiters(valkey.url, 1) as (limiter,):
        both = [Charge(QUOTA, 1), Charge(small, 1)]
        assert (await limiter.take(both)).refused is None
        verdict = await limiter.take(both)
        assert verdict.refused == small
        assert verdict.standings[0].remaining == PER_MIN - 1


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_without_the_store_nobody_waits_and_each_counts_its_share(
    valkey: ValkeyProcess, fault: str
) -> None:
    async with limiters(valkey.url, 2) as made:
        assert [limiter.sharers for limiter in made] == [2, 2]
        await use_up(made)
        await made[1].take(ONE)  # it knows now, too, that there is nothing left
        began_s = now_s()
        getattr(valkey, fault)()
        let_through, longest_s = await hammer(made, 2.0)
        assert longest_s < PATIENCE_S
        assert not any(limiter.is_shared for limiter in made)
        # The shares go on where the store was: used up, so what comes back is all there is.
        assert let_through <= QUOTA.per_s * (now_s() - began_s) * 1.1 + 2
        assert let_through >= QUOTA.per_s * 2.0 * 0.8
        if fault == "pause":
            valkey.resume()


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_an_outage_that_ends_is_followed_by_no_burst(valkey: ValkeyProcess, fault: str) -> None:
    async with limiters(valkey.url, 2) as made:
        await use_up(made)
        await made[1].take(ONE)
        began_s, let_through = now_s(), 0
        for act in (getattr(valkey, fault), valkey.start if fault == "kill" else valkey.resume, None):
            if act is not None:
                act()  # a server that was killed has forgotten every bucket
            count, longest_s = await hammer(made, 1.5)
            let_through += count
            assert longest_s < PATIENCE_S
        assert all(limiter.is_shared for limiter in made)
        assert let_through == pytest.approx(QUOTA.per_s * (now_s() - began_s), rel=0.15)


async def test_a_caller_that_leaves_in_the_middle_harms_no_other(valkey: ValkeyProcess) -> None:
    store = store_at(valkey.url)

    async def echo(text: str) -> object:
        return await store.ask(lambda redis: redis.echo(text))

    async def leave() -> None:
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(echo("of the one that left"))
            await asyncio.sleep(0)
            leaving.cancel()

    for number in range(200):
        await leave()
        assert await echo(str(number)) == str(number).encode()
    await store.close()


async def test_a_store_that_is_down_is_left_alone_and_then_tried_again(valkey: ValkeyProcess) -> None:
    store = store_at(valkey.url)
    valkey.kill()
    for _ in range(5):
        with pytest.raises(StoreDown):
            await store.ask(lambda redis: redis.ping())
    began_s = now_s()
    for _ in range(1000):
        with pytest.raises(StoreDown):
            await store.ask(lambda redis: redis.ping())
    assert now_s() - began_s < 0.5
    valkey.start()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await store.ask(lambda redis: redis.ping())
                break
            except StoreDown:
                await asyncio.sleep(0.05)
    await store.close()


async def test_a_cancellation_that_the_client_swallows_is_one_all_the_same(valkey: ValkeyProcess) -> None:
    """As redis-py does on Python 3.11 when it is cancelled while it closes a connection."""
    store, asks = store_at(valkey.url), asyncio.Event()

    async def swallow(_redis: Redis) -> int:
        asks.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return 1

    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(store.ask(swallow))
        await asks.wait()
        asking.cancel()
    await store.close()
    assert asking.cancelled()
