"""Three regions in this process: memory logs and registers, replicas of a test's choice, obedient followers.

A `Region`'s follower applies what the logs hold and tells how far it is, as the replicator does; it can be
told to stand still, so that a test decides how fresh a replica is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from regions.changes import DeleteByFilter, EpochOpened, Heartbeat, Resolved, UpdateByFilter
from regions.errors import LogError
from regions.live import Live, Place
from regions.logs.base import Entry
from regions.logs.memory import MemoryLog
from regions.names import IndexName, NamespaceRef, RegionId
from regions.registers.memory import MemoryRegisters
from regions.replicas.base import Replica
from regions.replicator.watermarks import Mark, Progress, encode, key_of, progress_key

US, EU, AP = RegionId("us-east"), RegionId("eu-west"), RegionId("ap-southeast")
ALL: Final = (US, EU, AP)
DOCS: Final = IndexName("docs")
SHARDS: Final = 2


class Clock:
    """A log server's clock, which a test can move."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s


@dataclass
class Region:
    """What one region has."""

    region: RegionId
    registers: MemoryRegisters
    log: MemoryLog
    replica: Replica
    may_apply: asyncio.Event = field(default_factory=asyncio.Event)
    progress: dict[tuple[RegionId, int], Progress] = field(default_factory=dict)
    markers: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        return Place(self.region, self.log, self.registers)

    def pause(self) -> None:
        """Apply nothing, and say nothing, until `resume`."""
        self.may_apply.clear()

    def resume(self) -> None:
        self.may_apply.set()

    async def tell(self, home: RegionId, shard: int, progress: Progress) -> None:
        self.progress[home, shard] = progress
        await self.registers.put(progress_key(home, shard), encode(progress), timeout_s=1)

    async def remember(self, home: RegionId, shard: int, markers: dict[str, str]) -> None:
        """Say by what the indexes are known here, from now on."""
        self.markers = markers
        await self.tell(home, shard, _with(self.progress[home, shard], markers=markers))

    async def park(self, home: RegionId, namespace: NamespaceRef, shard: int) -> None:
        """Say that a namespace stands still here."""
        told = self.progress[home, shard]
        mark = Mark(told.received, told.received, parked="refused")
        await self.tell(home, shard, _with(told, behind={key_of(namespace): mark}))

    async def follow(self, source: "Region", shard: int) -> None:
        """Apply a shard of another region's log, for ever; what is not ours to test is left out."""
        log, told = source.log, None
        while True:
            try:
                state = await log.state(shard, timeout_s=1)
                after = told.received if told is not None else state.origin - 1
                if told is None or told.incarnation != state.incarnation:
                    told = Progress(
                        "test", state.incarnation, state.origin - 1, epochs=told.epochs if told else {}
                    )
                    after = told.received
                async with aclosing(log.read(shard, after, state.incarnation)) as entries:
                    async for entry in entries:
                        await self.may_apply.wait()
                        await self._apply(entry)
                        epochs = dict(told.epochs)
                        if isinstance(entry.body, EpochOpened):
                            epochs[entry.index] = entry.epoch
                        told = _with(
                            told,
                            received=entry.sequence,
                            received_s=entry.appended_s,
                            epochs=epochs,
                            markers=self.markers,
                        )
                        await self.tell(source.region, shard, told)
            except LogError:
                await asyncio.sleep(0.01)

    async def _apply(self, entry: Entry) -> None:
        if isinstance(entry.body, EpochOpened | Heartbeat | Resolved | UpdateByFilter | DeleteByFilter):
            return
        await self.replica.apply(NamespaceRef(entry.index, entry.namespace), entry.body, timeout_s=5)


def _with(progress: Progress, **changes: Any) -> Progress:
    return msgspec.structs.replace(progress, **changes)


class World:
    """The regions, and a `Live` in one of them."""

    def __init__(self, regions: Sequence[Region], clock: Clock) -> None:
        self.clock = clock
        self.regions: Mapping[RegionId, Region] = {region.region: region for region in regions}

    def __getitem__(self, region: RegionId) -> Region:
        return self.regions[region]

    @property
    def places(self) -> list[Place]:
        return [region.place for region in self.regions.values()]

    def live(self, here: RegionId) -> Live:
        """What a gateway in that region knows; its own replica is the nearest, the others in order."""

        async def ask(_: float) -> None:
            return None

        loop_time = asyncio.get_running_loop().time
        return Live(
            here,
            self.places,
            {(DOCS, region): ask for region in self.regions},
            clock=loop_time,
            wall_clock=loop_time,
            skew_s=0.0,
        )

    async def beat(self) -> None:
        """A heartbeat in every shard of every log that answers."""
        for region in self.regions.values():
            for shard in range(SHARDS):
                try:
                    await region.log.beat(shard, timeout_s=1)
                except LogError:
                    break


@asynccontextmanager
async def running(
    make: Callable[[RegionId], Replica], names: Sequence[RegionId] = ALL
) -> AsyncIterator[World]:
    """Regions whose followers follow every log until the block ends."""
    clock = Clock()
    made = []
    for name in names:
        registers = MemoryRegisters()
        made.append(Region(name, registers, MemoryLog(name, registers, clock, shards=SHARDS), make(name)))
    async with asyncio.TaskGroup() as group:
        tasks = []
        for region in made:
            region.resume()
            for source in made:
                tasks += [group.create_task(region.follow(source, shard)) for shard in range(SHARDS)]
        try:
            yield World(made, clock)
        finally:
            for task in tasks:
                task.cancel()
