"""The log on a real server that is killed, cut off, paused, wiped and rolled back."""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from regions.changes import Delete
from regions.errors import (
    AppendUnknown,
    LogCorrupt,
    LogError,
    LogRecreated,
    LogTrimmed,
    LogUnavailable,
    StaleEpoch,
)
from regions.logs.base import Append, Entry, Fence, Log
from regions.names import IndexName
from regions.positions import Epoch, Lsn, sequence_of
from regions.registers.base import Register, Registers
from regions.runtime.nats_reader import MAX_BYTES, Reading
from regions.runtime.nats_session import Connector
from tests.contracts.nats_process import NatsProcess
from tests.contracts.rigs import SMALL, US, open_log, open_registers, take
from tests.fakes.relay import Relay

pytestmark = pytest.mark.faults
T: Final = 15.0
DOCS: Final = IndexName("docs")


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    server = NatsProcess(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(shared_server: NatsProcess) -> NatsProcess:
    """The module's server, running; a test may leave it as it likes."""
    shared_server.restart()
    return shared_server


@pytest.fixture
def prefix() -> str:
    return uuid4().hex


@pytest.fixture
async def relay(server: NatsProcess) -> AsyncIterator[Relay]:
    async with Relay.open(server.port) as relay:
        yield relay


async def append(log: Log, fence: Fence, *ids: str, timeout_s: float = T) -> list[int]:
    lsns = await log.append(fence, 0, [Append("t1.a", Delete([each])) for each in ids], timeout_s=timeout_s)
    return [sequence_of(lsn) for lsn in lsns]


async def stored(log: Log) -> dict[int, str]:
    """The id that stands at every sequence of shard 0."""
    state = await log.state(0, timeout_s=T)
    entries = await take(log, 0, state.first - 1, state.last - state.first + 1)
    return {entry.sequence: entry.body.ids[0] for entry in entries if isinstance(entry.body, Delete)}


async def until(holds: Callable[[], object]) -> None:
    """Raises: TimeoutError: it does not hold in time."""
    async with asyncio.timeout(T):
        while not holds():  # noqa: ASYNC110 - what is polled is work under way
            await asyncio.sleep(0.005)


async def appended_at_last(log: Log, fence: Fence, id_: str) -> int:
    """The sequence of an append that is tried until the server is back."""
    async with asyncio.timeout(T):
        while True:
            try:
                return (await append(log, fence, id_))[0]
            except LogUnavailable:
                await asyncio.sleep(0.05)


async def got_at_last(registers: Registers, key: str) -> Register | None:
    while True:
        try:
            return await registers.get(key, timeout_s=T)
        except LogUnavailable:
            await asyncio.sleep(0.05)


class Writer:
    """Appends ids of its own until told to stop; what is certainly not stored is appended again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.acknowledged: dict[str, Lsn] = {}
        self.unknown: set[str] = set()

    async def run(self, log: Log, fence: Fence, stop: asyncio.Event) -> None:
        count = 0
        while not stop.is_set():
            id_ = f"{self.name}-{count}"
            try:
                (lsn,) = await log.append(fence, 0, [Append("t1.a", Delete([id_]))], timeout_s=T)
            except LogUnavailable:
                await asyncio.sleep(0.01)  # and once more: it says that nothing was stored
                continue
            except AppendUnknown:
                self.unknown.add(id_)
            else:
                self.acknowledged[id_] = lsn
            count += 1


def have_appended(writers: list[Writer], at_least: int = 0) -> int:
    """How many appends were acknowledged; 0 when that is not enough."""
    count = sum(len(writer.acknowledged) for writer in writers)
    return count if count >= at_least else 0


async def test_a_server_killed_under_appends_loses_and_repeats_none(server: NatsProcess, prefix: str) -> None:
    writers = [Writer(f"w{n}") for n in range(16)]
    stop = asyncio.Event()
    async with open_log(server.url, prefix, SMALL) as log:
        fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        async with asyncio.TaskGroup() as tasks:
            for writer in writers:
                tasks.create_task(writer.run(log, fence, stop))
            for _ in range(4):
                await until(partial(have_appended, writers, 200 + have_appended(writers)))
                server.restart()
            stop.set()
        found = await stored(log)
    acknowledged = {id_: lsn for writer in writers for id_, lsn in writer.acknowledged.items()}
    unknown = {id_ for writer in writers for id_ in writer.unknown}
    assert len(acknowledged) > 800
    assert {id_: found.get(sequence_of(lsn)) for id_, lsn in acknowledged.items()} == {
        id_: id_ for id_ in acknowledged
    }
    assert max(Counter(found.values()).values()) == 1
    assert set(found.values()) <= acknowledged.keys() | unknown


async def test_a_lost_answer_is_found_out_by_reading_back(
    server: NatsProcess, relay: Relay, prefix: str
) -> None:
    async with open_log(relay.url, prefix, SMALL) as log:
        fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        relay.swallows_answers = True
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(append(log, fence, "a", "b", "c"))
            await relay.swallowed.wait()
            async with open_log(server.url, prefix, SMALL) as other:
                await append(other, fence, "of another")
            await relay.cut()
        found = await stored(log)
    assert [found[sequence] for sequence in waiting.result()] == ["a", "b", "c"]
    assert list(found.values()) == ["a", "b", "c", "of another"]


async def test_what_never_arrived_is_stored_by_its_repetition(relay: Relay, prefix: str) -> None:
    async with open_log(relay.url, prefix, SMALL) as log:
        fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        relay.swallows_requests = True
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(append(log, fence, "a", "b"))
            await relay.swallowed.wait()
            await relay.cut()
        found = await stored(log)
    assert {sequence: found[sequence] for sequence in waiting.result()} == found
    assert list(found.values()) == ["a", "b"]


@pytest.mark.parametrize("switch", ["swallows_requests", "swallows_answers"])
async def test_without_an_answer_in_time_the_outcome_is_unknown(
    relay: Relay, prefix: str, switch: str
) -> None:
    async with open_log(relay.url, prefix, SMALL) as log:
        fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        setattr(relay, switch, True)
        begin_s = asyncio.get_running_loop().time()
        with pytest.raises(AppendUnknown):
            await append(log, fence, "a", timeout_s=0.5)
        assert asyncio.get_running_loop().time() - begin_s < 1.5
        await relay.cut()
        assert await append(log, fence, "b") == [(await log.state(0, timeout_s=T)).last]
        assert Counter((await stored(log)).values())["a"] <= 1


async def test_an_append_stored_before_its_epoch_ended_is_acknowledged(
    server: NatsProcess, relay: Relay, prefix: str
) -> None:
    async with open_log(relay.url, prefix, SMALL) as log, open_log(server.url, prefix, SMALL) as other:
        fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        relay.swallows_answers = True
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(append(log, fence, "a"))
            await relay.swallowed.wait()
            await other.open_epoch(DOCS, Epoch(2), timeout_s=T)
            await relay.cut()
        (sequence,) = waiting.result()
        assert (await stored(log))[sequence] == "a"
        assert sequence <= (await other.epoch_ends(DOCS, Epoch(1), timeout_s=T))[0]


async def test_an_append_that_its_epochs_end_overtook_is_refused(
    server: NatsProcess, relay: Relay, prefix: str
) -> None:
    async with open_log(relay.url, prefix, SMALL) as log, open_log(server.url, prefix, SMALL) as other:
        fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        relay.swallows_requests = True
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(_outcome(append(log, fence, "a")))
            await relay.swallowed.wait()
            await other.open_epoch(DOCS, Epoch(2), timeout_s=T)
            await relay.cut()
        assert isinstance(waiting.result(), StaleEpoch)
        assert await stored(other) == {}


async def _outcome(appending: Awaitable[list[int]]) -> list[int] | LogError:
    try:
        return await appending
    except LogError as error:
        return error


async def _exhaust(entries: AsyncIterator[Entry]) -> None:
    async for _ in entries:
        pass


async def test_a_server_that_hangs_makes_the_outcome_unknown_and_is_used_again(
    server: NatsProcess, prefix: str
) -> None:
    async with open_log(server.url, prefix, SMALL) as log:
        fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        server.pause()
        try:
            with pytest.raises(AppendUnknown):
                await append(log, fence, "a", timeout_s=0.5)
        finally:
            server.resume()
        await append(log, fence, "b")
        found = Counter((await stored(log)).values())
    assert found["b"] == 1
    assert found["a"] <= 1


async def test_a_server_that_is_gone_is_unavailable_at_once_and_used_when_it_is_back(
    server: NatsProcess, prefix: str
) -> None:
    loop = asyncio.get_running_loop()
    async with open_log(server.url, prefix, SMALL) as log:
        fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        (sequence,) = await append(log, fence, "a")
        state = await log.state(0, timeout_s=T)
        async with asyncio.timeout(T), aclosing(log.read(0, sequence, state.incarnation)) as entries:
            reading, _ = await asyncio.gather(
                anext(entries), asyncio.to_thread(server.kill), return_exceptions=True
            )
        assert isinstance(reading, LogUnavailable)
        begin_s = loop.time()
        for call in (append(log, fence, "b"), log.state(0, timeout_s=T), log.beat(0, timeout_s=T)):
            with pytest.raises(LogUnavailable):
                await call
        assert loop.time() - begin_s < 2
        server.start()
        await appended_at_last(log, fence, "c")
        assert list((await stored(log)).values()) == ["a", "c"]


async def test_a_wiped_server_refuses_the_lost_epoch_and_every_old_cursor(
    server: NatsProcess, prefix: str
) -> None:
    async with open_log(server.url, prefix, SMALL) as log:
        old = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        (sequence,) = await append(log, old, "a")
        before = await log.state(0, timeout_s=T)
        server.kill()
        server.wipe()
        server.start()
        with pytest.raises(StaleEpoch):
            await appended_at_last(log, old, "b")
        await log.open_epoch(DOCS, Epoch(2), timeout_s=T)
        with pytest.raises(StaleEpoch):
            await append(log, old, "c")
        with pytest.raises(LogRecreated):
            await take(log, 0, sequence, 1, before.incarnation)
        assert await stored(log) == {}


async def test_a_stream_that_was_rolled_back_is_noticed_from_its_end(tmp_path: Path, prefix: str) -> None:
    server = NatsProcess(tmp_path / "nats")
    server.start()
    try:
        async with open_log(server.url, prefix, SMALL) as log:
            fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
            await append(log, fence, "a")
            server.kill()
            shutil.copytree(server.store, tmp_path / "backup")
            server.start()
            sequence = await appended_at_last(log, fence, "b")
            incarnation = (await log.state(0, timeout_s=T)).incarnation
            server.kill()
            server.wipe()
            shutil.copytree(tmp_path / "backup", server.store)
            server.start()
        async with open_log(server.url, prefix, SMALL) as log:
            assert (await log.state(0, timeout_s=T)).incarnation == incarnation
            with pytest.raises(LogRecreated):
                await take(log, 0, sequence, 1, incarnation)
    finally:
        server.kill()


async def test_a_reader_that_is_trimmed_under_way_is_told(server: NatsProcess, prefix: str) -> None:
    operator = Connector([server.url], name="operator", domain=US)
    async with open_log(server.url, prefix, SMALL) as log:
        fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        large = [Append("t1.a", Delete(["x" * 3_000_000]))]
        first = sequence_of((await log.append(fence, 0, large, timeout_s=T))[0])
        for _ in range(5):
            await log.append(fence, 0, large, timeout_s=T)
        state = await log.state(0, timeout_s=T)
        async with asyncio.timeout(T), aclosing(log.read(0, first - 1, state.incarnation)) as entries:
            assert (await anext(entries)).sequence == first
            session = await operator.session(T)
            await session.api(f"STREAM.PURGE.{prefix}-changes-0", {"seq": state.last}, timeout_s=T)
            with pytest.raises(LogTrimmed) as caught:
                await _exhaust(entries)
    assert caught.value.first == state.last
    await operator.close()


async def test_what_is_no_entry_is_told_with_its_place(server: NatsProcess, prefix: str) -> None:
    operator = Connector([server.url], name="operator", domain=US)
    async with open_log(server.url, prefix, SMALL) as log:
        last = (await log.state(0, timeout_s=T)).last
        session = await operator.session(T)
        await session.ask(f"{prefix}.changes.0.docs", b"not ours", timeout_s=T)
        with pytest.raises(LogCorrupt, match=f"sequence {last + 1}"):
            await take(log, 0, last, 1)
    await operator.close()


async def test_a_full_shard_refuses_whole_batches_and_takes_more_once_trimmed(
    server: NatsProcess, prefix: str
) -> None:
    keep = SMALL.model_copy(update={"soft_bytes": 50_000, "hard_bytes": 100_000})
    async with open_log(server.url, prefix, keep) as log:
        fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        await append(log, fence, *("x" * 10_000 for _ in range(9)))
        with pytest.raises(LogUnavailable):
            await append(log, fence, *("y" * 3_000 for _ in range(9)))
        assert "y" * 3_000 not in (await stored(log)).values()
        await log.trim()
        assert len(await append(log, fence, *("y" * 3_000 for _ in range(9)))) == 9


async def test_a_reader_far_behind_has_a_bounded_amount_in_flight(server: NatsProcess, prefix: str) -> None:
    connector = Connector([server.url], name="reader", domain=US)
    async with open_log(server.url, prefix, SMALL) as log:
        fence = await log.open_epoch(DOCS, Epoch(1), timeout_s=T)
        for _ in range(10):
            await log.append(fence, 0, [Append("t1.a", Delete(["x" * 3_900_000]))], timeout_s=T)
        state = await log.state(0, timeout_s=T)
        session = await connector.session(T)
        reading = await Reading.open(session, f"{prefix}-changes-0", after=state.first - 1, timeout_s=T)
        for sequence in range(state.first, state.last + 1):
            assert (await reading.next()).sequence == sequence
            await session.api("INFO", timeout_s=T)  # lets arrive what is on its way
            assert reading.waiting_bytes <= MAX_BYTES
    await connector.close()


async def test_a_server_of_another_region_is_not_ours(server: NatsProcess) -> None:
    connector = Connector([server.url], name="lost", domain="eu-west")
    session = await connector.open()
    with pytest.raises(Exception, match="nobody listens"):
        await session.api("INFO", timeout_s=T)
    await session.close()


async def test_registers_outlive_the_server_and_a_watch_tells_of_its_loss(
    server: NatsProcess, prefix: str
) -> None:
    registers = open_registers(server.url, prefix)
    revision = await registers.put("cursors.eu-west", b"17", timeout_s=T)
    async with asyncio.timeout(T), aclosing(registers.watch("cursors.")) as changes:
        assert await anext(changes) == ("cursors.eu-west", b"17", revision)
        outcome, _ = await asyncio.gather(
            anext(changes), asyncio.to_thread(server.kill), return_exceptions=True
        )
    assert isinstance(outcome, LogUnavailable)
    with pytest.raises(LogUnavailable):
        await registers.get("cursors.eu-west", timeout_s=T)
    server.start()
    async with asyncio.timeout(T):
        found = await got_at_last(registers, "cursors.eu-west")
    assert found == ("cursors.eu-west", b"17", revision)
    assert await registers.swap("cursors.eu-west", b"18", revision, timeout_s=T) > revision
    await registers.close()
