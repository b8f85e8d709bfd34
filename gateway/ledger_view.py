"""The ledger as a table: SQLite over the journals of all regions, a view that can be dropped at any time.

It follows each region's journal from the position that it saved together with what it had read, so what it
holds depends on the journals alone: rebuilt from nothing it is identical, as far back as the journals go. A
bill that a journal has twice is in it once. What a journal has trimmed since, the view keeps until dropped.
"""

import asyncio
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, Self

from gateway import billing
from gateway.billing import Bill
from regions.errors import LogError, LogTrimmed
from regions.journals.base import Journal
from regions.names import RegionId

BY: Final[Mapping[str, str]] = {
    "tenant": "tenant",
    "model": "model",
    "day": "day",
    "month": "substr(day, 1, 7)",
    "region": "region",
    "outcome": "outcome",
    "upstream": "upstream",
    "served": "served",
}
"""What a report can be by, and its column."""
SUMS: Final = ("attempts", "input_tokens", "cached_tokens", "output_tokens", "nano_usd")
STATE_S: Final = 3.0
"""A region that is silent for so long is left out, and named."""
GROUP: Final = 5_000
LAYOUT: Final = 1
"""A view of another layout is made anew."""
_TABLES: Final = """
CREATE TABLE positions (
    region TEXT PRIMARY KEY, incarnation TEXT NOT NULL, after INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE attempts (
    id BLOB PRIMARY KEY, region TEXT NOT NULL, day TEXT NOT NULL, at_ms INTEGER NOT NULL,
    tenant TEXT NOT NULL, request_id TEXT NOT NULL, model TEXT NOT NULL,
    upstream TEXT NOT NULL, served TEXT NOT NULL, outcome TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL, nano_usd INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX attempts_by_day ON attempts (day);
"""


@dataclass(frozen=True, slots=True)
class Followed:
    """What became of reading one region's journal.

    `read` records were new; `trimmed` are gone that the view has never seen; `unreadable` are no bills.
    `problem` is why it could not be read to its end, "" when it was.
    """

    region: RegionId
    read: int = 0
    trimmed: int = 0
    unreadable: int = 0
    problem: str = ""


