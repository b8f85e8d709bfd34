"""Makes a region the home of an index: the first one, the next one, or the next one without the old one.

**Planned**, nothing is lost: the old home's log is fenced off, so its end is known; once the new home's
replica holds everything up to that end, the new epoch opens at the new home and a majority of the registers
takes it. Writes wait from the fence to the majority; reads go on throughout. Broken off halfway, no writes
are taken; doing it again, to any region, ends that.

**Forced**, when the old home's log cannot be reached: the old epoch ends where the new home's follower is.
What the old log took beyond that was acknowledged and is lost; when the old home comes back, `export_tail`
writes it to a file for people to judge, and `fence_off` closes its log. Until a fence reaches it, a home that
is cut off from all others goes on acknowledging to whoever can reach it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import msgspec

from regions import homes
from regions.changes import Body, EpochOpened, Heartbeat, Resolved
from regions.errors import Conflict, LogUnavailable, RegionsError, StaleEpoch
from regions.homes import Seen
from regions.live import Place
from regions.logs.base import Entry, Log
from regions.names import IndexName, RegionId
from regions.positions import Epoch
from regions.records import jsonable
from regions.registers.base import Registers
from regions.replicator.watermarks import NONE_S, Progress, decode, progress_key
from regions.topology import Home, Term

CALL_S: Final = 5.0
POLL_S: Final = 0.1

Say = Callable[[str], None]


class NotCaughtUp(RegionsError):
    """The new home does not hold everything in time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The home as it is now, and what of the old epoch may not be in the new home, told for people."""

    home: Home
    lost: Sequence[str] = ()


async def establish(places: Sequence[Place], index: IndexName, region: RegionId) -> Home:
    """The index's home; `region`, under its first epoch, when it never had one. Any number may try at once.

    Raises: LogUnavailable: that log, or too many registers, cannot be reached. Conflict: two different
    first homes were asked for.
    """
    registers = {place.region: place.registers for place in places}
    seen = await homes.look(registers, index, timeout_s=CALL_S)
    if (decided := seen.decided) is None:
        log = _log(places, region)
        epoch = _first_epoch(seen, region)
        await log.open_epoch(index, epoch, timeout_s=CALL_S)
        home = Home(index, [Term(epoch, region, streams=await _streams(log))])
        try:
            await homes.propose(registers, seen, home, timeout_s=CALL_S)
        except Conflict:
            seen = await homes.look(registers, index, timeout_s=CALL_S)
            decided = seen.decided
            if decided is None:
                raise
        else:
            return home
    await homes.spread(registers, seen, timeout_s=CALL_S)
    return decided


def _first_epoch(seen: Seen, region: RegionId) -> Epoch:
    """What others who try the same have proposed already, else the next."""
    proposed = {home.epoch for home, _ in seen.records.values() if home and home.region == region}
    return proposed.pop() if len(proposed) == 1 else seen.next_epoch


async def promote(
    places: Sequence[Place], index: IndexName, to: RegionId, *, drain_s: float, say: Say
) -> Outcome:
    """Move the home, losing nothing. `drain_s` bounds how long writes are held up.

    Raises: LogUnavailable: a log or too many registers cannot be reached. NotCaughtUp: `to` was not there in
    time; before the fence nothing has changed, after it no writes are taken until this is done again.
    Conflict: somebody else promotes.
    """
    registers = {place.region: place.registers for place in places}
    seen = await homes.look(registers, index, timeout_s=CALL_S)
    old = _decided(seen)
    source, target = _log(places, old.region), _log(places, to)
    streams = await _streams(source)
    if lost := old.term.not_in(streams):
        say(f"{old.region} has other streams than epoch {old.epoch} began in: of that epoch no more can come")
    elif old.region == to and await _takes(target, old):
        return Outcome(old)
    epoch = seen.next_epoch

    now = [(await source.state(shard, timeout_s=CALL_S)).last for shard in range(source.shards)]
    say(f"waiting until {to} holds what {old.region} has now")
    await _caught_up(registers[to], index, old, streams, now, drain_s)
    say(f"fencing off epoch {old.epoch} at {old.region}: writes wait from here")
    epoch = await _open(source, index, epoch)
    ends = await source.epoch_ends(index, old.epoch, timeout_s=CALL_S)
    await _caught_up(registers[to], index, old, streams, ends, drain_s)
    say(f"{to} holds everything: opening epoch {epoch} there")
    await target.open_epoch(index, epoch, timeout_s=CALL_S)
    home = old.successor(Term(epoch, to, streams=await _streams(target)), ends, is_forced=False, lost=lost)
    await homes.propose(registers, seen, home, timeout_s=CALL_S)
    return Outcome(home)


async def force(
    places: Sequence[Place], index: IndexName, to: RegionId, *, drain_s: float, say: Say
) -> Outcome:
    """Make `to` the home without asking the old one.

    Raises: LogUnavailable: the new home's log or too many registers cannot be reached. NotCaughtUp: it never
    followed the old home. Conflict.
    """
    registers = {place.region: place.registers for place in places}
    seen = await homes.look(registers, index, timeout_s=CALL_S)
    old, target = _decided(seen), _log(places, to)
    say(f"letting {to} apply what it received from {old.region}")
    told, lacking = await _held(registers[to], index, old, target.shards, drain_s)
    if any(each is None or not each.incarnation for each in told):
        raise NotCaughtUp(f"{to} never followed {old.region}: nothing of the index would be left")
    ends = [each.received if each else 0 for each in told]
    lost = old.term.not_in([each.incarnation if each else "" for each in told])
    ahead = await _ahead({r: each for r, each in registers.items() if r not in (to, old.region)}, old, ends)
    epoch = await _open(target, index, seen.next_epoch)
    home = old.successor(Term(epoch, to, streams=await _streams(target)), ends, is_forced=True, lost=lost)
    await homes.propose(registers, seen, home, timeout_s=CALL_S)
    try:
        await fence_off(_log(places, old.region), home, old.region)
    except LogUnavailable:
        say(f"{old.region} cannot be reached: it is fenced off when somebody reaches it")
    return Outcome(home, [*lacking, *ahead])


async def fence_off(log: Log, home: Home, region: RegionId) -> None:
    """See to it that the log of a region that is home no more takes nothing. Raises: LogUnavailable."""
    if region == home.region:
        return
    try:
        await log.open_epoch(IndexName(home.index), home.epoch, timeout_s=CALL_S)
    except StaleEpoch:
        return  # a later one is open there: the better


async def tail_length(log: Log, home: Home, term: Term) -> int:
    """At most so many entries lie beyond a term's end, of this index and others. Raises: LogUnavailable."""
    lasts = await log.epoch_ends(IndexName(home.index), Epoch(term.epoch), timeout_s=CALL_S)
    return sum(max(0, last - end) for last, end in zip(lasts, term.ends, strict=True))


