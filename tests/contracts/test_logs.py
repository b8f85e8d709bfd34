"""What every kind of change log must do: one suite, run for each file in `regions/logs/`.

A new kind adds its line to `RIGS`; a kind without one fails the first test.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from uuid import uuid4

import pytest

from regions import logs
from regions.changes import Delete, DeleteAll, EpochOpened, Heartbeat, Upsert
from regions.errors import LogRecreated, LogTrimmed, LogUnavailable, StaleEpoch
from regions.logs.base import MAX_BATCH_CHANGES, Append, Entry, Fence, Log
from regions.names import IndexName
from regions.positions import Epoch, make_lsn, sequence_of
from regions.records import Record
from regions.retention import Retention
from regions.runtime import plugins
from tests.contracts.nats_process import NatsProcess
from tests.contracts.rigs import SHARDS, SMALL, JetStreamRig, LogRig, MemoryRig, take
from tests.regions.strategies import listed

T = 10.0
DOCS, NEWS = IndexName("docs"), IndexName("news")
KEEP_ALL = SMALL


@pytest.fixture(scope="module")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the module: each test has streams of its own."""
    server = NatsProcess(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server.url
    server.kill()


@asynccontextmanager
async def memory_rig(_: pytest.FixtureRequest) -> AsyncIterator[LogRig]:
    yield MemoryRig()


@asynccontextmanager
async def jetstream_rig(request: pytest.FixtureRequest) -> AsyncIterator[LogRig]:
    async with JetStreamRig.open(request.getfixturevalue("nats_url"), uuid4().hex) as rig:
        yield rig


RIGS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[LogRig]]] = {
    "memory": memory_rig,
    "jetstream": jetstream_rig,
}


@pytest.fixture(params=sorted(RIGS))
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[LogRig]:
    async with RIGS[request.param](request) as made:
        yield made


@pytest.fixture
def log(rig: LogRig) -> Log:
    return rig.log


def test_every_kind_is_tested_here() -> None:
    assert plugins.kinds(logs) == sorted(RIGS)


def change(text: str, namespace: str = "t1.a") -> Append:
    return Append(namespace, Delete([text]))


async def append(log: Log, fence: Fence, *ids: str, shard: int = 0) -> list[int]:
    lsns = await log.append(fence, shard, [change(each) for each in ids], timeout_s=T)
    return [sequence_of(lsn) for lsn in lsns]


async def origin(log: Log, shard: int = 0) -> int:
    return (await log.state(shard, timeout_s=T)).origin


async def test_an_empty_shard_ends_before_its_origin(log: Log) -> None:
    state = await log.state(0, timeout_s=T)
    assert (state.first, state.last) == (state.origin, state.origin - 1)


async def test_appended_changes_are_read_in_order_with_all_that_was_said(log: Log) -> None:
    fence = await log.open_epoch(DOCS, Epoch(3), timeout_s=T)
    upsert = Append("t1.a", Upsert([Record("a", [0.5, 1.0], None, {"n": 1})]))
    lsns = await log.append(fence, 0, [upsert, Append("t1.b", DeleteAll())], timeout_s=T)
    begin = await origin(log)
    assert list(lsns) == [make_lsn(Epoch(3), begin + 1), make_lsn(Epoch(3), begin + 2)]
    opened, first, second = await take(log, 0, begin - 1, 3)
    assert (opened.index, opened.epoch, opened.body) == (DOCS, 3, EpochOpened())
    assert (first.index, first.namespace, listed(first.body), first.lsn) == (
        DOCS,
        "t1.a",
        upsert.body,
        lsns[0],
    )
    assert (second.namespace, second.body, second.sequence) == ("t1.b", DeleteAll(), begin + 2)
    assert opened.appended_s <= first.appended_s <= second.appended_s


async def test_shards_have_sequences_of_their_own(log: Log) -> None:
    fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    zero, one = await append(log, fence, "a", shard=0), await append(log, fence, "b", shard=1)
    assert zero == [await origin(log, 0) + 1]
    assert one == [await origin(log, 1) + 1]
    assert await origin(log, 0) != await origin(log, 1)


async def test_concurrent_appends_all_stand_once_each_batch_together(log: Log) -> None:
    fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(append(log, fence, f"{n}a", f"{n}b")) for n in range(60)]
    entries = await take(log, 0, await origin(log), 120)
    at = {entry.sequence: listed(entry.body) for entry in entries}
    for n, task in enumerate(made):
        first, second = task.result()
        assert second == first + 1
        assert (at[first], at[second]) == (Delete([f"{n}a"]), Delete([f"{n}b"]))
    assert (await log.state(0, timeout_s=T)).last == await origin(log) + 120


