"""Reads over three regions: nobody below a floor, nobody beyond a bound, somebody whenever there is one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import BadRequest, HomeUnavailable, ReplicaBehind, RetrievalUnavailable, Superseded
from gateway.stages import nearest_read
from regions import promotion
from regions.errors import LogUnavailable
from regions.names import RegionId
from regions.positions import NO_LSN, Lsn
from regions.topology import shard_of
from tests.fakes.regions import AP, DOCS, EU, SHARDS, US
from tests.gateway.stages.regional import NAMESPACE, Rig, context, rig, upsert


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


async def test_the_nearest_replica_answers_and_says_how_fresh_it_is(world: Rig) -> None:
    lsn = await world.acknowledged("a")
    await world.settle()
    for region in (US, EU, AP):
        found, source = await world[region].fetch(context(), "a")
        assert (found, source.region, source.is_stale) == ({"a"}, region, False)
        assert source.lsn is not None
        assert source.lsn >= lsn
        assert source.staleness_s is not None
        assert source.staleness_s < 5


async def test_a_write_is_read_at_once_in_another_region_with_its_floor(world: Rig) -> None:
    for number in range(20):
        lsn = await world.acknowledged(f"r{number}", at=EU)
        found, source = await world[AP].fetch(context(floor=lsn), f"r{number}")
        assert found == {f"r{number}"}
        assert source.lsn is not None
        assert source.lsn >= lsn


async def test_a_floor_that_only_the_home_has_is_read_there(world: Rig) -> None:
    world.world[AP].pause()
    world.world[EU].pause()
    lsn = await world.acknowledged("a")
    found, source = await world[AP].fetch(context(floor=lsn), "a")
    assert (found, source.region) == ({"a"}, US)
    world.world[AP].resume()
    world.world[EU].resume()


async def test_nothing_is_read_below_a_floor_also_not_where_stale_is_served(world: Rig) -> None:
    for region in (US, EU, AP):
        world.world[region].pause()
    lsn = await world.acknowledged("a")
    with pytest.raises(ReplicaBehind, match="no replica has come") as caught:
        await world[AP].fetch(context(floor=lsn, serve_stale=True), "a")
    assert caught.value.retry_after_s
    for region in (US, EU, AP):
        world.world[region].resume()


async def test_a_reader_with_a_bound_waits_for_a_heartbeat_rather_than_read_what_is_older(world: Rig) -> None:
    with pytest.raises(ReplicaBehind, match="s old"):  # after waiting for 0.3 s
        await world[EU].fetch(context(max_staleness_s=1e-6), "a")
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(world[EU].fetch(context(max_staleness_s=0.25), "a"))
        await world.world.beat()
        _, source = await reading
    assert source.staleness_s is not None
    assert source.staleness_s <= 0.25


async def test_beyond_the_bound_a_tenant_may_choose_to_read_all_the_same(world: Rig) -> None:
    await world.acknowledged("a")
    await world.settle()
    world.world[US].log.go_down()
    world.world[US].registers.go_down()
    ctx = context(max_staleness_s=0.001)
    with pytest.raises(ReplicaBehind):
        await world[EU].fetch(ctx, "a")
    found, source = await world[EU].fetch(context(max_staleness_s=0.001, serve_stale=True), "a")
    assert (found, source.is_stale) == ({"a"}, True)
    assert source.staleness_s is not None
    assert source.staleness_s > 0.001


async def test_a_replica_killed_under_load_costs_no_read(world: Rig) -> None:
    await world.acknowledged("a")
    await world.settle()
    answered: list[RegionId] = []
    killed: list[RegionId] = []

    async def reader() -> None:
        for _ in range(100):
            found, source = await world[EU].fetch(context(), "a")
            assert found == {"a"}
            answered.append(source.region)
            if len(answered) == 200:  # whichever it is: on one machine they are equally near
                killed.append(source.region)
                world.nodes[source.region].kill()

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(reader())
    assert len(answered) == 1_000
    (dead,) = killed
    assert dead not in answered[-100:]


async def test_when_no_replica_answers_that_is_said(world: Rig) -> None:
    for region in (US, EU, AP):
        world.nodes[region].kill()
    with pytest.raises(RetrievalUnavailable) as caught:
        await world[EU].fetch(context(), "a")
    assert not isinstance(caught.value, ReplicaBehind)


async def test_a_parked_namespace_is_read_elsewhere(world: Rig) -> None:
    await world.acknowledged("a")
    await world.settle()
    await world.world[EU].park(US, NAMESPACE, shard_of(NAMESPACE, SHARDS))
    assert await world[EU].live.until(lambda t: not t.standing(NAMESPACE, EU, 0).is_readable, 5)
    assert (await world[EU].fetch(context(), "a"))[1].region == US


async def test_an_index_that_is_gone_is_one_that_does_not_answer(world: Rig) -> None:
    lsn = await world.acknowledged("a")
    await world.settle()
    await world.lose_index(EU)
    found, source = await world[EU].fetch(context(floor=lsn), "a")
    assert (found, source.region) == ({"a"}, US)


async def test_an_index_that_was_made_anew_is_not_read_before_its_follower_has_filled_it(world: Rig) -> None:
    lsn = await world.acknowledged("a")
    await world.settle()
    await world.mark(EU)
    assert (await world[EU].fetch(context(floor=lsn), "a"))[1].region == EU
    await world.lose_index(EU)
    await world.remake_index(EU)
    for floor in (lsn, NO_LSN):  # empty, it would answer the one falsely and the other too early
        found, source = await world[EU].fetch(context(floor=floor), "a")
        assert (found, source.region) == ({"a"}, US)
    await world.mark(EU)
    assert (await world[EU].fetch(context(), "a"))[1].region == EU


async def test_a_stream_made_anew_satisfies_no_floor_until_the_next_epoch_supersedes_it(world: Rig) -> None:
    lsn = await world.acknowledged("a")
    await world.settle()
    shard = shard_of(NAMESPACE, SHARDS)
    world.world[US].log.recreate(shard)
    await world.world.beat()
    await world.settle()
    assert (await world[EU].fetch(context(), "a"))[0] == {"a"}
    with pytest.raises(ReplicaBehind):
        await world[EU].fetch(context(floor=lsn), "a")
    with pytest.raises(HomeUnavailable):
        await world[EU].write(context(), upsert("b"))
    home = (await promotion.promote(world.world.places, DOCS, US, drain_s=5, say=lambda _: None)).home
    assert (home.epoch, home.terms[0].lost) == (2, [shard])
    assert await world[EU].live.until(lambda t: t.homes[DOCS].epoch == 2, 5)
    with pytest.raises(Superseded):
        await world[EU].fetch(context(floor=lsn), "a")
    assert (await world[EU].write(context(ack="applied"), upsert("b"))).acked == "applied"
    assert (await world[EU].fetch(context(), "a", "b"))[0] == {"a", "b"}


async def test_a_floor_beyond_a_forced_end_is_superseded_never_satisfied(world: Rig) -> None:
    shipped = await world.acknowledged("shipped")
    await world.settle()
    for region in (EU, AP):
        world.world[region].pause()
    lost = await world.acknowledged("lost")
    world.world[US].log.go_down()
    outcome = await promotion.force(world.world.places, DOCS, EU, drain_s=0.1, say=lambda _: None)
    assert outcome.home.region == EU
    for region in (EU, AP):
        world.world[region].resume()
    await world.world.beat()
    with pytest.raises(Superseded) as caught:
        await world[AP].fetch(context(floor=lost), "lost")
    assert caught.value.code == "lsn_superseded"
    found, _ = await world[AP].fetch(context(floor=shipped), "shipped")
    assert found == {"shipped"}


async def test_a_floor_of_an_epoch_that_nobody_opened_is_superseded_too(world: Rig) -> None:
    with pytest.raises(Superseded):
        await world[EU].fetch(context(floor=Lsn(9 << 40 | 1)), "a")
    for region in (US, AP):
        world.world[region].registers.go_down()
    with pytest.raises(LogUnavailable):
        await world[EU].live.refresh(DOCS)
    with pytest.raises(ReplicaBehind):  # too few regions can be asked: perhaps there is such an epoch
        await world[EU].fetch(context(floor=Lsn(9 << 40 | 1)), "a")


async def test_the_whole_index_is_read_from_whoever_is_fresh_and_has_no_floor(world: Rig) -> None:
    await world.acknowledged("a")
    await world.settle()
    read = nearest_read.list_namespaces(DOCS, prefix="", limit=10, token=None, prefer=AP)
    served = await world[EU].read(context(), read)
    assert served.region == AP
    assert [info.stored for info in served.value.namespaces] == [NAMESPACE.stored]
    with pytest.raises(BadRequest, match="one namespace"):
        await world[EU].read(context(floor=Lsn(1)), read)


async def test_a_gateway_learns_of_a_promotion_from_what_it_watches(world: Rig) -> None:
    await promotion.promote(world.world.places, DOCS, AP, drain_s=5, say=lambda _: None)
    assert await world[EU].live.until(lambda t: t.homes[DOCS].region == AP, 5)
    written = await world[EU].write(context(ack="applied"), upsert("a"))
    assert written.acked == "applied"
