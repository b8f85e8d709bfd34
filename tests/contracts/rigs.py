"""What the contract suites need of a kind beyond its contract: more clients, and accidents."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, Final, Protocol, Self

from regions.errors import LogUnavailable
from regions.logs.base import Entry, Log
from regions.logs.jetstream import Config as JetStreamLogConfig
from regions.logs.jetstream import JetStreamLog
from regions.logs.memory import MemoryLog
from regions.names import RegionId
from regions.registers.base import Registers
from regions.registers.jetstream import Config as JetStreamRegistersConfig
from regions.registers.jetstream import JetStreamRegisters
from regions.registers.memory import MemoryRegisters
from regions.retention import Retention
from regions.runtime.nats_session import Connector

US: Final = RegionId("us-east")
SHARDS: Final = 2
PATIENCE_S: Final = 10.0
SMALL: Final = Retention(soft_bytes=40_000_000, hard_bytes=50_000_000)
"""A server reserves what its streams may take; this leaves room for many tests."""


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


def open_registers(url: str, bucket: str) -> JetStreamRegisters:
    return JetStreamRegisters(JetStreamRegistersConfig(urls=[url], bucket=bucket), region=US, token=None)


@asynccontextmanager
async def open_log(url: str, prefix: str, retention: Retention) -> AsyncIterator[JetStreamLog]:
    """A log with registers of its own connection, started and closed."""
    registers = open_registers(url, prefix)
    config = JetStreamLogConfig(urls=[url], prefix=prefix, shards=SHARDS, retention=retention)
    log = JetStreamLog(config, region=US, registers=registers, token=None)
    await log.start()
    try:
        yield log
    finally:
        await log.close()
        await registers.close()


class JetStreamRig:
    """Streams of their own on a real server; `connector` is the operator who breaks them."""

    def __init__(self, log: Log, url: str, prefix: str, connector: Connector) -> None:
        self.log, self._url, self._prefix, self._connector = log, url, prefix, connector

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, prefix: str) -> AsyncIterator[Self]:
        connector = Connector([url], name="operator", domain=US)
        async with open_log(url, prefix, SMALL) as log:
            yield cls(log, url, prefix, connector)
        await connector.close()

    @asynccontextmanager
    async def client(self, retention: Retention) -> AsyncIterator[Log]:
        async with open_log(self._url, self._prefix, retention) as log:
            yield log

    async def recreate(self, shard: int) -> None:
        """Delete the stream, and wait until a client has made it anew."""
        await self._api(f"STREAM.DELETE.{self._prefix}-changes-{shard}")
        async with asyncio.timeout(PATIENCE_S):
            while not await self._stands(shard):  # noqa: ASYNC110 - the server does it, not we
                await asyncio.sleep(0.01)

    async def _stands(self, shard: int) -> bool:
        try:
            await self.log.state(shard, timeout_s=PATIENCE_S)
        except LogUnavailable:  # the server has not finished deleting
            return False
        return True

    async def purge_before(self, shard: int, first: int) -> None:
        await self._api(f"STREAM.PURGE.{self._prefix}-changes-{shard}", {"seq": first})

    async def pass_time(self, seconds: float) -> None:
        """Until the server's clock is that much later."""
        begin_s = (await self.log.state(0, timeout_s=PATIENCE_S)).now_s
        async with asyncio.timeout(PATIENCE_S):
            while (await self.log.state(0, timeout_s=PATIENCE_S)).now_s < begin_s + seconds:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # the clock is another process's

    async def _api(self, call: str, body: dict[str, Any] | None = None) -> None:
        session = await self._connector.session(PATIENCE_S)
        await session.api(call, body, timeout_s=PATIENCE_S)


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
