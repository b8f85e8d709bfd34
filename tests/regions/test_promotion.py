"""A home's first day, its move, and its replacement by force, over memory regions."""

import asyncio
from collections.abc import AsyncIterator
from itertools import product

import pytest

from regions import promotion
from regions.changes import Delete
from regions.errors import LogUnavailable, LsnSuperseded, StaleEpoch
from regions.fences import Fences
from regions.logs.base import Append, Entry
from regions.logs.memory import MemoryLog
from regions.names import IndexName, RegionId
from regions.positions import Epoch, Lsn, make_lsn
from regions.promotion import NotCaughtUp
from regions.replicas.base import Replica
from regions.topology import Home, Topology
from tests.fakes.regions import AP, DOCS, EU, SHARDS, US, World, running


class _Nothing:
    """A replica that takes every change and keeps none: what it holds is not what is tested here."""

    async def apply(self, *_: object, **__: object) -> None:
        return None


def nothing(_: RegionId) -> Replica:
    return _Nothing()  # type: ignore[return-value]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(nothing) as made:
        yield made


async def append(world: World, region: RegionId, epoch: int, *ids: str) -> list[Lsn]:
    log: MemoryLog = world[region].log
    fence = await log.open_epoch(DOCS, Epoch(epoch), timeout_s=1)
    return [*await log.append(fence, 0, [Append("ns", Delete([id_])) for id_ in ids], timeout_s=1)]


async def promote(world: World, to: RegionId, drain_s: float = 5.0) -> Home:
    said: list[str] = []
    outcome = await promotion.promote(world.places, DOCS, to, drain_s=drain_s, say=said.append)
    return outcome.home


async def tail(world: World, home: Home) -> list[Entry]:
    term = home.terms[0]
    entries = promotion.export_tail(world[RegionId(term.region)].log, home, term)
    return [entry async for entry in entries]


async def test_any_number_of_gateways_may_establish_a_home_at_once(world: World) -> None:
    homes = await asyncio.gather(*(promotion.establish(world.places, DOCS, US) for _ in range(5)))
    assert {(home.region, home.epoch) for home in homes} == {(US, 1)}
    again = await promotion.establish(world.places, DOCS, EU)  # the file says otherwise: it is too late
    assert again.region == US


async def test_a_home_is_established_while_another_region_is_away(world: World) -> None:
    world[AP].registers.go_down()
    world[AP].log.go_down()
    assert (await promotion.establish(world.places, DOCS, US)).region == US
    world[EU].registers.go_down()
    with pytest.raises(LogUnavailable):
        await promotion.establish(world.places, IndexName("other"), US)


async def test_a_planned_promotion_remembers_where_the_epoch_ended_and_closes_it(world: World) -> None:
    await promotion.establish(world.places, DOCS, US)
    (lsn,) = await append(world, US, 1, "a")
    home = await promote(world, EU)
    assert (home.region, home.epoch) == (EU, 2)
    assert home.needed(lsn, 0) == 0
    assert not home.terms[0].is_forced
    with pytest.raises(StaleEpoch):
        await append(world, US, 1, "b")
    await append(world, EU, 2, "b")


async def test_a_promotion_waits_for_the_new_home_and_changes_nothing_when_that_does_not_come(
    world: World,
) -> None:
    await promotion.establish(world.places, DOCS, US)
    world[EU].pause()
    await append(world, US, 1, "a")
    with pytest.raises(NotCaughtUp):
        await promote(world, EU, drain_s=0.2)
    await append(world, US, 1, "b")
    async with asyncio.TaskGroup() as group:
        moving = group.create_task(promote(world, EU))
        world[EU].resume()
        assert (await moving).region == EU


async def test_a_promotion_that_broke_off_after_the_fence_is_ended_by_the_next_to_any_region(
    world: World,
) -> None:
    await promotion.establish(world.places, DOCS, US)
    await world[US].log.open_epoch(DOCS, Epoch(2), timeout_s=1)
    home = await promote(world, US)
    assert (home.region, home.epoch) == (US, 2)
    await append(world, US, 2, "a")
    assert (await promote(world, US)).epoch == 2  # it is home already


async def test_a_home_moves_there_and_back(world: World) -> None:
    await promotion.establish(world.places, DOCS, US)
    for number, to in enumerate((EU, AP, US), start=2):
        home = await promote(world, to)
        assert (home.region, home.epoch) == (to, number)
        await append(world, to, number, f"r{number}")


