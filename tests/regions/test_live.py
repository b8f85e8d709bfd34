"""What a process knows of the regions, and what it forgets when they go: nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from regions import promotion
from regions.errors import LogUnavailable
from regions.names import NamespaceRef
from regions.replicator.canary import Canary, canary_key, encode_canary
from regions.replicator.watermarks import Progress, encode, progress_key
from regions.status import namespace_lines, parked, summary
from regions.topology import shard_of
from tests.fakes.regions import AP, DOCS, EU, SHARDS, US, World, running
from tests.regions.test_promotion import nothing

NAMESPACE = NamespaceRef(DOCS, "tenant0000000001.a")
SHARD = shard_of(NAMESPACE, SHARDS)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(nothing) as made:
        await promotion.establish(made.places, DOCS, US)
        yield made


async def test_a_region_that_is_down_costs_only_what_it_would_have_told(world: World) -> None:
    world[AP].registers.go_down()
    world[AP].log.go_down()
    live = world.live(EU)
    async with live.running():
        assert await live.until(lambda t: DOCS in t.homes and set(t.logs_s) == {US, EU}, 5)
        world[AP].registers.come_up()
        world[AP].log.come_up()
        assert await live.until(lambda t: AP in t.logs_s and (AP, US, SHARD) in t.progress, 5)


async def test_what_was_known_of_a_lost_region_stays(world: World) -> None:
    live = world.live(EU)
    async with live.running():
        assert await live.until(lambda t: (US, US, SHARD) in t.progress and DOCS in t.homes, 5)
        for region in (US, AP):
            world[region].registers.go_down()
            world[region].log.go_down()
        with pytest.raises(LogUnavailable):
            await live.refresh(DOCS)
        with pytest.raises(LogUnavailable):
            await live.refresh_progress(US, NAMESPACE, 1)
        assert live.topology.homes[DOCS].region == US
        assert (US, US, SHARD) in live.topology.progress


async def test_what_a_newer_program_wrote_is_passed_over(world: World) -> None:
    live = world.live(EU)
    async with live.running():
        await world[EU].registers.put("homes.docs", b'{"of": "another version"}', timeout_s=1)
        await world[EU].registers.put("progress.us-east.0", b"[]", timeout_s=1)
        await world[EU].registers.put("progress.mars", b"{}", timeout_s=1)
        await world[EU].registers.put("canary.docs", b'["of another version"]', timeout_s=1)
        assert await live.until(lambda t: DOCS in t.homes, 5)  # the other two agree


async def test_a_late_watch_never_undoes_what_was_asked_for_directly(world: World) -> None:
    world[EU].pause()
    live = world.live(US)
    async with live.running():
        assert await live.until(lambda t: DOCS in t.homes and (EU, US, SHARD) in t.progress, 5)
        old = live.topology.progress[EU, US, SHARD]
        register = await world[EU].registers.get(progress_key(US, SHARD), timeout_s=1)
        assert register is not None
        newer = encode(Progress("test", "i", old.received + 5))
        await world[EU].registers.put(register.key, newer, timeout_s=1)
        await live.refresh_progress(EU, NAMESPACE, 1)
        live._note(EU, register)
        assert live.topology.progress[EU, US, SHARD].received == old.received + 5


async def test_the_clock_of_a_log_server_is_what_ages_are_judged_by(world: World) -> None:
    world.clock.ahead_s = 1_000.0
    live = world.live(EU)
    async with live.running():
        await world.beat()
        assert await live.until(lambda t: DOCS in t.homes and len(t.logs_s) == 3, 5)
        assert abs(live.topology.clock_s[US] - 1_000.0) < 1

        def is_fresh(_: object) -> bool:
            standing = live.topology.standing(NAMESPACE, EU, asyncio.get_running_loop().time())
            return standing.is_readable and standing.staleness_s < 5

        assert await live.until(is_fresh, 5)


async def test_the_status_names_homes_lags_and_what_is_parked(world: World) -> None:
    await world.beat()
    live = world.live(EU)
    async with live.running():
        now_s = asyncio.get_running_loop().time
        assert await live.until(
            lambda t: (
                len(t.logs_s) == 3
                and all(s.is_readable for s in t.index_standings(DOCS, now_s()))
                and DOCS in t.homes
            ),
            5,
        )
        await world[AP].park(US, NAMESPACE, SHARD)
        assert await live.until(lambda t: bool(parked(t, DOCS, AP)), 5)
        facts = summary(live.topology, now_s())
        assert facts["homes"] == {DOCS: {"region": US, "epoch": 1}}
        assert {place["log"] for place in facts["regions"].values()} == {"up"}
        assert facts["replicas"][DOCS][AP]["parked"] == {NAMESPACE.stored: "refused"}
        assert facts["replicas"][DOCS][EU]["queryable_lag_s"] < 5
        lines = namespace_lines(live.topology, NAMESPACE, now_s())
        assert lines[AP]["state"] == "parked: refused"
        assert lines[US]["lsn"] >> 40 == 1


async def test_what_canaries_tell_is_known_of_every_region_and_can_be_asked_for(world: World) -> None:
    await world[AP].registers.put(canary_key(DOCS), encode_canary(Canary(0.25)), timeout_s=1)
    live = world.live(EU)
    await live.refresh_canaries()  # before anything is watched
    assert live.topology.canaries == {(DOCS, AP): Canary(0.25)}
    async with live.running():
        await world[US].registers.put(canary_key(DOCS), encode_canary(Canary(0.5)), timeout_s=1)
        assert await live.until(lambda t: t.canaries.get((DOCS, US)) == Canary(0.5), 5)
        world[AP].registers.go_down()
        await live.refresh_canaries()
        assert live.topology.canaries[DOCS, AP] == Canary(0.25)  # what was known stays
