"""Who applies in a region: one daemon at a time, by compare-and-set on a register of the region.

No clock is compared with another one's. A holder counts from before it asked; whoever waits counts from when
it saw the record, and sees a new revision at each renewal. So a lease ends for its holder before it ends for
anybody else, however wrong the clocks stand, as long as they run at about the same speed.
"""

import asyncio
from typing import Final

import msgspec

from regions.errors import Conflict, LogUnavailable, RegionsError
from regions.registers.base import Register, Registers

KEY: Final = "replicator.lease"
_CALL_S: Final = 2.0


class LeaseLost(RegionsError):
    """Another daemon holds the lease."""


class Holding(msgspec.Struct, frozen=True):
    """The record: who holds it, and for how long without renewal."""

    holder: str
    lease_s: float


class Lease:
    """The right to apply, as one daemon sees it."""

    def __init__(self, registers: Registers, me: str, *, lease_s: float, settle_s: float) -> None:
        self._registers, self._me = registers, me
        self._lease_s, self._settle_s = lease_s, settle_s
        self._revision = 0
        self._seen = (-1, 0.0)
        """A revision, and since when it stands."""

    async def acquire(self) -> float:
        """Wait until the lease is ours and what its last holder sent has settled; its end (loop time)."""
        while True:
            try:
                found = await self._registers.get(KEY, timeout_s=_CALL_S)
                if self._is_free(found):
                    return await self._take(found.revision if found is not None else 0)
            except (Conflict, LogUnavailable):
                pass  # somebody was faster, or we see nothing: look again
            await asyncio.sleep(self._lease_s / 10)

    async def renew(self) -> float:
        """Its new end (loop time). Raises: LeaseLost; LogUnavailable: try again while it lasts."""
        try:
            return await self._take(self._revision)
        except Conflict:
            found = await self._registers.get(KEY, timeout_s=_CALL_S)
            if found is None or _decode(found).holder != self._me:
                raise LeaseLost("another daemon holds the lease") from None
            return await self._take(found.revision)

    async def _take(self, revision: int) -> float:
        began_s = _now_s()
        mine = msgspec.json.encode(Holding(self._me, self._lease_s))
        self._revision = await self._registers.swap(KEY, mine, revision, timeout_s=_CALL_S)
        return began_s + self._lease_s

    def _is_free(self, found: Register | None) -> bool:
        if found is None:
            return True
        record = _decode(found)
        if record.holder == self._me:
            return True
        if found.revision != self._seen[0]:
            self._seen = (found.revision, _now_s())
        return _now_s() >= self._seen[1] + record.lease_s + self._settle_s


def _decode(found: Register) -> Holding:
    return msgspec.json.decode(found.value, type=Holding)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