async def test_indexes_share_a_shard_but_not_an_epoch(log: Log) -> None:
    docs = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    news = await log.open_epoch(NEWS, Epoch(7), timeout_s=T)
    async with asyncio.TaskGroup() as tasks:
        for n in range(10):
            tasks.create_task(append(log, docs, f"d{n}"))
            tasks.create_task(append(log, news, f"n{n}"))
    entries = await take(log, 0, await origin(log) + 1, 20)
    assert {(e.index, e.epoch, e.body.ids[0][0]) for e in entries if isinstance(e.body, Delete)} == {
        (DOCS, 1, "d"),
        (NEWS, 7, "n"),
    }


async def test_opening_an_epoch_again_gives_the_same_fence(log: Log) -> None:
    fence = await log.open_epoch(DOCS, Epoch(2), timeout_s=T)
    await append(log, fence, "a")
    assert await log.open_epoch(DOCS, Epoch(2), timeout_s=T) == fence
    assert await append(log, fence, "b") == [await origin(log) + 2]


async def test_an_old_epoch_is_refused_from_every_client(rig: LogRig) -> None:
    old = await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    await append(rig.log, old, "a")
    async with rig.client(KEEP_ALL) as other:
        new = await other.open_epoch(DOCS, Epoch(2), timeout_s=T)
        for shard in range(SHARDS):
            with pytest.raises(StaleEpoch):
                await append(rig.log, old, "b", shard=shard)
        with pytest.raises(StaleEpoch):
            await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        assert await append(other, new, "c") == [await origin(rig.log) + 3]


async def append_until_stale(log: Log, fence: Fence, name: str) -> int:
    """How many appends were acknowledged before the epoch was fenced off."""
    count = 0
    while True:
        try:
            await append(log, fence, f"{name}-{count}")
        except StaleEpoch:
            return count
        count += 1


async def test_no_append_of_an_epoch_stands_after_the_next_one_began(rig: LogRig) -> None:
    old = await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    async with rig.client(KEEP_ALL) as other:
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(append_until_stale(rig.log, old, f"w{n}")) for n in range(20)]
            await append(other, old, "somewhere in between")
            new = await other.open_epoch(DOCS, Epoch(2), timeout_s=T)
        (last,) = await append(other, new, "new")
        begin = await origin(rig.log)
        entries = await take(rig.log, 0, begin - 1, last - begin + 1)
        (end, *_) = await other.epoch_ends(DOCS, Epoch(1), timeout_s=T)
    assert [e.sequence for e in entries if e.epoch == 2] == [new.tokens[0], last]
    assert all(e.sequence <= end == new.tokens[0] - 1 for e in entries if e.epoch == 1)
    assert sum(e.epoch == 1 for e in entries) == 2 + sum(task.result() for task in made)


async def test_the_current_epoch_is_stored_although_a_stale_one_came_with_it(log: Log) -> None:
    old = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    new = await log.open_epoch(DOCS, Epoch(2), timeout_s=T)
    news = await log.open_epoch(NEWS, Epoch(1), timeout_s=T)
    outcomes = await asyncio.gather(
        *(append(log, fence, f"{n}") for n in range(5) for fence in (new, old, news)), return_exceptions=True
    )
    stale = [outcome for outcome in outcomes if isinstance(outcome, StaleEpoch)]
    assert len(stale) == 5
    assert sum(isinstance(outcome, list) for outcome in outcomes) == 10


async def test_an_epoch_ends_before_the_next_one_begins(log: Log) -> None:
    assert list(await log.epoch_ends(DOCS, Epoch(1), timeout_s=T)) == [0, 0]
    first = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    (last,) = await append(log, first, "a")
    assert list(await log.epoch_ends(DOCS, Epoch(1), timeout_s=T)) == [last, await origin(log, 1)]
    second = await log.open_epoch(DOCS, Epoch(4), timeout_s=T)
    (newest,) = await append(log, second, "b")
    assert list(await log.epoch_ends(DOCS, Epoch(1), timeout_s=T)) == [last, await origin(log, 1)]
    assert list(await log.epoch_ends(DOCS, Epoch(4), timeout_s=T)) == [newest, await origin(log, 1) + 1]
    assert list(await log.epoch_ends(DOCS, Epoch(3), timeout_s=T)) == [0, 0]