async def tail_gap(log: Log, home: Home, term: Term) -> int:
    """At most so many entries of a tail, of this index and others, were trimmed. Raises: LogUnavailable."""
    lasts = await log.epoch_ends(IndexName(home.index), Epoch(term.epoch), timeout_s=CALL_S)
    gap = 0
    for shard, (last, end) in enumerate(zip(lasts, term.ends, strict=True)):
        state = await log.state(shard, timeout_s=CALL_S)
        gap += max(0, min(state.first - 1, last) - max(end, state.origin - 1))
    return gap


async def export_tail(log: Log, home: Home, term: Term) -> AsyncGenerator[Entry, None]:
    """What the log of a term that was ended by force holds beyond its end: acknowledged, and no history.

    What was trimmed is not among it: `tail_gap`. Raises: LogUnavailable, LogRecreated, LogCorrupt;
    LogTrimmed: more went meanwhile.
    """
    for shard, end in enumerate(term.ends):
        state = await log.state(shard, timeout_s=CALL_S)
        last = (await log.epoch_ends(IndexName(home.index), Epoch(term.epoch), timeout_s=CALL_S))[shard]
        if last <= max(end, state.first - 1):
            continue
        async with aclosing(log.read(shard, max(end, state.first - 1), state.incarnation)) as entries:
            async for entry in entries:
                if entry.index == home.index and entry.epoch == term.epoch and not _is_ours(entry.body):
                    yield entry
                if entry.sequence >= last:
                    break


def _is_ours(body: Body) -> bool:
    """Entries that no caller asked for."""
    return isinstance(body, Heartbeat | EpochOpened | Resolved)


