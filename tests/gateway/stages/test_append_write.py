"""Writes over three regions: what an answer promises, and what is said when nobody knows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import BadRequest, HomeUnavailable, WriteOutcomeUnknown
from regions import promotion
from regions.changes import Update, UpdateByFilter, Upsert, Write
from regions.logs.memory import Landing
from regions.positions import epoch_of
from regions.records import Record
from regions.topology import shard_of
from tests.fakes.regions import AP, DOCS, EU, SHARDS, US
from tests.gateway.stages.regional import NAMESPACE, Rig, context, rig, upsert


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        yield made


async def test_a_write_through_any_region_lands_in_the_homes_log(world: Rig) -> None:
    lsn = await world.acknowledged("a", at=AP)
    state = await world.world[US].log.state(shard_of(NAMESPACE, SHARDS), timeout_s=1)
    assert lsn == (1 << 40 | state.last)


async def test_a_large_change_is_cut_and_stored_whole(world: Rig) -> None:
    values = [0.5] * 20_000
    records = [Record(str(n), values) for n in range(60)]
    log, shard = world.world[US].log, shard_of(NAMESPACE, SHARDS)
    before = (await log.state(shard, timeout_s=1)).last
    world.world[US].pause()
    world.world[EU].pause()
    world.world[AP].pause()  # vectors of this length are not what the index holds
    written = await world[US].write(context(), Write(NAMESPACE, Upsert(records)))
    after = (await log.state(shard, timeout_s=1)).last
    assert after - before > 1
    assert written.lsn == (1 << 40 | after)


async def test_a_change_that_no_log_takes_is_the_callers(world: Rig) -> None:
    huge = Update("a", set_metadata={"text": "x" * 5_000_000})
    with pytest.raises(BadRequest, match="too large"):
        await world[US].write(context(), Write(NAMESPACE, huge))


async def test_a_write_after_a_promotion_goes_to_the_new_home_in_the_same_request(world: Rig) -> None:
    await world.acknowledged("before")
    outcome = await promotion.promote(world.world.places, DOCS, EU, drain_s=5, say=lambda _: None)
    assert (outcome.home.region, outcome.home.epoch) == (EU, 2)
    # The gateway in ap-southeast still holds the old fence, and may not have heard.
    lsn = await world.acknowledged("after", at=AP)
    assert epoch_of(lsn) == 2
    world.world[EU].log.go_down()
    with pytest.raises(HomeUnavailable):
        await world[US].write(context(), upsert("lost"))


async def test_an_old_home_refuses_appends_and_they_wait_for_the_new_one(world: Rig) -> None:
    await world.acknowledged("a")
    await world.world[US].log.open_epoch(DOCS, 2, timeout_s=1)  # type: ignore[arg-type] # half a promotion
    with pytest.raises(HomeUnavailable, match="on its way"):
        await world[US].write(context(left_s=1), upsert("b"))
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(world[EU].write(context(), upsert("c")))
        await promotion.promote(world.world.places, DOCS, EU, drain_s=5, say=lambda _: None)
        assert epoch_of((await writing).lsn or 0) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("landing", [Landing.NOW, Landing.NEVER])
async def test_an_append_of_unknown_outcome_is_never_called_written(world: Rig, landing: Landing) -> None:
    world.world[US].log.lose_next_ack(landing)
    with pytest.raises(WriteOutcomeUnknown) as caught:
        await world[US].write(context(), upsert("a"))
    assert not caught.value.retryable


async def test_a_home_that_is_down_takes_no_writes_while_reads_go_on(world: Rig) -> None:
    await world.acknowledged("a")
    await world.settle()
    world.world[US].log.go_down()
    world.world[US].registers.go_down()
    with pytest.raises(HomeUnavailable) as caught:
        await world[EU].write(context(), upsert("b"))
    assert caught.value.retry_after_s
    found, source = await world[EU].fetch(context(), "a", "b")
    assert (found, source.region) == ({"a"}, EU)


async def test_an_ack_waits_for_the_replica_it_names(world: Rig) -> None:
    written = await world[EU].write(context(ack="applied"), upsert("a"))
    assert written.acked == "applied"
    found, source = await world[EU].fetch(context(), "a")
    assert (found, source.region) == ({"a"}, EU)
    far = await world[EU].write(context(ack="region=ap-southeast"), upsert("b"))
    assert far.acked == "region=ap-southeast"


async def test_an_ack_that_does_not_come_in_time_says_that_the_write_is_durable(world: Rig) -> None:
    world.world[AP].pause()
    written = await world[US].write(context(left_s=0.5, ack="region=ap-southeast"), upsert("a"))
    assert (written.acked, written.lsn is not None) == ("durable", True)
    with pytest.raises(BadRequest, match="no replica"):
        await world[US].write(context(ack="region=nowhere"), upsert("b"))


async def test_an_update_by_filter_is_counted_where_it_can_be(world: Rig) -> None:
    lsn = await world.acknowledged("a", "b")
    change = Write(NAMESPACE, UpdateByFilter({"of": {"$eq": "a"}}, {"seen": True}))
    written = await world[EU].write(context(floor=lsn), change)
    assert written.matched == 1
    assert written.counted_at is not None
    assert written.counted_at >= lsn
    for region in (US, EU, AP):
        world.nodes[region].kill()
    assert (await world[EU].write(context(), change)).matched is None
