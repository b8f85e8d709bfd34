"""Keeps the canary of an index: writes it, queries for it, tells how late queries are.

Thin: when to do what, and what follows from it, is `canary.Flock`'s. Everything happens under the daemon's
lease and, for writes, at the index's pace.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from regions.changes import Upsert
from regions.errors import LogUnavailable, ReplicaError, ReplicaRejected, ReplicaUnavailable
from regions.logs.base import Log
from regions.names import IndexName, NamespaceRef
from regions.records import Query, Record
from regions.replicator import canary
from regions.replicator.calls import Calls
from regions.replicator.canary import Canary, Flock, canary_key, decode_canary, encode_canary
from regions.replicator.pacing import Pacer
from regions.replicator.snapshot import Site

_CALL_S: Final = 2.0
"""What a call on the log or on registers may take."""
_AGAIN_S: Final = 1.0
"""Between two attempts to tell."""


class CanaryTerms(msgspec.Struct, frozen=True):
    """How canaries are kept; seconds. `every_s` 0: they are not, and nothing is told of any."""

    writer: str
    every_s: float
    call_s: float


class Keeper:
    """The canary of one index of our region, while we hold its lease."""

    def __init__(
        self,
        index: IndexName,
        here: Site,
        log: Log,
        pacer: Pacer,
        terms: CanaryTerms,
        *,
        calls: Calls,
        send_by_s: Callable[[], float],
    ) -> None:
        """`log` is our region's, for its clock. A call that begins after `send_by_s()` (loop time) could
        outlive the lease; `calls` counts those under way.
        """
        self._replica, self._registers, self._log = here.replicas[index], here.registers, log
        self._place, self._key = NamespaceRef(index, canary.NAMESPACE), canary_key(index)
        self._pacer, self._terms, self._calls, self._send_by_s = pacer, terms, calls, send_by_s
        self._vector: list[float] = []

    async def run(self) -> None:
        """For ever; without canaries only until what was told of them is taken back."""
        before = await self._before()
        if not self._terms.every_s:
            is_taken_back = before is None
            while not is_taken_back:
                is_taken_back = await self._tell(Canary())
                await asyncio.sleep(_AGAIN_S)
            return
        flock = Flock(self._terms.writer, self._terms.every_s, before)
        told = before
        while True:
            wake_s = flock.wake_s if told == flock.told else min(flock.wake_s, self._now_s() + _AGAIN_S)
            await asyncio.sleep(max(wake_s - self._now_s(), 0.0))
            if self._now_s() >= flock.write_s:
                await self._write(flock)
                # Told again with every canary, should another daemon's last word have come after ours; but
                # not now: most are found by the first look.
                told = None
                continue
            if self._now_s() >= flock.look_s:
                await self._look(flock)
            if told != flock.told and await self._tell(flock.told):
                told = flock.told

    async def _before(self) -> Canary | None:
        while True:
            try:
                found = await self._registers.get(self._key, timeout_s=_CALL_S)
                return decode_canary(found.value) if found is not None else None
            except LogUnavailable:
                await asyncio.sleep(_AGAIN_S)
            except msgspec.DecodeError:
                return None  # of another version: ours takes its place

    async def _write(self, flock: Flock) -> None:
        await self._pacer.turn()
        try:
            vector = await self._unit()
            log_s = (await self._log.state(0, timeout_s=_CALL_S)).now_s
        except (LogUnavailable, ReplicaError):
            return flock.put_off(self._now_s())
        if self._now_s() >= self._send_by_s():
            return flock.put_off(self._now_s())
        token = flock.sent(self._now_s(), log_s)
        change = Upsert([Record(canary.ID, values=vector, metadata={canary.TOKEN: token})])
        try:
            with self._calls.one():
                await self._replica.apply(self._place, change, timeout_s=self._terms.call_s)
        except ReplicaUnavailable:
            self._pacer.was_refused()
        except ReplicaRejected:
            self._vector = []  # perhaps it is another index by now
        else:
            self._pacer.went_well()
            flock.acknowledged(self._now_s())

    async def _unit(self) -> list[float]:
        """A vector that every metric takes. Raises: ReplicaError."""
        if not self._vector:
            shape = await self._replica.describe(timeout_s=self._terms.call_s)
            self._vector = [1.0, *[0.0] * (shape.dimension - 1)]
        return self._vector

    async def _look(self, flock: Flock) -> None:
        query = Query(top_k=1, vector=self._vector, include_metadata=True)
        token: str | None = None
        try:
            found = await self._replica.query(self._place, query, timeout_s=self._terms.call_s)
            token = next((str((m.metadata or {}).get(canary.TOKEN)) for m in found.matches), None)
        except ReplicaError:
            pass  # an index that answers no queries shows nothing
        flock.looked(token, self._now_s())

    async def _tell(self, told: Canary) -> bool:
        """Whether readers can know."""
        if self._calls.is_closed or self._now_s() >= self._send_by_s():
            return False
        try:
            await self._registers.put(self._key, encode_canary(told), timeout_s=_CALL_S)
        except LogUnavailable:
            return False
        return True

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