def tail_line(entry: Entry) -> bytes:
    """An entry of a tail as a line of JSON."""
    return msgspec.json.encode(
        {
            "lsn": entry.lsn,
            "appended_s": entry.appended_s,
            "index": entry.index,
            "namespace": entry.namespace,
            "change": entry.body,
        },
        enc_hook=jsonable,
    )


# --- What a region holds ---------------------------------------------------------------------------


async def _caught_up(
    registers: Registers,
    index: IndexName,
    old: Home,
    streams: Sequence[str],
    ends: Sequence[int],
    timeout_s: float,
) -> None:
    """Return when the region's replica has applied everything of these streams up to `ends`."""
    missing = ""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                missing = await _missing(registers, index, old, streams, ends)
                if not missing:
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise NotCaughtUp(f"after {timeout_s:g} s it still lacks {missing or 'something'}") from None


async def _missing(
    registers: Registers, index: IndexName, old: Home, streams: Sequence[str], ends: Sequence[int]
) -> str:
    for shard, (stream, end) in enumerate(zip(streams, ends, strict=True)):
        progress = await _progress(registers, old.region, shard)
        if progress is None or progress.is_resyncing or progress.epochs.get(index, 0) < old.epoch:
            return f"shard {shard}"
        if progress.incarnation != stream:
            return f"the new stream of shard {shard}"
        if progress.received < end:
            return f"{end - progress.received} entries of shard {shard}"
        for key, mark in progress.behind.items():
            if key.startswith(f"{index}/") and (mark.applied < end or not mark.is_readable):
                return f"changes of {key}" + (f", parked: {mark.parked}" if mark.parked else "")
    return ""


async def _held(
    registers: Registers, index: IndexName, old: Home, shards: int, timeout_s: float
) -> tuple[list[Progress | None], list[str]]:
    """How far the region received every shard, and which namespaces lack some of that.

    Raises: LogUnavailable.
    """
    told: list[Progress | None] | None = None
    lacking: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                told = [await _progress(registers, old.region, shard) for shard in range(shards)]
                lacking = [name for each in told if each for name in _unapplied(each, index)]
                if not lacking:
                    break
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        if told is None:
            raise LogUnavailable("the new home does not say how far it is") from None
    return told, lacking  # what lacks something is named to whoever asked for this


async def _ahead(others: Mapping[RegionId, Registers], old: Home, ends: Sequence[int]) -> list[str]:
    """Which other regions received more of the old epoch than its new end: they have to be resynced."""
    found: list[str] = []
    for region, registers in others.items():
        for shard, end in enumerate(ends):
            try:
                progress = await _progress(registers, old.region, shard)
            except LogUnavailable:
                break
            if progress is not None and progress.received > end:
                found.append(f"{region} received {progress.received - end} more entries of shard {shard}")
    return found


def _unapplied(progress: Progress, index: IndexName) -> list[str]:
    behind = progress.behind.items()
    return [
        k for k, m in behind if k.startswith(f"{index}/") and (m.unapplied_s != NONE_S or not m.is_readable)
    ]


async def _progress(registers: Registers, home: RegionId, shard: int) -> Progress | None:
    register = await registers.get(progress_key(home, shard), timeout_s=CALL_S)
    return None if register is None else decode(register.value)


# --- Epochs ----------------------------------------------------------------------------------------


async def _open(log: Log, index: IndexName, epoch: Epoch) -> Epoch:
    """Open the epoch, or the next that the log takes: an attempt before this one may have got this far."""
    while True:
        try:
            await log.open_epoch(index, epoch, timeout_s=CALL_S)
            return epoch
        except StaleEpoch:
            epoch = Epoch(epoch + 1)


async def _takes(log: Log, home: Home) -> bool:
    """Whether the home's log takes writes of the present epoch, or an attempt to promote has fenced it."""
    try:
        await log.open_epoch(IndexName(home.index), home.epoch, timeout_s=CALL_S)
    except StaleEpoch:
        return False
    return True


async def _streams(log: Log) -> list[str]:
    return [(await log.state(shard, timeout_s=CALL_S)).incarnation for shard in range(log.shards)]


def _decided(seen: Seen) -> Home:
    home = seen.decided
    if home is None:
        raise LogUnavailable(f"no home of {seen.index} is decided: is there a gateway that knows the index?")
    return home


def _log(places: Sequence[Place], region: RegionId) -> Log:
    logs: Mapping[RegionId, Log] = {place.region: place.log for place in places}
    return logs[region]