async def test_a_reader_waits_for_what_comes(log: Log) -> None:
    fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    begin, state = await origin(log), await log.state(0, timeout_s=T)
    async with asyncio.timeout(T), aclosing(log.read(0, begin, state.incarnation)) as entries:
        for n in range(3):
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(_next(entries))
                tasks.create_task(append(log, fence, f"{n}"))
            assert (waiting.result().body, waiting.result().sequence) == (Delete([f"{n}"]), begin + n + 1)


async def _next(entries: AsyncIterator[Entry]) -> Entry:
    return await anext(entries)


async def test_a_heartbeat_is_an_entry_of_no_index(log: Log) -> None:
    fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    sequence = await log.beat(0, timeout_s=T)
    await append(log, fence, "a")
    (beat,) = await take(log, 0, sequence - 1, 1)
    assert (beat.index, beat.namespace, beat.epoch, beat.body) == ("", "", 0, Heartbeat())
    assert beat.sequence == sequence == await origin(log) + 1


async def test_the_age_of_an_entry_is_judged_by_the_servers_clock(rig: LogRig) -> None:
    sequence = await rig.log.beat(0, timeout_s=T)
    await rig.pass_time(0.2)
    (beat,) = await take(rig.log, 0, sequence - 1, 1)
    state = await rig.log.state(0, timeout_s=T)
    assert 0.2 <= state.now_s - beat.appended_s < T


@pytest.mark.parametrize(
    "batch",
    [
        [],
        [change("a")] * (MAX_BATCH_CHANGES + 1),
        [Append("t1.a", Delete(["x" * 4_000_001]))],
        [Append("t1.a", Delete(["x" * 3_900_000]))] * 5,
    ],
    ids=["empty", "too many", "too large a change", "too large a batch"],
)
async def test_a_batch_that_no_log_takes_is_refused(log: Log, batch: list[Append]) -> None:
    fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    with pytest.raises(ValueError, match="batch"):
        await log.append(fence, 0, batch, timeout_s=T)
    assert (await log.state(0, timeout_s=T)).last == await origin(log)


async def test_the_largest_batches_are_stored_whole(log: Log) -> None:
    fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    many = await append(log, fence, *map(str, range(MAX_BATCH_CHANGES)))
    assert many == list(range(many[0], many[0] + MAX_BATCH_CHANGES))
    large = [Append("t1.a", Delete(["x" * 3_900_000]))] * 4
    lsns = await log.append(fence, 0, large, timeout_s=T)
    entries = await take(log, 0, sequence_of(lsns[0]) - 1, 4)
    assert [listed(entry.body) for entry in entries] == [each.body for each in large]


async def test_a_trimmed_cursor_is_told_what_is_left(rig: LogRig) -> None:
    fence = await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    sequences = await append(rig.log, fence, *"abcdef")
    await rig.purge_before(0, sequences[3])
    with pytest.raises(LogTrimmed) as caught:
        await take(rig.log, 0, sequences[0], 1)
    assert (caught.value.after, caught.value.first) == (sequences[0], sequences[3])
    assert [e.body for e in await take(rig.log, 0, sequences[2], 3)] == [Delete([c]) for c in "def"]


async def test_a_recreated_stream_is_noticed_from_its_name(rig: LogRig) -> None:
    fence = await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    (sequence,) = await append(rig.log, fence, "a")
    before = await rig.log.state(0, timeout_s=T)
    await rig.recreate(0)
    after = await rig.log.state(0, timeout_s=T)
    assert after.incarnation != before.incarnation
    assert after.origin != before.origin
    with pytest.raises(LogRecreated):
        await take(rig.log, 0, sequence, 1, before.incarnation)


async def test_a_recreated_stream_is_noticed_by_a_reader_that_waits(rig: LogRig) -> None:
    fence = await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    (sequence,) = await append(rig.log, fence, "a")
    state = await rig.log.state(0, timeout_s=T)
    async with asyncio.timeout(T), aclosing(rig.log.read(0, sequence - 1, state.incarnation)) as entries:
        assert (await anext(entries)).sequence == sequence
        outcome, failure = await asyncio.gather(anext(entries), rig.recreate(0), return_exceptions=True)
    assert failure is None
    if isinstance(outcome, LogUnavailable):  # it looked between the end of the one and the other's beginning
        (outcome,) = await asyncio.gather(
            take(rig.log, 0, sequence, 1, state.incarnation), return_exceptions=True
        )
    assert isinstance(outcome, LogRecreated)


