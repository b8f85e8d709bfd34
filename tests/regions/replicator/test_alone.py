"""A region without neighbours whose index lost everything: the log is what there is, while it is whole."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from regions.changes import Delete
from regions.logs.base import Append, Entry, Fence
from regions.logs.memory import MemoryLog
from regions.names import IndexName, RegionId
from regions.positions import Epoch
from regions.registers.memory import MemoryRegisters
from regions.replicas.memory import MemoryReplica
from regions.replicator import moves
from regions.replicator.driver import Cut, Driver, IndexWiped
from regions.replicator.follower import Pace
from regions.replicator.pacing import Pacer
from regions.replicator.snapshot import Route, Site
from regions.replicator.watermarks import Progress, decode, progress_key
from tests.regions.replicator.entries import EPOCH, INDEX, A, put

US = RegionId("us")
PACE = Pace(linger_s=0.01, call_timeout_s=1, apply_settle_s=0.1, save_every_s=0.01, look_every_s=0.05)


class Epochs:
    """One term, in the stream that is told."""

    def __init__(self, stream: str) -> None:
        self.stream = stream

    def is_history(self, home: RegionId, entry: Entry) -> bool:
        return True

    def cuts(self, home: RegionId, shard: int, indexes: Sequence[IndexName]) -> Sequence[Cut]:
        return ()

    def has_moved_on(self, home: RegionId, shard: int, index: IndexName) -> bool:
        return False

    def is_only_stream(self, home: RegionId, shard: int, indexes: Sequence[IndexName], stream: str) -> bool:
        return stream == self.stream

    async def ready(self, index: IndexName, epoch: Epoch) -> None:
        """At once."""

    async def fence(self, index: IndexName) -> Fence:
        raise AssertionError("nothing is resolved here")


class Region:
    """The only one."""

    def __init__(self, *, remembers_positions: bool) -> None:
        self.clock = asyncio.get_running_loop().time
        self.log = MemoryLog(US, MemoryRegisters(), self.clock, shards=1)
        self.replica = MemoryReplica(INDEX, self.clock, remembers_positions=remembers_positions)
        self.site = Site(US, MemoryRegisters(), {INDEX: self.replica})
        self.stream = ""

    async def write(self) -> None:
        """`a` and `b`, of which only `b` is left."""
        fence = await self.log.open_epoch(INDEX, EPOCH, timeout_s=1)
        batch = [Append(A.stored, put("a", "b")), Append(A.stored, Delete(["a"]))]
        await self.log.append(fence, 0, batch, timeout_s=1)
        self.stream = (await self.log.state(0, timeout_s=1)).incarnation

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._follow())
            yield
            task.cancel()

    async def _follow(self) -> None:
        while True:
            route = Route(US, 0, self.site, [], [INDEX])
            driver = Driver(
                route, self.log, Epochs(self.stream), {INDEX: Pacer(1_000)}, writer="one", pace=PACE
            )
            driver.feed(moves.Leased(self.clock() + 60))
            with suppress(IndexWiped):
                await driver.run()

    async def progress(self) -> Progress | None:
        register = await self.site.registers.get(progress_key(US, 0), timeout_s=1)
        return decode(register.value) if register is not None else None

    async def is_at_the_end(self) -> None:
        async with asyncio.timeout(5):
            while not (  # noqa: ASYNC110 - nobody sets an event for us
                (told := await self.progress()) is not None
                and told.received == (await self.log.state(0, timeout_s=1)).last
                and not told.is_resyncing
                and not told.behind
                and self.ids() == {"b"}
            ):
                await asyncio.sleep(0.01)

    async def is_resyncing(self) -> None:
        async with asyncio.timeout(5):
            while not ((told := await self.progress()) is not None and told.is_resyncing):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def ids(self) -> set[str]:
        return set(self.replica.contents(A.stored))


@pytest.mark.parametrize("remembers_positions", [True, False], ids=["node", "pinecone"])
async def test_a_wiped_index_without_another_replica_is_rebuilt_from_a_whole_log(
    remembers_positions: bool,
) -> None:
    region = Region(remembers_positions=remembers_positions)
    await region.write()
    async with region.following():
        await region.is_at_the_end()
        region.replica.wipe()
        assert region.ids() == set()
        await region.is_at_the_end()
        assert region.ids() == {"b"}


@pytest.mark.parametrize("what", ["trimmed", "another stream"])
async def test_it_is_not_read_when_the_log_does_not_hold_all_that_ever_was(what: str) -> None:
    region = Region(remembers_positions=True)
    await region.write()
    async with region.following():
        await region.is_at_the_end()
        if what == "trimmed":
            region.log.trim_before(0, (await region.log.state(0, timeout_s=1)).first + 1)
        else:
            region.stream = "the one in which the first term began"
        region.replica.wipe()
        await region.is_resyncing()
        await asyncio.sleep(4 * PACE.look_every_s)  # time enough to do the wrong thing
        await region.is_resyncing()
        assert region.ids() == set()
