"""Logs, registers and indexes as a process sees them: the memory ones, behind the network."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from regions.changes import Change, Upsert
from regions.errors import AppendUnknown, LogUnavailable, ReplicaRejected, ReplicaUnavailable
from regions.logs.base import Append, Entry, Fence, ShardState
from regions.logs.memory import MemoryLog
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import Epoch, Lsn, sequence_of
from regions.registers.base import Register
from regions.registers.memory import MemoryRegisters
from regions.replicas.base import (
    Applied,
    Fetched,
    IdPage,
    IndexInfo,
    NamespaceInfo,
    NamespacePage,
    QueryResult,
)
from regions.replicas.memory import MemoryReplica
from tests.simulation.network import Lost, Network, Process

_STALL_S = 1.0


class RemoteLog:
    """`Log`, from afar. `epoch_s` is what to take off the server's clock to get the loop's time."""

    def __init__(self, log: MemoryLog, network: Network, me: Process, epoch_s: float) -> None:
        self._log, self._network, self._me, self._epoch_s = log, network, me, epoch_s

    @property
    def region(self) -> RegionId:
        return self._log.region

    @property
    def shards(self) -> int:
        return self._log.shards

    async def start(self) -> None:
        """Nothing to connect."""

    async def close(self) -> None:
        """Nothing to close."""

    async def append(
        self, fence: Fence, shard: int, batch: Sequence[Append], *, timeout_s: float
    ) -> Sequence[Lsn]:
        try:
            lsns = await self._network.call(
                self._me,
                self.region,
                f"append {shard} x{len(batch)}",
                lambda: self._log.append(fence, shard, batch, timeout_s=timeout_s),
                timeout_s=timeout_s,
                is_late_possible=True,
            )
        except Lost as error:
            raise AppendUnknown("no answer") from error
        self._network.tell(self.region, shard, sequence_of(lsns[-1]))
        return lsns

    async def _ask(self, what: str, act: Callable[[], Any], timeout_s: float) -> Any:
        try:
            return await self._network.call(self._me, self.region, what, act, timeout_s=timeout_s)
        except Lost as error:
            raise LogUnavailable("no answer") from error

    async def beat(self, shard: int, *, timeout_s: float) -> int:
        found: int = await self._ask("beat", lambda: self._log.beat(shard, timeout_s=1), timeout_s)
        return found

    async def open_epoch(self, index: IndexName, epoch: Epoch, *, timeout_s: float) -> Fence:
        found: Fence = await self._ask(
            "open_epoch", lambda: self._log.open_epoch(index, epoch, timeout_s=1), timeout_s
        )
        return found

    async def epoch_ends(self, index: IndexName, epoch: Epoch, *, timeout_s: float) -> Sequence[int]:
        found: Sequence[int] = await self._ask(
            "epoch_ends", lambda: self._log.epoch_ends(index, epoch, timeout_s=1), timeout_s
        )
        return found

    async def state(self, shard: int, *, timeout_s: float) -> ShardState:
        found: ShardState = await self._ask("state", lambda: self._log.state(shard, timeout_s=1), timeout_s)
        return found

    async def hold(self, reader: str, sequences: Sequence[int], *, lease_s: float) -> None:
        await self._ask("hold", lambda: self._log.hold(reader, sequences, lease_s=lease_s), 2.0)

    async def trim(self) -> Sequence[int]:
        found: Sequence[int] = await self._ask("trim", self._log.trim, 2.0)
        return found

    async def read(self, shard: int, after: int, incarnation: str) -> AsyncGenerator[Entry, None]:
        network, me, loop = self._network, self._me, asyncio.get_running_loop()
        arrived_s = loop.time()
        inner = self._log.read(shard, after, incarnation)
        try:
            async for entry in inner:
                network.tell(self.region, shard, entry.sequence)
                sent_s = max(entry.appended_s - self._epoch_s, 0.0)
                arrived_s = max(arrived_s, sent_s + network.delay_s(self.region, me.region))
                if arrived_s > loop.time():
                    await asyncio.sleep(arrived_s - loop.time())
                if network.is_cut(self.region, me.region):
                    await asyncio.sleep(_STALL_S)
                    raise LogUnavailable("the stream broke")
                yield entry
        finally:
            await inner.aclose()


class RemoteRegisters:
    """`Registers`, from afar."""

    def __init__(self, registers: MemoryRegisters, region: str, network: Network, me: Process) -> None:
        self._registers, self._region, self._network, self._me = registers, region, network, me

    async def _ask(self, what: str, act: Callable[[], Any], timeout_s: float) -> Any:
        if self._region in self._network.mute:
            await asyncio.sleep(timeout_s)
            raise LogUnavailable("no answer")
        try:
            return await self._network.call(self._me, self._region, what, act, timeout_s=timeout_s)
        except Lost as error:
            raise LogUnavailable("no answer") from error

    async def start(self) -> None:
        """Nothing to connect."""

    async def close(self) -> None:
        """Nothing to close."""

    async def get(self, key: str, *, timeout_s: float) -> Register | None:
        found: Register | None = await self._ask(
            f"get {key}", lambda: self._registers.get(key, timeout_s=1), timeout_s
        )
        return found

    async def scan(self, prefix: str, *, timeout_s: float) -> list[Register]:
        found: list[Register] = await self._ask(
            f"scan {prefix}", lambda: self._registers.scan(prefix, timeout_s=1), timeout_s
        )
        return found

    async def put(self, key: str, value: bytes, *, timeout_s: float) -> int:
        found: int = await self._ask(
            f"put {key}", lambda: self._registers.put(key, value, timeout_s=1), timeout_s
        )
        return found

    async def swap(self, key: str, value: bytes, revision: int, *, timeout_s: float) -> int:
        found: int = await self._ask(
            f"swap {key}", lambda: self._registers.swap(key, value, revision, timeout_s=1), timeout_s
        )
        return found

    async def watch(self, prefix: str) -> AsyncGenerator[Register, None]:
        async with aclosing(self._registers.watch(prefix)) as changes:
            async for register in changes:
                await asyncio.sleep(self._network.delay_s(self._region, self._me.region))
                if self._region in self._network.mute or self._network.is_cut(self._region, self._me.region):
                    await asyncio.sleep(_STALL_S)
                    raise LogUnavailable("the stream broke")
                yield register


class RemoteReplica:
    """`Replica`, from afar; `poison` are ids that the index refuses."""

    def __init__(
        self, replica: MemoryReplica, region: str, network: Network, me: Process, poison: set[str]
    ) -> None:
        self._replica, self._region, self._network, self._me = replica, region, network, me
        self._poison = poison
        self._incarnation: str | None = None

    @property
    def index(self) -> IndexName:
        return self._replica.index

    @property
    def incarnation(self) -> str | None:
        return self._incarnation

    async def close(self) -> None:
        """Nothing to close."""

    async def _ask(self, what: str, act: Callable[[], Any], timeout_s: float, *, late: bool = False) -> Any:
        async def told() -> tuple[Any, str | None]:
            return await act(), self._replica.incarnation

        try:
            value, self._incarnation = await self._network.call(
                self._me, self._region, what, told, timeout_s=timeout_s, is_late_possible=late
            )
        except Lost as error:
            raise ReplicaUnavailable("no answer") from error
        return value

    async def apply(
        self, namespace: NamespaceRef, change: Change, *, timeout_s: float, position: Lsn | None = None
    ) -> Applied:
        if isinstance(change, Upsert) and any(record.id in self._poison for record in change.records):
            await asyncio.sleep(0.001)
            raise ReplicaRejected(400, 3, "a record that this index does not take")
        found: Applied = await self._ask(
            f"apply {namespace.stored} {type(change).__name__} {position}",
            lambda: self._replica.apply(namespace, change, timeout_s=1, position=position),
            timeout_s,
            late=True,
        )
        return found

    async def count_matching(
        self, namespace: NamespaceRef, filter_: dict[str, Any], *, timeout_s: float
    ) -> Applied:
        found: Applied = await self._ask(
            "count", lambda: self._replica.count_matching(namespace, filter_, timeout_s=1), timeout_s
        )
        return found

    async def query(self, namespace: NamespaceRef, query: Any, *, timeout_s: float) -> QueryResult:
        found: QueryResult = await self._ask(
            "query", lambda: self._replica.query(namespace, query, timeout_s=1), timeout_s
        )
        return found

    async def fetch(self, namespace: NamespaceRef, ids: Sequence[str], *, timeout_s: float) -> Fetched:
        found: Fetched = await self._ask(
            "fetch", lambda: self._replica.fetch(namespace, ids, timeout_s=1), timeout_s
        )
        return found

    async def fetch_by_metadata(
        self,
        namespace: NamespaceRef,
        filter_: dict[str, Any],
        *,
        limit: int,
        token: str | None,
        timeout_s: float,
    ) -> Fetched:
        found: Fetched = await self._ask(
            "fetch_by_metadata",
            lambda: self._replica.fetch_by_metadata(
                namespace, filter_, limit=limit, token=token, timeout_s=1
            ),
            timeout_s,
        )
        return found

    async def list_ids(
        self, namespace: NamespaceRef, *, prefix: str, limit: int, token: str | None, timeout_s: float
    ) -> IdPage:
        found: IdPage = await self._ask(
            "list",
            lambda: self._replica.list_ids(namespace, prefix=prefix, limit=limit, token=token, timeout_s=1),
            timeout_s,
        )
        return found

    async def describe(self, *, timeout_s: float) -> IndexInfo:
        found: IndexInfo = await self._ask("describe", lambda: self._replica.describe(timeout_s=1), timeout_s)
        return found

    async def list_namespaces(
        self, *, prefix: str, limit: int, token: str | None, timeout_s: float
    ) -> NamespacePage:
        found: NamespacePage = await self._ask(
            "namespaces",
            lambda: self._replica.list_namespaces(prefix=prefix, limit=limit, token=token, timeout_s=1),
            timeout_s,
        )
        return found

    async def describe_namespace(self, namespace: NamespaceRef, *, timeout_s: float) -> NamespaceInfo:
        found: NamespaceInfo = await self._ask(
            "describe_namespace",
            lambda: self._replica.describe_namespace(namespace, timeout_s=1),
            timeout_s,
        )
        return found
