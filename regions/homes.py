"""Reads and changes who is home, in the registers of every region.

A change is a compare-and-set at a majority of the regions: whoever gets one has shown that the record it
built on was the latest there. Two that try at once cannot both get a majority; it may be that neither does,
and then the next attempt, under a higher epoch, writes over both.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from regions.errors import Conflict, LogUnavailable
from regions.names import IndexName, RegionId
from regions.positions import Epoch
from regions.registers.base import Registers
from regions.topology import Home, decide, decode_home, encode_home, home_key, majority


@dataclass(frozen=True, slots=True)
class Seen:
    """What the registers of the regions that answered hold of one index.

    `records` is by region; a revision of 0 goes with no record. `decided` is None when too few hold the same.
    """

    index: IndexName
    regions: int
    records: Mapping[RegionId, tuple[Home | None, int]]

    @property
    def decided(self) -> Home | None:
        return decide([home for home, _ in self.records.values() if home is not None], self.regions)

    @property
    def has_majority(self) -> bool:
        return len(self.records) >= majority(self.regions)

    @property
    def next_epoch(self) -> Epoch:
        """Later than any that was ever proposed where we could look."""
        return Epoch(1 + max((home.epoch for home, _ in self.records.values() if home), default=0))


async def look(registers: Mapping[RegionId, Registers], index: IndexName, *, timeout_s: float) -> Seen:
    """What every region that answers in time holds. Raises: LogUnavailable: fewer than a majority did."""
    async with asyncio.TaskGroup() as group:
        asked = {
            region: group.create_task(_record(each, index, timeout_s)) for region, each in registers.items()
        }
    answers = {region: task.result() for region, task in asked.items()}
    seen = Seen(index, len(registers), {r: answer for r, answer in answers.items() if answer is not None})
    if not seen.has_majority:
        raise LogUnavailable(
            f"the registers of {len(seen.records)} of {len(registers)} regions answered: too few to know"
        )
    return seen


async def _record(registers: Registers, index: IndexName, timeout_s: float) -> tuple[Home | None, int] | None:
    """The record and its revision; None when the registers do not answer, or hold what nobody reads."""
    try:
        register = await registers.get(home_key(index), timeout_s=timeout_s)
        return (decode_home(register.value), register.revision) if register is not None else (None, 0)
    except (LogUnavailable, msgspec.DecodeError):
        return None


async def propose(
    registers: Mapping[RegionId, Registers], seen: Seen, home: Home, *, timeout_s: float
) -> None:
    """Make `home` the home, if nobody did otherwise since `seen`.

    Raises: Conflict: somebody did, or not enough regions took it. Where it stands all the same it counts for
    nothing: look again, and propose under a higher epoch.
    """
    async with asyncio.TaskGroup() as group:
        tried = [
            group.create_task(_swap(registers[region], home, revision, timeout_s))
            for region, (_, revision) in seen.records.items()
        ]
    taken = sum(task.result() for task in tried)
    if taken < majority(seen.regions):
        raise Conflict(
            f"{taken} of {seen.regions} regions took {home.region} as home of {home.index}: too few; another "
            "promotion may be under way"
        )


async def _swap(registers: Registers, home: Home, revision: int, timeout_s: float) -> bool:
    try:
        await registers.swap(home_key(home.index), encode_home(home), revision, timeout_s=timeout_s)
    except (Conflict, LogUnavailable):
        return False
    return True


async def spread(registers: Mapping[RegionId, Registers], seen: Seen, *, timeout_s: float) -> None:
    """Give the decided home to the regions that lack it; they were away when it was decided."""
    home = seen.decided
    if home is None:
        return
    for region, (held, revision) in seen.records.items():
        if held is None or held.epoch < home.epoch:
            await _swap(registers[region], home, revision, timeout_s)
