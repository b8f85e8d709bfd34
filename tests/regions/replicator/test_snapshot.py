"""Whom a follower copies from, and whom it must not: nothing is taken away because of who lost everything."""

import asyncio

import pytest

from regions.changes import Change, Delete, Upsert
from regions.errors import ReplicaAhead
from regions.logs.memory import MemoryLog
from regions.names import NamespaceRef, RegionId
from regions.positions import Epoch, Lsn, make_lsn
from regions.records import Record
from regions.registers.memory import MemoryRegisters
from regions.replicas.memory import MemoryReplica
from regions.replicator import moves
from regions.replicator.snapshot import Route, Site, Snapshots
from regions.replicator.watermarks import Progress, encode, progress_key
from tests.regions.replicator.entries import INDEX, A

US, EU, AP = RegionId("us"), RegionId("eu"), RegionId("ap")
OLD = "a stream that is no more"


class World:
    """A home in `us` and a site in every region; the follower at hand is that of `us`."""

    def __init__(self) -> None:
        clock = asyncio.get_running_loop().time
        self.log = MemoryLog(US, MemoryRegisters(), clock, shards=1)
        self.replicas = {region: MemoryReplica(INDEX, clock) for region in (US, EU, AP)}
        self.sites = {
            region: Site(region, MemoryRegisters(), {INDEX: replica})
            for region, replica in self.replicas.items()
        }
        others = [self.sites[EU], self.sites[AP]]
        self.snapshots = Snapshots(Route(US, 0, self.sites[US], others, [INDEX]), self.log)

    async def tell(self, region: RegionId, incarnation: str, received: int, **more: object) -> None:
        progress = Progress("other", incarnation, received, **more)  # type: ignore[arg-type]
        await self.sites[region].registers.put(progress_key(US, 0), encode(progress), timeout_s=1)

    async def fill(self, region: RegionId, *ids: str, position: Lsn | None = None) -> None:
        records = [Record(id_, values=[1.0, 0.0]) for id_ in ids]
        await self.replicas[region].apply(A, Upsert(records), timeout_s=1, position=position)

    def holds(self, region: RegionId) -> set[str]:
        return set(self.replicas[region].contents(A.stored))

    async def write(self, namespace: NamespaceRef, change: Change, position: Lsn) -> Lsn | None:
        return (await self.replicas[US].apply(namespace, change, timeout_s=1, position=position)).lsn

    async def survey(self, mine: Progress) -> moves.Surveyed | moves.Adopted | moves.Alone | None:
        """What a survey comes to; None when it goes on waiting."""
        shard = await self.log.state(0, timeout_s=1)
        effect = moves.Survey(shard, mine, shard.origin - 1, None)
        try:
            async with asyncio.timeout(0.05):
                return await self.snapshots.survey(effect)
        except TimeoutError:
            return None


NOTHING = Progress("me", "", 0, is_resyncing=True)


async def test_the_first_followers_of_all_begin_together() -> None:
    world = World()
    assert await world.survey(NOTHING) == moves.Adopted()
    await world.tell(EU, "", 0, is_resyncing=True)
    assert await world.survey(NOTHING) == moves.Adopted()


async def test_who_begins_reads_the_only_stream_there_ever_was_from_its_origin() -> None:
    world = World()
    state = await world.log.state(0, timeout_s=1)
    await world.tell(EU, state.incarnation, state.last, is_first=True, is_resyncing=True)  # it was wiped
    assert await world.survey(NOTHING) == moves.Adopted()
    await world.tell(AP, state.incarnation, state.last)  # there was another one
    assert isinstance(await world.survey(NOTHING), moves.Surveyed)
    await world.tell(AP, OLD, 70, is_first=True, is_resyncing=True)
    assert await world.survey(NOTHING) is None


async def test_who_lost_everything_never_becomes_the_source_of_those_who_have_something() -> None:
    world = World()
    await world.tell(EU, OLD, 70)
    await world.tell(AP, OLD, 71)
    assert await world.survey(NOTHING) is None  # until one of them goes on in the new stream
    state = await world.log.state(0, timeout_s=1)
    await world.tell(AP, state.incarnation, state.origin - 1)
    surveyed = await world.survey(NOTHING)
    assert isinstance(surveyed, moves.Surveyed)
    assert surveyed.source.incarnation == state.incarnation


async def test_the_most_advanced_goes_on_in_a_new_stream_whatever_those_say_who_lost_everything() -> None:
    world = World()
    await world.tell(EU, "", 0, is_resyncing=True)
    await world.tell(AP, OLD, 70)
    assert await world.survey(Progress("me", OLD, 71, is_resyncing=True)) == moves.Adopted()
    assert await world.survey(Progress("me", OLD, 69, is_resyncing=True)) is None


async def _copy(world: World, position: Lsn) -> moves.Copied | moves.CopyFailed:
    return await world.snapshots.copy(moves.Copy(A, 0, position), world.write)


async def test_an_index_that_was_emptied_and_not_noticed_is_no_source() -> None:
    world = World()
    await world.fill(US, "a", "b")
    await world.fill(EU, "a", "c")
    state = await world.log.state(0, timeout_s=1)
    told = world.replicas[EU].incarnation
    assert told is not None
    await world.tell(EU, state.incarnation, state.last, markers={INDEX: told})
    assert isinstance(await _copy(world, Lsn(1)), moves.Copied)
    assert world.holds(US) == {"a", "c"}
    world.replicas[EU].wipe()
    assert await _copy(world, Lsn(1)) == moves.CopyFailed(A)
    assert world.holds(US) == {"a", "c"}


async def test_positions_of_a_lost_stream_that_are_beyond_the_new_one_are_written_over() -> None:
    world = World()
    beyond = make_lsn(Epoch(1), 9_000_000)
    await world.fill(US, "old", position=beyond)
    await world.fill(EU, "a")
    state = await world.log.state(0, timeout_s=1)
    assert state.last < 9_000_000
    await world.tell(EU, state.incarnation, state.last)
    assert isinstance(await _copy(world, make_lsn(Epoch(1), 5)), moves.Copied)
    assert world.holds(US) == {"a"}
    with pytest.raises(ReplicaAhead) as caught:
        await world.write(A, Delete(["a"]), Lsn(beyond - 1))
    assert caught.value.position == beyond
