"""What is under way, and whether it may still take effect; in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from regions.errors import ReplicaRejected, ReplicaUnavailable
from regions.replicator.calls import Calls
from tests.simulation import clock

Story = Callable[[Calls], Coroutine[Any, Any, None]]


def tell(story: Story) -> None:
    async def begin() -> None:
        await story(Calls(5.0))

    clock.run(begin())


async def call(calls: Calls, seconds: float = 0.0, error: Exception | None = None) -> None:
    with calls.one():
        await asyncio.sleep(seconds)
        if error is not None:
            raise error


def test_what_was_answered_is_settled() -> None:
    async def story(calls: Calls) -> None:
        await call(calls)
        for error in (ReplicaRejected(400, 3, "no"), ReplicaUnavailable("no", may_land=False)):
            with pytest.raises(type(error)):
                await call(calls, error=error)
        assert calls.is_settled

    tell(story)


def test_what_has_no_answer_settles_with_time() -> None:
    async def story(calls: Calls) -> None:
        with pytest.raises(ReplicaUnavailable):
            await call(calls, error=ReplicaUnavailable("late", may_land=True))
        assert not calls.is_settled
        await asyncio.sleep(5.1)
        assert calls.is_settled

    tell(story)


def test_what_does_not_end_in_time_is_given_up_and_not_settled() -> None:
    async def story(calls: Calls) -> None:
        async with asyncio.TaskGroup() as tasks:
            under_way = tasks.create_task(call(calls, 60.0))
            await asyncio.sleep(0.1)
            await calls.close(2.0)
            assert not under_way.done()
            under_way.cancel()
        assert not calls.is_settled
        await asyncio.sleep(5.1)
        assert calls.is_settled

    tell(story)