class View:
    """The table in a file. Blocking; one thread at a time. Raises everywhere: sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA synchronous = OFF")  # what a power loss damages is built again
        (layout,) = self._db.execute("PRAGMA user_version").fetchone()
        if layout != LAYOUT:
            self._make()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def position(self, region: RegionId) -> tuple[str, int] | None:
        """Incarnation and sequence up to which the region's journal is in here; None before the first."""
        found: tuple[str, int] | None = self._db.execute(
            "SELECT incarnation, after FROM positions WHERE region = ?", (region,)
        ).fetchone()
        return found

    def take(self, region: RegionId, bills: Iterable[Bill], incarnation: str, after: int) -> None:
        """Add a journal's bills and the position behind them, together."""
        with closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                cursor.executemany(
                    f"INSERT OR IGNORE INTO attempts VALUES ({', '.join('?' * 14)})",  # noqa: S608 - marks only
                    (_row(region, bill) for bill in bills),
                )
                cursor.execute(
                    "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", (region, incarnation, after)
                )
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")

    def report(
        self, by: Sequence[str], since: date, until: date, tenants: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Sums of the days from `since` to `until`, both included, by keys of `BY`, in their order."""
        keys = [f"{BY[name]} AS {name}" for name in by]
        sums = ["count(*) AS attempts", *(f"sum({name}) AS {name}" for name in SUMS[1:])]
        places = ", ".join(str(n + 1) for n in range(len(by)))
        of_tenants = f" AND tenant IN ({', '.join('?' * len(tenants))})" if tenants else ""
        query = (  # its words are this module's own
            f"SELECT {', '.join([*keys, *sums])} FROM attempts WHERE day BETWEEN ? AND ?{of_tenants}"  # noqa: S608
            + (f" GROUP BY {places} ORDER BY {places}" if by else " HAVING count(*)")
        )
        rows = self._db.execute(query, (since.isoformat(), until.isoformat(), *tenants))
        return [dict(zip([*by, *SUMS], row, strict=True)) for row in rows]

    def dump(self) -> list[tuple[Any, ...]]:
        """Everything in it, in a fixed order, so that two views can be compared."""
        return [
            row
            for table, key in (("positions", "region"), ("attempts", "id"))
            for row in self._db.execute(f"SELECT * FROM {table} ORDER BY {key}")  # noqa: S608 - our own words
        ]

    def _make(self) -> None:
        tables = [name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        drops = "".join(f"DROP TABLE {name};" for name in tables)
        self._db.executescript(f"BEGIN; {drops} {_TABLES} PRAGMA user_version = {LAYOUT}; COMMIT;")


def _row(region: RegionId, bill: Bill) -> tuple[Any, ...]:
    day = datetime.fromtimestamp(bill.at_ms / 1000, UTC).date().isoformat()
    return (
        bytes.fromhex(bill.id),
        region,
        day,
        bill.at_ms,
        bill.tenant,
        bill.request_id,
        bill.model,
        bill.upstream,
        bill.served,
        bill.outcome,
        bill.input_tokens,
        bill.cached_tokens,
        bill.output_tokens,
        bill.nano_usd,
    )


async def follow(view: View, journals: Sequence[Journal]) -> list[Followed]:
    """Read every journal from where the view is to its end; one that does not answer harms no other."""
    turn = asyncio.Lock()
    return list(await asyncio.gather(*(_follow(view, journal, turn) for journal in journals)))


async def _follow(view: View, journal: Journal, turn: asyncio.Lock) -> Followed:
    reading = _Reading(view, journal, turn)
    try:
        await reading.to_the_end()
    except LogError as error:
        return reading.told(str(error))
    return reading.told("")


class _Reading:
    """One journal on its way into the view."""

    def __init__(self, view: View, journal: Journal, turn: asyncio.Lock) -> None:
        self._view, self._journal, self._turn = view, journal, turn
        self._read = self._trimmed = self._unreadable = 0

    def told(self, problem: str) -> Followed:
        return Followed(self._journal.region, self._read, self._trimmed, self._unreadable, problem)

    async def to_the_end(self) -> None:
        """Raises: LogError: not as far as that; what was read is in the view."""
        state = await self._journal.state(timeout_s=STATE_S)
        position = self._view.position(self._journal.region)
        after = position[1] if position is not None and position[0] == state.incarnation else 0
        if after > state.last:  # it lost its tail: what comes in its place has the same numbers
            after = 0
        while after < state.last:
            if after + 1 < state.first:
                self._trimmed += state.first - 1 - after
                after = state.first - 1
            try:
                after = await self._read_on(after, state.incarnation)
            except LogTrimmed as error:
                self._trimmed += error.first - 1 - error.after
                after = error.first - 1

    async def _read_on(self, after: int, incarnation: str) -> int:
        """The sequence that was read to. Raises: LogError."""
        bills: list[Bill] = []
        async with aclosing(self._journal.read(after, incarnation)) as records:
            async for record in records:
                after = record.sequence
                bill = billing.decode(record.data)
                if bill is None:
                    self._unreadable += 1
                else:
                    bills.append(bill)
                if len(bills) >= GROUP:
                    await self._take(bills, incarnation, after)
                    bills = []
        await self._take(bills, incarnation, after)
        return after

    async def _take(self, bills: Sequence[Bill], incarnation: str, after: int) -> None:
        async with self._turn:
            await asyncio.to_thread(self._view.take, self._journal.region, bills, incarnation, after)
        self._read += len(bills)


async def rebuild(path: Path, journals: Sequence[Journal]) -> list[Followed]:
    """Make the view in that file anew; it is replaced only when every journal was read to its end."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    try:
        with View(fresh) as view:
            followed = await follow(view, journals)
        if not any(each.problem for each in followed):
            fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return followed
