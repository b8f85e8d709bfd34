"""The view: what journals say, once each, however often it is read, dropped, or read in part."""

import asyncio
import sqlite3
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import billing, ledger_view
from gateway.billing import Bill
from gateway.catalogue import SEED_MODELS, cost_nano_usd, cost_usd, nano_usd
from gateway.context import RequestContext
from gateway.ledger_view import Followed, View
from gateway.messages import Usage
from gateway.receipts import receipt_of
from gateway.tenants import Tenant
from regions.journals.memory import MemoryJournal
from regions.names import RegionId
from tests.gateway.running import OTHER_TENANT, TENANT

US, EU = RegionId("us-east"), RegionId("eu-west")
NOON_MS = 1_794_139_200_000  # 2026-11-08
DAY_MS = 86_400_000
ALWAYS = (date(2000, 1, 1), date(2100, 1, 1))


def bill(number: int, *, nano: int = 5, tenant: str = "t1", model: str = "big", day: int = 0) -> Bill:
    return Bill(
        id=f"{number:032x}",
        at_ms=NOON_MS + day * DAY_MS,
        tenant=tenant,
        request_id=f"r{number}",
        model=model,
        upstream=f"{model}/0",
        served="gpt-4o",
        outcome="ok",
        input_tokens=10,
        cached_tokens=4,
        output_tokens=2,
        nano_usd=nano,
    )


async def append(journal: MemoryJournal, *bills: Bill) -> None:
    await journal.append([billing.encode(each) for each in bills], timeout_s=1)


@pytest.fixture
def us() -> MemoryJournal:
    return MemoryJournal(US, lambda: 0.0)


@pytest.fixture
def eu() -> MemoryJournal:
    return MemoryJournal(EU, lambda: 0.0)


async def test_a_report_adds_up_by_what_is_asked(
    tmp_path: Path, us: MemoryJournal, eu: MemoryJournal
) -> None:
    await append(us, bill(1, nano=3), bill(2, nano=4, tenant="t2"), bill(3, nano=5, day=1))
    await append(eu, bill(4, nano=6, model="small"))
    with View(tmp_path / "v") as view:
        assert [each.read for each in await ledger_view.follow(view, [us, eu])] == [3, 1]
        by_tenant = view.report(["tenant"], *ALWAYS)
        assert [(row["tenant"], row["attempts"], row["nano_usd"]) for row in by_tenant] == [
            ("t1", 3, 14),
            ("t2", 1, 4),
        ]
        assert [row["cached_tokens"] for row in by_tenant] == [12, 4]
        rows = view.report(["day", "region", "model"], *ALWAYS)
        assert [tuple(row.values())[:3] for row in rows] == [
            ("2026-11-08", "eu-west", "small"),
            ("2026-11-08", "us-east", "big"),
            ("2026-11-09", "us-east", "big"),
        ]
        first = date(2026, 11, 8)
        assert view.report([], first, first)[0]["nano_usd"] == 13
        assert view.report(["month"], first, first, ["t2"])[0]["nano_usd"] == 4
        assert view.report([], date(2020, 1, 1), date(2020, 1, 2)) == []


async def test_what_is_new_is_read_and_nothing_twice(tmp_path: Path, us: MemoryJournal) -> None:
    for expected in (2, 0):
        await append(us, bill(1), bill(1)) if expected else None
        with View(tmp_path / "v") as view:
            assert (await ledger_view.follow(view, [us]))[0].read == expected
            assert view.report([], *ALWAYS)[0]["attempts"] == 1
    await append(us, bill(2))
    with View(tmp_path / "v") as view:
        assert (await ledger_view.follow(view, [us]))[0].read == 1
        assert view.report([], *ALWAYS)[0]["attempts"] == 2


async def test_a_region_that_is_silent_is_named_and_harms_no_other(
    tmp_path: Path, us: MemoryJournal, eu: MemoryJournal
) -> None:
    await append(us, bill(1))
    await append(eu, bill(2))
    eu.go_down()
    with View(tmp_path / "v") as view:
        one, other = await ledger_view.follow(view, [us, eu])
        assert one == Followed(US, read=1)
        assert "eu-west" in other.problem
        eu.come_up()
        assert (await ledger_view.follow(view, [us, eu]))[1] == Followed(EU, read=1)


async def test_what_was_trimmed_unseen_is_told_and_what_was_seen_stays(
    tmp_path: Path, us: MemoryJournal
) -> None:
    await append(us, bill(1))
    with View(tmp_path / "v") as view:
        await ledger_view.follow(view, [us])
        await append(us, bill(2), bill(3), bill(4))
        us.trim_before(4)
        assert await ledger_view.follow(view, [us]) == [Followed(US, read=1, trimmed=2)]
        assert view.report([], *ALWAYS)[0]["attempts"] == 2
        await append(us, bill(5))
        us.trim_before(6)
        assert await ledger_view.follow(view, [us]) == [Followed(US, trimmed=1)], "and nothing is left"