async def test_what_an_old_home_never_shipped_is_exported_and_no_history(world: World) -> None:
    await promotion.establish(world.places, DOCS, US)
    (shipped,) = await append(world, US, 1, "shipped")
    await caught_up(world)
    world[EU].pause()
    lost = await append(world, US, 1, "lost", "too")
    last = (await world[US].log.state(0, timeout_s=1)).last
    live = world.live(EU)
    async with live.running():
        assert await live.until(
            lambda t: (p := t.progress.get((AP, US, 0))) is not None and p.received == last, 5
        )
    world[US].log.go_down()
    outcome = await promotion.force(world.places, DOCS, EU, drain_s=0.1, say=lambda _: None)
    assert (outcome.home.region, outcome.home.epoch) == (EU, 2)
    assert outcome.home.terms[0].is_forced
    assert outcome.lost == ["ap-southeast received 2 more entries of shard 0"]
    assert outcome.home.needed(shipped, 0) == 0

    world[US].log.come_up()
    await promotion.fence_off(world[US].log, outcome.home, US)
    with pytest.raises(StaleEpoch):
        await append(world, US, 1, "more")
    assert await promotion.tail_length(world[US].log, outcome.home, outcome.home.terms[0]) >= 2
    entries = await tail(world, outcome.home)
    assert [entry.lsn for entry in entries] == lost
    assert b'"lost"' in promotion.tail_line(entries[0])
    assert all(not outcome.home.is_history(US, 1, e.shard, e.sequence) for e in entries)


async def caught_up(world: World) -> None:
    """Wait until every region has what us-east has."""
    last = [(await world[US].log.state(shard, timeout_s=1)).last for shard in range(SHARDS)]

    def have(topology: Topology) -> bool:
        told = {key: topology.progress.get(key) for key in product((US, EU, AP), (US,), range(SHARDS))}
        return all(each is not None and each.received >= last[key[2]] for key, each in told.items())

    live = world.live(EU)
    async with live.running():
        assert await live.until(have, 5)


async def test_an_epoch_never_goes_on_in_a_stream_that_was_made_anew(world: World) -> None:
    await promotion.establish(world.places, DOCS, US)
    live = world.live(EU)
    async with live.running():
        assert await live.until(lambda t: DOCS in t.homes, 5)
        world[US].log.recreate(0)
        with pytest.raises(Exception, match="promote a region"):
            await Fences(live.logs, lambda: live.topology).fence(DOCS, timeout_s=1)
        home = (await promotion.force(world.places, DOCS, US, drain_s=0.1, say=lambda _: None)).home
        assert await live.until(lambda t: t.homes[DOCS].epoch == home.epoch, 5)
        fence, _ = await Fences(live.logs, lambda: live.topology).fence(DOCS, timeout_s=1)
        assert fence.epoch == 2


async def test_a_term_whose_stream_was_lost_vouches_for_none_of_its_positions(world: World) -> None:
    await promotion.establish(world.places, DOCS, US)
    (lsn,) = await append(world, US, 1, "a")
    await caught_up(world)
    world[US].log.recreate(0)
    await world.beat()
    home = await promote(world, US)  # to itself: the next epoch begins in the new stream
    assert (home.region, home.epoch, home.terms[0].lost) == (US, 2, [0])
    assert not home.terms[0].is_forced
    with pytest.raises(LsnSuperseded):
        home.needed(lsn, 0)
    with pytest.raises(StaleEpoch):
        await append(world, US, 1, "b")
    await append(world, US, 2, "b")


async def test_replaced_by_force_a_term_with_a_new_stream_vouches_for_the_shards_that_kept_theirs(
    world: World,
) -> None:
    await promotion.establish(world.places, DOCS, US)
    await caught_up(world)
    world[US].log.recreate(1)
    await world.beat()
    await caught_up(world)
    outcome = await promotion.force(world.places, DOCS, EU, drain_s=0.1, say=lambda _: None)
    term = outcome.home.terms[0]
    assert (term.is_forced, term.lost) == (True, [1])
    assert outcome.home.needed(make_lsn(Epoch(1), term.ends[0]), 0) == 0
    with pytest.raises(LsnSuperseded):
        outcome.home.needed(make_lsn(Epoch(1), term.ends[1]), 1)
