"""The ledger on a journal that answers, fails, loses answers: nothing is lost, or lost in silence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from gateway import billing
from gateway import ledger as ledgers
from gateway.billing import Bill
from gateway.ledger import Ledger
from gateway.logs import make_logger
from gateway.spool import Spool
from gateway.telemetry import Telemetry
from regions.journals.memory import MemoryJournal
from regions.names import RegionId

US = RegionId("us-east")


def bill(nano: int = 7) -> Bill:
    return Bill(
        tenant="tenant0000000001",
        request_id="r",
        model="big",
        upstream="big/0",
        served="gpt-4o",
        outcome="ok",
        input_tokens=100,
        cached_tokens=40,
        output_tokens=10,
        nano_usd=nano,
    )


class Bench:
    """A ledger's surroundings, which outlive it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.telemetry = directory, Telemetry("0", "us-east")
        self.journal = MemoryJournal(US, lambda: 0.0)

    @asynccontextmanager
    async def ledger(self, max_bytes: int = 1_000_000) -> AsyncIterator[Ledger]:
        spool = Spool(self.directory, US, "0-a", max_bytes=max_bytes)
        log = make_logger("error", "json", region=US, worker=0)
        self.telemetry = Telemetry("0", "us-east")
        made = Ledger(self.journal, spool, telemetry=self.telemetry, log=log, wall_clock=lambda: 1.5)
        async with made.running():
            yield made

    async def stored(self) -> list[Bill]:
        state = await self.journal.state(timeout_s=1)
        async with aclosing(self.journal.read(0, state.incarnation)) as records:
            bills = [billing.decode(record.data) async for record in records]
        return [each for each in bills if each is not None]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.telemetry.registry.get_sample_value(name, labels)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(ledgers, "GROUP_S", 0.0)
    monkeypatch.setattr(ledgers, "AGAIN_S", (0.001,))
    return Bench(tmp_path)


async def until_empty(ledger: Ledger) -> None:
    async with asyncio.timeout(10):
        while ledger.waiting:  # noqa: ASYNC110 - what empties it is a task that tells nobody
            await asyncio.sleep(0.001)


async def test_a_bill_is_stamped_and_comes_to_the_journal_by_itself(bench: Bench) -> None:
    async with bench.ledger() as ledger:
        ledger.record(bill())
        await until_empty(ledger)
        (stored,) = await bench.stored()
        assert (len(stored.id), stored.at_ms) == (32, 1_500)
        assert stored == bill().stamped(stored.id, 1_500)
        assert bench.metric("meridian_ledger_records_total", outcome="appended") == 1
        assert bench.metric("meridian_ledger_queue") == 0
    assert list(bench.directory.iterdir()) == []


async def test_a_bill_is_on_disk_before_record_returns(bench: Bench) -> None:
    bench.journal.go_down()
    async with bench.ledger() as ledger:
        ledger.record(bill())
        (file,) = bench.directory.iterdir()
        assert file.read_bytes().endswith(b"}\n")


async def test_while_the_journal_is_down_bills_wait_and_then_all_come_once(bench: Bench) -> None:
    bench.journal.go_down()
    async with bench.ledger() as ledger:
        for nano in range(1_200):
            ledger.record(bill(nano))
            if nano == 600:
                await asyncio.sleep(0)  # no waiting: the sender gets a turn to fail
        assert bench.metric("meridian_ledger_queue") == 1_200
        assert (bench.metric("meridian_ledger_spool_bytes") or 0) > 100_000
        bench.journal.come_up()
        await until_empty(ledger)
    assert sorted(each.nano_usd for each in await bench.stored()) == list(range(1_200))


async def test_what_a_process_leaves_behind_the_next_one_sends(bench: Bench) -> None:
    bench.journal.go_down()
    async with bench.ledger() as ledger:
        ledger.record(bill(1))
    bench.journal.come_up()
    async with bench.ledger() as ledger:
        await until_empty(ledger)
        assert [each.nano_usd for each in await bench.stored()] == [1]


async def test_a_group_of_unknown_outcome_is_sent_again_under_the_same_ids(bench: Bench) -> None:
    async with bench.ledger() as ledger:
        bench.journal.lose_next_ack()
        ledger.record(bill())
        await until_empty(ledger)
        one, two = await bench.stored()
        assert one == two


async def test_beyond_the_spool_bills_wait_in_memory_and_beyond_that_they_are_lost_loudly(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ledgers, "MAX_IN_MEMORY", 2)
    bench.journal.go_down()
    async with bench.ledger(max_bytes=300) as ledger:
        for nano in range(5):
            ledger.record(bill(nano))
        assert ledger.waiting == 3, "one on disk, two in memory"
        assert bench.metric("meridian_ledger_records_total", outcome="lost") == 2
        bench.journal.come_up()
        await until_empty(ledger)
    assert sorted(each.nano_usd for each in await bench.stored()) == [0, 1, 2]
    assert capsys.readouterr().err.count('"ledger_lost"') == 2


async def test_a_torn_line_is_counted_and_hides_no_other(bench: Bench) -> None:
    whole = billing.encode(bill(3).stamped("ab" * 16, 1))
    (bench.directory / "us-east~0-z-00000001.spool").write_bytes(whole + b"\n" + whole[:50])
    async with bench.ledger() as ledger:
        await until_empty(ledger)
        assert [each.nano_usd for each in await bench.stored()] == [3]
        assert bench.metric("meridian_ledger_records_total", outcome="lost") == 1
