"""The ledger: what every call of an LLM upstream came to, in a journal of this region.

A bill is written into the spool (a file of this machine, `gateway.spool`) when its attempt ends, which is
before its caller gets the last byte of the answer; a task sends the spool's records to the journal in groups
and drops them once the journal has them on disk. So no answer ever waits for the journal, and what a kill -9
loses is at most the requests in flight: a process that comes after finds the spool and sends it. A group of
which nobody knows whether it was stored is sent again; readers know a bill by its id.

While the journal cannot be reached the spool grows up to its limit. What finds no room there any more waits
in memory, up to `MAX_IN_MEMORY`; beyond that bills are lost, each counted, and said at error level.
"""

import asyncio
import os
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self

import structlog

from gateway import billing, spool
from gateway.billing import Bill
from gateway.spool import Segment, Spool, SpoolFull
from gateway.telemetry import Telemetry
from regions.errors import AppendUnknown, LogUnavailable
from regions.journals.base import MAX_RECORDS, Journal

NAME: Final = "ledger"
"""The journal's."""
GROUP_S: Final = 0.05
"""Bills are collected for so long before they are sent: under load twenty commits a second and process."""
APPEND_S: Final = 5.0
AGAIN_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Between attempts to reach the journal."""
ADOPT_S: Final = 30.0
"""How often it is looked for what processes that are gone left behind."""
CLOSE_S: Final = 2.0
"""For sending what is left at the end; the rest waits on disk for the next process."""
MAX_IN_MEMORY: Final = 10_000
GROUP_RECORDS: Final = min(500, MAX_RECORDS)


class Ledger:
    """Writes bills down and sends them on; `running` for as long as it does."""

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        *,
        telemetry: Telemetry,
        log: structlog.stdlib.BoundLogger,
        wall_clock: Callable[[], float],
    ) -> None:
        self._journal, self._spool = journal, spool
        self._telemetry, self._log, self._wall_clock = telemetry, log, wall_clock
        self._in_memory: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._is_behind = self._is_losing = False
        telemetry.watch_ledger(lambda: (self.waiting, spool.size_bytes))

    @property
    def waiting(self) -> int:
        """Bills that the journal has not said to have."""
        return self._spool.records + len(self._in_memory)

    def record(self, bill: Bill) -> None:
        """Write it down; on return it survives this process."""
        data = billing.encode(bill.stamped(uuid.uuid4().hex, int(self._wall_clock() * 1000)))
        try:
            self._spool.write(data)
            self._is_losing = False
        except SpoolFull as error:
            self._without_spool(data, error)
        self._wake.set()

    def _without_spool(self, data: bytes, error: SpoolFull) -> None:
        is_lost = len(self._in_memory) >= MAX_IN_MEMORY
        if is_lost:
            self._telemetry.ledger_records.labels("lost").inc()
        else:
            self._in_memory.append(data)
        if is_lost or not self._is_losing:
            self._log.error("ledger_lost" if is_lost else "ledger_spool_full", error=str(error))
        self._is_losing = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Send bills until the block ends, and then what is left, as far as it goes in `CLOSE_S`.

        Raises: OSError: the spool's directory cannot be used.
        """
        await self._adopt()
        async with asyncio.TaskGroup() as tasks:
            work = [tasks.create_task(each) for each in (self._send_for_ever(), self._look_for_orphans())]
            try:
                yield self
            finally:
                for task in work:
                    task.cancel()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._send()
        except (LogUnavailable, AppendUnknown, TimeoutError):
            self._log.warning("ledger_left_behind", records=self.waiting)
        finally:
            self._spool.close()

    async def _adopt(self) -> None:
        found = await asyncio.to_thread(self._spool.orphans)
        if found:
            self._spool.adopt(found)
            self._log.info("ledger_adopted", records=sum(segment.records for segment in found))
            self._wake.set()

    async def _look_for_orphans(self) -> None:
        while True:
            await asyncio.sleep(ADOPT_S)
            try:
                await self._adopt()
            except OSError as error:
                self._log.error("ledger_dir_unusable", error=str(error))

    async def _send_for_ever(self) -> None:
        failures = 0
        while True:
            await self._wake.wait()
            await asyncio.sleep(AGAIN_S[min(failures, len(AGAIN_S)) - 1] if failures else GROUP_S)
            self._wake.clear()
            try:
                await self._send()
                failures = 0
            except (LogUnavailable, AppendUnknown) as error:
                failures += 1
                self._wake.set()
                self._tell_behind(error)

    async def _send(self) -> None:
        """Everything that waits, oldest first. Raises: LogUnavailable, AppendUnknown: what is left, stays."""
        for segment in self._spool.seal():
            await self._append(await asyncio.to_thread(self._read, segment))
            self._spool.forget(segment)
            spool.remove(segment)  # microseconds; in a thread it could be cancelled in between
        while self._in_memory:
            group = [self._in_memory[n] for n in range(min(GROUP_RECORDS, len(self._in_memory)))]
            await self._append(group)
            for _ in group:
                self._in_memory.popleft()
        if self._is_behind:
            self._is_behind = False
            self._log.info("ledger_caught_up")

    def _read(self, segment: Segment) -> Sequence[bytes]:
        """The segment's bills; what is none was torn by a machine that went down."""
        lines = spool.read(segment)
        bills = [line for line in lines if billing.decode(line) is not None]
        if torn := len(lines) - len(bills):
            self._telemetry.ledger_records.labels("lost").inc(torn)
            self._log.error("ledger_torn", file=os.fspath(segment.path), records=torn)
        return bills

    async def _append(self, records: Sequence[bytes]) -> None:
        for start in range(0, len(records), GROUP_RECORDS):
            group = records[start : start + GROUP_RECORDS]
            await self._journal.append(group, timeout_s=APPEND_S)
            self._telemetry.ledger_records.labels("appended").inc(len(group))

    def _tell_behind(self, error: Exception) -> None:
        if not self._is_behind:
            self._is_behind = True
            self._log.warning("ledger_behind", error=str(error), records=self.waiting)
