"""Many appends as few commits, and what each caller hears."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from regions.errors import AppendUnknown, LogUnavailable
from regions.runtime.group_commit import Bounds, GroupCommit

T = 5.0


class Committed:
    """A commit that notes its batches and waits at a gate."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()

    async def __call__(self, works: Sequence[str], until_s: float) -> list[str | Exception]:
        self.batches.append(list(works))
        self.started.set()
        await self.gate.wait()
        if "boom" in works:
            raise ZeroDivisionError
        return [LogUnavailable("no") if work == "bad" else work.upper() for work in works]

    async def hold(self, commits: "GroupCommit[str, str]", tasks: asyncio.TaskGroup) -> asyncio.Task[str]:
        """Let a first commit run until the gate opens."""
        self.gate.clear()
        task = tasks.create_task(submit(commits, "first"))
        await self.started.wait()
        return task


@pytest.fixture
def committed() -> Committed:
    return Committed()


@pytest.fixture
async def commits(committed: Committed) -> AsyncIterator[GroupCommit[str, str]]:
    made: GroupCommit[str, str] = GroupCommit(committed, Bounds(count=4, bytes=100, waiting_bytes=300))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.run())
        await asyncio.sleep(0)
        yield made
        running.cancel()


async def submit(commits: GroupCommit[str, str], work: str, size: int = 10, timeout_s: float = T) -> str:
    return await commits.submit(work, count=1, size=size, timeout_s=timeout_s)


async def test_alone_a_work_is_committed_at_once(
    commits: GroupCommit[str, str], committed: Committed
) -> None:
    assert await submit(commits, "a") == "A"
    assert await submit(commits, "b") == "B"
    assert committed.batches == [["a"], ["b"]]


async def test_what_comes_while_a_commit_runs_goes_into_the_next_in_order(
    commits: GroupCommit[str, str], committed: Committed
) -> None:
    async with asyncio.TaskGroup() as tasks:
        await committed.hold(commits, tasks)
        others = [tasks.create_task(submit(commits, work)) for work in "abcdef"]
        await asyncio.sleep(0)
        committed.gate.set()
    assert committed.batches == [["first"], ["a", "b", "c", "d"], ["e", "f"]]
    assert [task.result() for task in others] == list("ABCDEF")


async def test_a_commit_is_bounded_in_bytes_and_a_larger_work_goes_alone(
    commits: GroupCommit[str, str], committed: Committed
) -> None:
    async with asyncio.TaskGroup() as tasks:
        await committed.hold(commits, tasks)
        for work, size in (("a", 60), ("b", 60), ("c", 150), ("d", 10)):
            tasks.create_task(submit(commits, work, size))
        await asyncio.sleep(0)
        committed.gate.set()
    assert committed.batches == [["first"], ["a"], ["b"], ["c"], ["d"]]


async def test_each_caller_hears_its_own_outcome(
    commits: GroupCommit[str, str], committed: Committed
) -> None:
    outcomes: list[str | BaseException] = []
    async with asyncio.TaskGroup() as tasks:
        await committed.hold(commits, tasks)
        gathered = tasks.create_task(
            asyncio.wait_for(
                asyncio.gather(*(submit(commits, work) for work in ("a", "bad")), return_exceptions=True), T
            )
        )
        await asyncio.sleep(0)
        committed.gate.set()
        outcomes = await gathered
    assert outcomes[0] == "A"
    assert isinstance(outcomes[1], LogUnavailable)


async def test_too_much_that_waits_is_refused_at_once(
    commits: GroupCommit[str, str], committed: Committed
) -> None:
    async with asyncio.TaskGroup() as tasks:
        await committed.hold(commits, tasks)
        for work in "abc":
            tasks.create_task(submit(commits, work, size=100))
        await asyncio.sleep(0)
        with pytest.raises(LogUnavailable, match="300 bytes wait"):
            await submit(commits, "d", size=1)
        committed.gate.set()


async def test_time_out_before_its_turn_means_certainly_not_appended(
    commits: GroupCommit[str, str], committed: Committed
) -> None:
    async with asyncio.TaskGroup() as tasks:
        await committed.hold(commits, tasks)
        with pytest.raises(LogUnavailable):
            await submit(commits, "a", timeout_s=0.01)
        committed.gate.set()
    assert await submit(commits, "b") == "B"
    assert committed.batches == [["first"], ["b"]]


async def test_time_out_in_its_turn_means_nobody_knows(
    commits: GroupCommit[str, str], committed: Committed
) -> None:
    committed.gate.clear()
    with pytest.raises(AppendUnknown):
        await submit(commits, "a", timeout_s=0.01)
    committed.gate.set()
    assert await submit(commits, "b") == "B"


async def test_a_caller_that_leaves_takes_back_what_was_not_sent(
    commits: GroupCommit[str, str], committed: Committed
) -> None:
    async with asyncio.TaskGroup() as tasks:
        first = await committed.hold(commits, tasks)
        waiting = tasks.create_task(submit(commits, "a"))
        await asyncio.sleep(0)
        waiting.cancel()
        first.cancel()
        await asyncio.sleep(0)
        committed.gate.set()
    assert await submit(commits, "b") == "B"
    assert committed.batches == [["first"], ["b"]]


async def test_a_commit_that_breaks_tells_its_callers_and_the_next_goes_on(
    commits: GroupCommit[str, str],
) -> None:
    with pytest.raises(AppendUnknown) as caught:
        await submit(commits, "boom")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert await submit(commits, "a") == "A"


async def test_closing_tells_everyone_who_waits(committed: Committed) -> None:
    commits: GroupCommit[str, str] = GroupCommit(committed, Bounds(4, 100, 300))
    with pytest.raises(LogUnavailable):
        await submit(commits, "too early")
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(commits.run())
        await asyncio.sleep(0)
        committed.gate.clear()
        outcomes = asyncio.gather(submit(commits, "a"), submit(commits, "b"), return_exceptions=True)
        await committed.started.wait()
        running.cancel()
        sent, waiting = await outcomes
    assert isinstance(sent, AppendUnknown)
    assert isinstance(waiting, LogUnavailable | AppendUnknown)
