"""One daemon at a time, whatever the clocks say; in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from regions.errors import LogUnavailable
from regions.registers.base import Register
from regions.registers.memory import MemoryRegisters
from regions.replicator.lease import KEY, Lease, LeaseLost
from tests.simulation import clock

Story = Callable[[MemoryRegisters], Coroutine[Any, Any, None]]


def lease(registers: MemoryRegisters, name: str) -> Lease:
    return Lease(registers, name, lease_s=10.0, settle_s=5.0)


def tell(story: Story) -> None:
    clock.run(story(MemoryRegisters()))


def now_s() -> float:
    return asyncio.get_running_loop().time()


def test_a_free_lease_is_taken_at_once() -> None:
    async def story(registers: MemoryRegisters) -> None:
        assert await lease(registers, "a").acquire() == pytest.approx(10.0, abs=0.1)

    tell(story)


def test_a_successor_waits_until_the_lease_has_ended_and_what_was_sent_has_settled() -> None:
    async def story(registers: MemoryRegisters) -> None:
        await lease(registers, "a").acquire()
        await lease(registers, "b").acquire()
        assert 15.0 <= now_s() < 18.0

    tell(story)


def test_a_renewed_lease_stays_with_its_holder() -> None:
    async def story(registers: MemoryRegisters) -> None:
        holder = lease(registers, "a")
        await holder.acquire()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(lease(registers, "b").acquire())
            for _ in range(20):
                await asyncio.sleep(5.0)
                assert await holder.renew() == pytest.approx(now_s() + 10.0, abs=0.1)
            assert not waiting.done()
            waiting.cancel()

    tell(story)


def test_who_was_succeeded_learns_it_at_the_next_renewal() -> None:
    async def story(registers: MemoryRegisters) -> None:
        first = lease(registers, "a")
        await first.acquire()
        await lease(registers, "b").acquire()
        with pytest.raises(LeaseLost):
            await first.renew()

    tell(story)


def test_of_many_who_wait_one_gets_it() -> None:
    async def story(registers: MemoryRegisters) -> None:
        await lease(registers, "dead").acquire()
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(lease(registers, name).acquire()) for name in "abc"]
            await asyncio.sleep(20.0)
            assert sum(task.done() for task in waiting) == 1
            for task in waiting:
                task.cancel()

    tell(story)


def test_a_lease_that_was_given_back_is_taken_at_once_when_all_has_settled() -> None:
    async def story(registers: MemoryRegisters) -> None:
        holder = lease(registers, "a")
        await holder.acquire()
        await holder.renew()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(lease(registers, "b").acquire())
            await asyncio.sleep(2.0)
            await holder.give_back(is_settled=True)
            await waiting
        assert now_s() < 4.0
        with pytest.raises(LeaseLost):
            await holder.renew()

    tell(story)


def test_a_lease_that_was_given_back_too_early_to_tell_waits_for_the_settle_time_alone() -> None:
    async def story(registers: MemoryRegisters) -> None:
        holder = lease(registers, "a")
        await holder.acquire()
        await holder.give_back(is_settled=False)
        await lease(registers, "b").acquire()
        assert 5.0 <= now_s() < 7.0

    tell(story)


def test_who_lost_its_lease_has_none_to_give_back() -> None:
    async def story(registers: MemoryRegisters) -> None:
        first, second = lease(registers, "a"), lease(registers, "b")
        await first.acquire()
        await second.acquire()
        with pytest.raises(LeaseLost):
            await first.give_back(is_settled=True)
        await second.renew()

    tell(story)


class LateLanding(MemoryRegisters):
    """A write whose answer was lost lands after the next look."""

    async def get(self, key: str, *, timeout_s: float) -> Register | None:
        found = await super().get(key, timeout_s=timeout_s)
        if found is not None and self.is_due:
            self.is_due = False
            await self.put(key, found.value, timeout_s=timeout_s)
        return found

    is_due = False


def test_a_write_of_ours_that_lands_late_is_no_end_of_the_lease() -> None:
    async def story() -> None:
        registers = LateLanding()
        holder = lease(registers, "a")
        await holder.acquire()
        await registers.put(
            KEY, _record_of(await registers.get(KEY, timeout_s=1)), timeout_s=1
        )  # the first one
        registers.is_due = True  # and the second
        with pytest.raises(LogUnavailable):
            await holder.renew()
        assert await holder.renew() == pytest.approx(now_s() + 10.0, abs=0.1)

    clock.run(story())


def _record_of(found: Register | None) -> bytes:
    assert found is not None
    return found.value
