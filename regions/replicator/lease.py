"""Who applies in a region: one daemon at a time, by compare-and-set on a register of the region.

No clock is compared with another one's. A holder counts from before it asked; whoever waits counts from when
it saw the record, and sees a new revision at each renewal. So a lease ends for its holder before it ends for
anybody else, however wrong the clocks stand, as long as they run at about the same speed.

A holder that ends in good order gives the lease back, and tells whether all that it sent has settled: then
the next one goes on at once, else after the settle time.
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
    """The record: who holds it, and for how long without renewal. Given back, it is nobody's, for no time."""

    holder: str
    lease_s: float
    is_settled: bool = False
    """Nothing that the last holder sent can change anything any more."""


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
                    mine = Holding(self._me, self._lease_s)
                    return await self._put(mine, found.revision if found is not None else 0)
            except (Conflict, LogUnavailable):
                pass  # somebody was faster, or we see nothing: look again
            await asyncio.sleep(self._lease_s / 10)

    async def renew(self) -> float:
        """Its new end (loop time). Raises: LeaseLost; LogUnavailable: try again while it lasts."""
        return await self._replace(Holding(self._me, self._lease_s))

    async def give_back(self, *, is_settled: bool) -> None:
        """Let the next one have it. Nothing is sent any more, nor will be.

        `is_settled`: nor can anything that was sent still take effect. Raises: LeaseLost; LogUnavailable:
        perhaps it is given back, else it ends by itself.
        """
        await self._replace(Holding("", 0.0, is_settled=is_settled))

    async def _replace(self, record: Holding) -> float:
        try:
            return await self._put(record, self._revision)
        except Conflict:
            found = await self._registers.get(KEY, timeout_s=_CALL_S)
            if found is None or _decode(found).holder != self._me:
                raise LeaseLost("another daemon holds the lease") from None
        try:
            return await self._put(record, found.revision)
        except Conflict as late:
            # A write of ours whose answer never came landed only now: the next attempt sees it.
            raise LogUnavailable("the lease changed while it was renewed") from late

    async def _put(self, record: Holding, revision: int) -> float:
        began_s = _now_s()
        self._revision = await self._registers.swap(
            KEY, msgspec.json.encode(record), revision, timeout_s=_CALL_S
        )
        return began_s + record.lease_s

    def _is_free(self, found: Register | None) -> bool:
        if found is None:
            return True
        record = _decode(found)
        if record.holder == self._me or record.is_settled:
            return True
        if found.revision != self._seen[0]:
            self._seen = (found.revision, _now_s())
        return _now_s() >= self._seen[1] + record.lease_s + self._settle_s


def _decode(found: Register) -> Holding:
    return msgspec.json.decode(found.value, type=Holding)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
