"""What an old home took and never shipped is no history: not applied, and taken out where it was."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from regions.logs.base import Append, Entry, Fence
from regions.logs.memory import MemoryLog
from regions.names import IndexName, RegionId
from regions.positions import Epoch
from regions.registers.memory import MemoryRegisters
from regions.replicas.memory import MemoryReplica
from regions.replicator import moves
from regions.replicator.driver import Cut, Driver, TermCut
from regions.replicator.follower import Pace
from regions.replicator.pacing import Pacer
from regions.replicator.snapshot import Route, Site
from regions.replicator.watermarks import Progress, decode, progress_key
from tests.regions.replicator.entries import EPOCH, INDEX, A, put

US, EU, AP = RegionId("us"), RegionId("eu"), RegionId("ap")
PACE = Pace(linger_s=0.01, call_timeout_s=1, apply_settle_s=0.1, save_every_s=0.01, look_every_s=0.05)


@dataclass
class Epochs:
    """The first term, and where it was cut off, once that is known."""

    end: int | None = None

    def is_history(self, home: RegionId, entry: Entry) -> bool:
        return self.end is None or entry.sequence <= self.end

    def cuts(self, home: RegionId, shard: int, indexes: Sequence[IndexName]) -> Sequence[Cut]:
        return [] if self.end is None else [Cut(INDEX, EPOCH, self.end)]

    def has_moved_on(self, home: RegionId, shard: int, index: IndexName) -> bool:
        return False

    def is_only_stream(self, home: RegionId, shard: int, indexes: Sequence[IndexName], stream: str) -> bool:
        return False

    async def ready(self, index: IndexName, epoch: Epoch) -> None:
        """At once."""

    async def fence(self, index: IndexName) -> Fence:
        raise AssertionError("nothing is resolved here")


@dataclass
class Place:
    """A region with a follower of the home's only shard."""

    region: RegionId
    log: MemoryLog
    clock: Callable[[], float]
    epochs: Epochs = field(default_factory=Epochs)
    others: list[Site] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replica = MemoryReplica(INDEX, self.clock)
        self.site = Site(self.region, MemoryRegisters(), {INDEX: self.replica})

    @asynccontextmanager
    async def following(self) -> AsyncIterator["asyncio.Task[None]"]:
        route = Route(US, 0, self.site, self.others, [INDEX])
        driver = Driver(route, self.log, self.epochs, {INDEX: Pacer(1_000)}, writer="one", pace=PACE)
        driver.feed(moves.Leased(self.clock() + 60))
        async with asyncio.TaskGroup() as tasks:
            task: asyncio.Task[None] = tasks.create_task(_until_cut(driver))
            yield task
            task.cancel()

    async def ids(self) -> set[str]:
        return set((await self.replica.fetch(A, ["a", "b", "tail"], timeout_s=1)).records)

    async def told(self, holds: Callable[[Progress], bool]) -> None:
        """Wait until the follower has saved such a record."""
        async with asyncio.timeout(5):
            while (  # noqa: ASYNC110 - nobody sets an event for us
                saved := await self.site.registers.get(progress_key(US, 0), timeout_s=1)
            ) is None or not holds(decode(saved.value)):
                await asyncio.sleep(0.01)

    async def holds(self, *ids: str) -> None:
        async with asyncio.timeout(5):
            while await self.ids() != set(ids):  # noqa: ASYNC110 - nobody sets an event for us
                await asyncio.sleep(0.01)


async def _until_cut(driver: Driver) -> None:
    with suppress(TermCut):
        await driver.run()


async def test_a_tail_is_not_applied_and_is_taken_out_where_it_was() -> None:
    clock = asyncio.get_running_loop().time
    log = MemoryLog(US, MemoryRegisters(), clock, shards=1)
    await log.start()
    fence = await log.open_epoch(INDEX, EPOCH, timeout_s=1)
    old, new, third = (Place(region, log, clock) for region in (US, EU, AP))
    (end,) = await _append(log, fence, "a", "b")
    new.epochs.end = third.epochs.end = end
    old.others, third.others = [new.site], [new.site]
    async with new.following():
        await new.holds("a", "b")
        async with old.following() as working:
            await _append(log, fence, "tail")
            await old.holds("a", "b", "tail")
            old.epochs.end = end  # now it hears that it was replaced by force
            async with asyncio.timeout(5):
                await working
        async with old.following(), third.following():
            await old.holds("a", "b")
            await third.holds("a", "b")
            (more,) = await _append(log, fence, "tail")
            assert more > end
            await asyncio.sleep(4 * PACE.look_every_s)  # time enough to apply it, or to begin once more
            assert await old.ids() == await third.ids() == await new.ids() == {"a", "b"}


async def test_a_fence_and_beats_beyond_an_end_are_no_tail_and_nothing_is_copied() -> None:
    clock = asyncio.get_running_loop().time
    log = MemoryLog(US, MemoryRegisters(), clock, shards=1)
    await log.start()
    fence = await log.open_epoch(INDEX, EPOCH, timeout_s=1)
    old = Place(US, log, clock)
    (end,) = await _append(log, fence, "a", "b")
    await log.open_epoch(INDEX, Epoch(EPOCH + 1), timeout_s=1)
    last = (await log.state(0, timeout_s=1)).last
    async with old.following() as working:
        await old.told(lambda progress: progress.received == last > end)
        old.epochs.end = end
        await old.told(lambda progress: f"{INDEX}#{EPOCH}" in progress.markers)
        assert not working.done()
        assert await old.ids() == {"a", "b"}


async def _append(log: MemoryLog, fence: Fence, *ids: str) -> list[int]:
    lsns = await log.append(fence, 0, [Append(A.stored, put(*ids))], timeout_s=1)
    return [lsn & ((1 << 40) - 1) for lsn in lsns]