async def test_a_journal_made_anew_is_read_from_its_beginning(tmp_path: Path, us: MemoryJournal) -> None:
    await append(us, bill(1), bill(2))
    with View(tmp_path / "v") as view:
        await ledger_view.follow(view, [us])
        us.recreate()
        await append(us, bill(2), bill(3))
        await ledger_view.follow(view, [us])
        assert view.report([], *ALWAYS)[0]["attempts"] == 3


async def test_a_record_that_is_no_bill_hides_no_other(tmp_path: Path, us: MemoryJournal) -> None:
    await us.append([b"{}", b"\xff", billing.encode(bill(1)), b'{"id": "../x"}'], timeout_s=1)
    with View(tmp_path / "v") as view:
        assert await ledger_view.follow(view, [us]) == [Followed(US, read=1, unreadable=3)]


async def test_the_view_is_rebuilt_only_from_all_regions(
    tmp_path: Path, us: MemoryJournal, eu: MemoryJournal
) -> None:
    path = tmp_path / "v"
    await append(us, bill(1))
    await append(eu, bill(2))
    with View(path) as view:
        await ledger_view.follow(view, [us, eu])
        whole = view.dump()
    eu.go_down()
    await ledger_view.rebuild(path, [us, eu])
    with View(path) as view:
        assert view.dump() == whole
    path.write_bytes(b"this is no database, it only has the name of one" * 100)
    eu.come_up()
    with pytest.raises(sqlite3.DatabaseError):
        View(path)
    await ledger_view.rebuild(path, [us, eu])
    with View(path) as view:
        assert view.dump() == whole
    assert list(tmp_path.iterdir()) == [path]  # noqa: ASYNC240 - nothing else runs


attempts = st.lists(
    st.tuples(
        st.sampled_from(sorted(SEED_MODELS)),
        st.builds(
            Usage,
            input_tokens=st.integers(0, 200_000),
            output_tokens=st.integers(0, 20_000),
            cached_tokens=st.integers(0, 200_000),
        ),
    ),
    max_size=4,
)
requests = st.lists(
    st.tuples(st.sampled_from([TENANT, OTHER_TENANT]), st.sampled_from([0, 1]), attempts), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(requests, st.lists(st.integers(0, 11), max_size=6), st.lists(st.integers(1, 40), max_size=4))
def test_the_ledgers_sums_are_those_of_the_receipts_and_a_dropped_view_comes_back_identical(
    made: list[tuple[str, int, list[tuple[str, Usage]]]], repeated: list[int], cuts: list[int]
) -> None:
    """Whatever is sent twice, however the journals are read in parts."""
    receipts_nano: dict[str, int] = {}
    bills: list[tuple[int, Bill]] = []
    for number, (tenant, region, found) in enumerate(made):
        ctx = RequestContext(f"r{number}", Tenant(id=tenant, name=tenant), "openai", 0.0, 60.0, lambda: 0.0)
        for model, usage in found:
            ctx.note("attempt", cost_usd=cost_usd(SEED_MODELS[model], usage))
            nano = cost_nano_usd(SEED_MODELS[model], usage)
            bills.append((region, bill(len(bills), nano=nano, tenant=tenant, model=model)))
        receipt = receipt_of(ctx, "/v1/chat/completions", "ok", None, 0.0)
        receipt_nano = nano_usd(sum(step["cost_usd"] for step in receipt.attempts()))
        receipts_nano[tenant] = receipts_nano.get(tenant, 0) + receipt_nano
    bills += [bills[n] for n in repeated if n < len(bills)]
    with TemporaryDirectory() as directory:
        asyncio.run(_check(Path(directory), bills, sorted({0, *cuts, len(bills)}), receipts_nano))


async def _check(
    directory: Path, bills: Sequence[tuple[int, Bill]], cuts: Sequence[int], receipts_nano: dict[str, int]
) -> None:
    journals = [MemoryJournal(US, lambda: 0.0), MemoryJournal(EU, lambda: 0.0)]
    with View(directory / "one") as view:
        for start, end in pairwise(cuts):
            for region, each in bills[start:end]:
                await append(journals[region], each)
            await ledger_view.follow(view, journals)
        sums = {row["tenant"]: row["nano_usd"] for row in view.report(["tenant"], *ALWAYS)}
        assert sums == {tenant: nano for tenant, nano in receipts_nano.items() if tenant in sums}
        assert sum(sums.values()) == sum(receipts_nano.values())
        with View(directory / "other") as other:
            await ledger_view.follow(other, journals)
            assert other.dump() == view.dump()
