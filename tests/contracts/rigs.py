"""What the contract suites need of a kind beyond its contract: more clients, and accidents."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Final, Protocol

from regions.logs.base import Entry, Log
from regions.logs.memory import MemoryLog
from regions.names import RegionId
from regions.registers.base import Registers
from regions.registers.memory import MemoryRegisters
from regions.retention import Retention

US: Final = RegionId("us-east")
SHARDS: Final = 2
PATIENCE_S: Final = 10.0


class LogRig(Protocol):
    """One log server, and what can happen to it."""

    @property
    def log(self) -> Log: ...

    def client(self, retention: Retention) -> AbstractAsyncContextManager[Log]:
        """Another client of the same log; its retention holds where it trims."""
        ...

    async def recreate(self, shard: int) -> None: ...

    async def purge_before(self, shard: int, first: int) -> None: ...

    async def pass_time(self, seconds: float) -> None: ...


class MemoryRig:
    """A log in this process, with a clock that is turned by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.registers = MemoryRegisters()
        self.log = MemoryLog(US, self.registers, lambda: self.now_s, shards=SHARDS)

    @asynccontextmanager
    async def client(self, retention: Retention) -> AsyncIterator[Log]:
        before, self.log.retention = self.log.retention, retention
        yield self.log
        self.log.retention = before

    async def recreate(self, shard: int) -> None:
        self.log.recreate(shard)

    async def purge_before(self, shard: int, first: int) -> None:
        self.log.trim_before(shard, first)

    async def pass_time(self, seconds: float) -> None:
        self.now_s += seconds


async def take(log: Log, shard: int, after: int, count: int, incarnation: str | None = None) -> list[Entry]:
    """The next `count` entries after a sequence."""
    if incarnation is None:
        incarnation = (await log.state(shard, timeout_s=PATIENCE_S)).incarnation
    found: list[Entry] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(log.read(shard, after, incarnation)) as entries:
        while len(found) < count:
            found.append(await anext(entries))
    return found


async def watched(registers: Registers, prefix: str, count: int) -> Sequence[tuple[str, bytes, int]]:
    """The first `count` registers that a watch tells of."""
    found: list[tuple[str, bytes, int]] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(registers.watch(prefix)) as changes:
        async for register in changes:
            found.append(register)
            if len(found) == count:
                break
    return found