async def test_a_cursor_past_the_end_is_of_another_stream(log: Log) -> None:
    state = await log.state(0, timeout_s=T)
    with pytest.raises(LogRecreated):
        await take(log, 0, state.last + 1, 1)


async def test_a_recreated_stream_refuses_the_epoch_of_the_lost_one(rig: LogRig) -> None:
    old = await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    await rig.recreate(0)
    with pytest.raises(StaleEpoch):
        await append(rig.log, old, "a")
    new = await rig.log.open_epoch(DOCS, Epoch(2), timeout_s=T)
    with pytest.raises(StaleEpoch):
        await append(rig.log, old, "b")
    assert await append(rig.log, new, "c") == [await origin(rig.log) + 1]


async def test_what_is_older_than_the_retention_is_trimmed_and_the_epoch_stays_open(rig: LogRig) -> None:
    fence = await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    old = await append(rig.log, fence, *"abc")
    await rig.pass_time(1.0)
    young = await append(rig.log, fence, *"de")
    async with rig.client(SMALL.model_copy(update={"age_s": 0.9})) as trimmer:
        assert (await trimmer.trim())[0] == young[0]
    assert (await rig.log.state(0, timeout_s=T)).first == young[0]
    assert [e.sequence for e in await take(rig.log, 0, old[-1], 2)] == young
    assert await append(rig.log, fence, "f") == [young[-1] + 1]
    assert await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T) == fence


async def test_all_may_be_trimmed_and_the_sequence_goes_on(rig: LogRig) -> None:
    fence = await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    last = (await append(rig.log, fence, *"abc"))[-1]
    await rig.pass_time(0.2)
    async with rig.client(SMALL.model_copy(update={"age_s": 0.1})) as trimmer:
        assert (await trimmer.trim())[0] == last + 1
    state = await rig.log.state(0, timeout_s=T)
    assert (state.first, state.last) == (last + 1, last)
    assert await append(rig.log, fence, "d") == [last + 1]
    assert [e.body for e in await take(rig.log, 0, last, 1)] == [Delete(["d"])]


async def test_a_lease_keeps_what_its_reader_has_not_read(rig: LogRig) -> None:
    fence = await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    sequences = await append(rig.log, fence, *"abcdef")
    await rig.pass_time(0.2)
    async with rig.client(SMALL.model_copy(update={"age_s": 0.1})) as trimmer:
        await rig.log.hold("eu-west", [sequences[1], 0], lease_s=60)
        await rig.log.hold("ap-southeast", [sequences[4], 0], lease_s=60)
        assert list(await trimmer.trim()) == [sequences[2], await origin(rig.log, 1)]
        await rig.log.hold("eu-west", [sequences[3], 0], lease_s=60)
        assert (await trimmer.trim())[0] == sequences[4]
        await rig.log.hold("eu-west", [sequences[3], 0], lease_s=0)
        assert (await trimmer.trim())[0] == sequences[5]


async def test_a_lease_that_ran_out_keeps_nothing(rig: LogRig) -> None:
    fence = await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    sequences = await append(rig.log, fence, *"ab")
    await rig.log.hold("eu-west", [0, 0], lease_s=0.2)
    await rig.pass_time(0.3)
    async with rig.client(SMALL.model_copy(update={"age_s": 0.1})) as trimmer:
        assert (await trimmer.trim())[0] == sequences[-1] + 1


async def test_the_limit_of_bytes_goes_before_leases(rig: LogRig) -> None:
    fence = await rig.log.open_epoch(DOCS, Epoch(1), timeout_s=T)
    keep = Retention(soft_bytes=300_000, hard_bytes=1_000_000)
    begin = await origin(rig.log)
    await rig.log.hold("eu-west", [begin, 0], lease_s=60)
    async with rig.client(keep) as trimmer:
        await append(rig.log, fence, *("x" * 10_000 for _ in range(60)))
        assert (await trimmer.trim())[0] == begin + 1
        await append(rig.log, fence, *("y" * 10_000 for _ in range(32)))
        first = (await trimmer.trim())[0]
    state = await rig.log.state(0, timeout_s=T)
    assert 10 <= state.last - first < 32
    with pytest.raises(LogTrimmed):
        await take(rig.log, 0, begin, 1)
