"""What every kind of journal must do: one suite, run for each file in `regions/journals/`.

A new kind adds its line to `MAKERS`; a kind without one fails the first test.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Protocol
from uuid import uuid4

import pytest

from regions import journals
from regions.errors import AppendUnknown, LogRecreated, LogTrimmed, LogUnavailable
from regions.journals.base import MAX_RECORD_BYTES, MAX_RECORDS, Journal, Record
from regions.journals.jetstream import Config, JetStreamJournal
from regions.journals.memory import MemoryJournal
from regions.runtime import plugins
from regions.runtime.nats_session import Connector
from tests.contracts.nats_process import NatsProcess
from tests.contracts.rigs import PATIENCE_S, US

T = 10.0


class Rig(Protocol):
    """A journal, and what can happen to it."""

    @property
    def journal(self) -> Journal: ...

    async def trim_before(self, first: int) -> None: ...

    async def recreate(self) -> None: ...


class MemoryRig:
    def __init__(self) -> None:
        self.journal = MemoryJournal(US, lambda: 1_000.0)

    async def trim_before(self, first: int) -> None:
        self.journal.trim_before(first)

    async def recreate(self) -> None:
        self.journal.recreate()


class JetStreamRig:
    def __init__(self, journal: JetStreamJournal, stream: str, operator: Connector) -> None:
        self.journal, self._stream, self._operator = journal, stream, operator

    async def trim_before(self, first: int) -> None:
        session = await self._operator.session(T)
        await session.api(f"STREAM.PURGE.{self._stream}", {"seq": first}, timeout_s=T)

    async def recreate(self) -> None:
        """Delete the stream, and wait until the journal has made it anew."""
        session = await self._operator.session(T)
        await session.api(f"STREAM.DELETE.{self._stream}", timeout_s=T)
        async with asyncio.timeout(PATIENCE_S):
            while not await self._stands():  # noqa: ASYNC110 - the server does it, not we
                await asyncio.sleep(0.01)

    async def _stands(self) -> bool:
        try:
            await self.journal.state(timeout_s=T)
        except LogUnavailable:
            return False
        return True


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """One server for the module: each test has a stream of its own."""
    server = NatsProcess(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@asynccontextmanager
async def in_memory(_: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    yield MemoryRig()


@asynccontextmanager
async def in_jetstream(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    url, prefix = request.getfixturevalue("nats").url, uuid4().hex
    operator = Connector([url], name="operator", domain=US)
    config = Config(urls=[url], prefix=prefix, max_bytes=10_000_000)
    journal = JetStreamJournal(config, region=US, name="ledger", token=None)
    await journal.start()
    try:
        yield JetStreamRig(journal, f"{prefix}-journal-ledger", operator)
    finally:
        await journal.close()
        await operator.close()


MAKERS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Rig]]] = {
    "memory": in_memory,
    "jetstream": in_jetstream,
}


@pytest.fixture(params=sorted(MAKERS))
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with MAKERS[request.param](request) as made:
        yield made


async def read(journal: Journal, after: int = 0, incarnation: str | None = None) -> list[Record]:
    if incarnation is None:
        incarnation = (await journal.state(timeout_s=T)).incarnation
    async with asyncio.timeout(T), aclosing(journal.read(after, incarnation)) as records:
        return [record async for record in records]


def test_every_kind_is_tested_here() -> None:
    assert plugins.kinds(journals) == sorted(MAKERS)


async def test_an_empty_journal_has_nothing_and_says_so(rig: Rig) -> None:
    state = await rig.journal.state(timeout_s=T)
    assert (state.first, state.last) == (1, 0)
    assert await read(rig.journal) == []


async def test_what_was_appended_is_read_in_order_from_any_cursor(rig: Rig) -> None:
    assert await rig.journal.append([b"a", b"", b"c"], timeout_s=T) == 3
    assert await rig.journal.append([b"d"], timeout_s=T) == 4
    records = await read(rig.journal)
    assert [(record.sequence, record.data) for record in records] == [
        (1, b"a"),
        (2, b""),
        (3, b"c"),
        (4, b"d"),
    ]
    assert [record.data for record in await read(rig.journal, after=2)] == [b"c", b"d"]
    assert await read(rig.journal, after=4) == []


async def test_appends_at_once_are_all_stored_each_in_one_piece(rig: Rig) -> None:
    groups = [[b"%d:%d" % (writer, n) for n in range(50)] for writer in range(20)]
    lasts = await asyncio.gather(*(rig.journal.append(group, timeout_s=T) for group in groups))
    data = [record.data for record in await read(rig.journal)]
    assert len(data) == 1_000
    assert all(data[last - 50 : last] == group for last, group in zip(lasts, groups, strict=True))


async def test_a_reader_is_told_of_what_was_trimmed(rig: Rig) -> None:
    await rig.journal.append([b"a", b"b", b"c"], timeout_s=T)
    await rig.trim_before(3)
    state = await rig.journal.state(timeout_s=T)
    assert (state.first, state.last) == (3, 3)
    with pytest.raises(LogTrimmed) as caught:
        await read(rig.journal, after=1)
    assert caught.value.first == 3
    assert [record.data for record in await read(rig.journal, after=2)] == [b"c"]


async def test_a_reader_is_told_also_when_nothing_is_left(rig: Rig) -> None:
    await rig.journal.append([b"a", b"b"], timeout_s=T)
    await rig.trim_before(3)
    assert (await rig.journal.state(timeout_s=T)).first == 3
    with pytest.raises(LogTrimmed):
        await read(rig.journal, after=1)
    assert await read(rig.journal, after=2) == []
    assert await rig.journal.append([b"c"], timeout_s=T) == 3


async def test_a_stream_made_anew_is_not_taken_for_the_old_one(rig: Rig) -> None:
    await rig.journal.append([b"a"], timeout_s=T)
    before = await rig.journal.state(timeout_s=T)
    await rig.recreate()
    after = await rig.journal.state(timeout_s=T)
    assert after.incarnation != before.incarnation
    assert (after.first, after.last) == (1, 0)
    for cursor in (0, 1):
        with pytest.raises(LogRecreated):
            await read(rig.journal, cursor, before.incarnation)
    with pytest.raises(LogRecreated):
        await read(rig.journal, 1)


@pytest.mark.parametrize(
    "records", [[], [b""] * (MAX_RECORDS + 1), [b"x" * (MAX_RECORD_BYTES + 1)]], ids=["none", "many", "large"]
)
async def test_what_does_not_fit_is_refused_before_it_is_sent(rig: Rig, records: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"at most|holds 1 to"):
        await rig.journal.append(records, timeout_s=T)


async def test_a_server_that_is_gone_is_unavailable_and_keeps_what_it_acknowledged(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server = NatsProcess(tmp_path_factory.mktemp("own"))
    server.start()
    config = Config(urls=[server.url], max_bytes=10_000_000)
    journal = JetStreamJournal(config, region=US, name="ledger", token=None)
    try:
        await journal.start()
        await journal.append([b"a", b"b"], timeout_s=T)
        server.kill()
        with pytest.raises((LogUnavailable, AppendUnknown)):
            await journal.append([b"c"], timeout_s=1.0)
        with pytest.raises(LogUnavailable):
            await journal.state(timeout_s=1.0)
        server.start()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await journal.append([b"d"], timeout_s=1.0)
                    break
                except (LogUnavailable, AppendUnknown):
                    await asyncio.sleep(0.05)
        data = [record.data for record in await read(journal)]
        assert (data[:2], data[-1]) == ([b"a", b"b"], b"d")
    finally:
        await journal.close()
        server.kill()
