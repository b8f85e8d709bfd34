"""A change log in memory, for simulation and tests: the contract of `base.py` without a server.

Time is handed in, nothing sleeps, and entries are kept as the bytes that JetStream would keep. Any number
of clients may share one `MemoryLog`: it stands for the server. What can happen to a server is a method:

* `go_down`, `come_up`: it cannot be reached. Nothing is lost.
* `lose_next_ack`: an append of unknown outcome, stored at once, never, or when `land` is called.
* `tear`: the tail is lost, as on a disk that did not keep what it said it kept.
* `recreate`: a shard's stream was deleted and made anew.
* `trim_before`: entries go whatever the leases say, as when an operator purges a stream.
* `corrupt`: a stored byte turns.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from regions.change_codec import decode, encode
from regions.changes import Body, EpochOpened, Heartbeat
from regions.errors import AppendUnknown, LogCorrupt, LogRecreated, LogTrimmed, LogUnavailable, StaleEpoch
from regions.logs.base import Append, Entry, Fence, ShardState, encode_batch
from regions.names import IndexName, RegionId
from regions.positions import Epoch, Lsn, make_lsn
from regions.registers.base import Registers
from regions.retention import (
    LEASE_PREFIX,
    Lease,
    Retention,
    decode_lease,
    encode_lease,
    held_after,
    lease_key,
    new_first,
)
from regions.runtime.lifecycle import wall_clock

ORIGIN_STEP: Final = 1_000_000
NO_INDEX: Final = IndexName("")
NO_EPOCH: Final = Epoch(0)


class Config(BaseModel):
    """A log that is gone with its process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: int = Field(4, ge=1, le=64, description="Streams that a region's namespaces are spread over.")
    retention: Retention = Retention()


def build(
    config: Config, *, region: RegionId, registers: Registers, resolve: Callable[..., str]
) -> "MemoryLog":
    """The log of a region, on the wall clock."""
    del resolve
    return MemoryLog(region, registers, wall_clock, shards=config.shards, retention=config.retention)


class Landing(StrEnum):
    """What becomes of an append whose answer is lost."""

    NOW = "now"
    NEVER = "never"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class _Stored:
    index: IndexName
    appended_s: float
    data: bytes
    trace: str = ""


@dataclass(slots=True)
class _Stream:
    incarnation: str
    origin: int
    first: int
    last: int
    entries: dict[int, _Stored] = field(default_factory=dict)
    fences: dict[IndexName, list[tuple[Epoch, int]]] = field(default_factory=dict)
    """(epoch, sequence of its fence), oldest first; trimming does not touch them."""
    stored_bytes: int = 0

    def put(self, index: IndexName, appended_s: float, data: bytes, trace: str = "") -> int:
        self.last += 1
        self.stored_bytes += len(data)
        self.entries[self.last] = _Stored(index, appended_s, data, trace)
        return self.last

    def drop(self, sequence: int) -> None:
        self.stored_bytes -= len(self.entries.pop(sequence).data)


class MemoryLog:
    """`regions.logs.base.Log` in this process; see the module for its faults."""

    def __init__(
        self,
        region: RegionId,
        registers: Registers,
        clock: Callable[[], float],
        *,
        shards: int = 4,
        retention: Retention | None = None,
    ) -> None:
        self._region, self._registers, self._clock = region, registers, clock
        self.retention = retention or Retention()
        self._made = 0
        self._streams = [self._make(shard) for shard in range(shards)]
        self._is_up = True
        self._changed = asyncio.Event()
        self._lost_acks: list[Landing] = []
        self._in_flight: list[Callable[[], object]] = []

    @property
    def region(self) -> RegionId:
        return self._region

    @property
    def shards(self) -> int:
        return len(self._streams)

    async def start(self) -> None:
        self._check_up()

    async def append(
        self, fence: Fence, shard: int, batch: Sequence[Append], *, timeout_s: float
    ) -> Sequence[Lsn]:
        bodies = list(zip(encode_batch(fence.epoch, batch), [each.trace for each in batch], strict=True))
        self._check_up()
        landing = self._lost_acks.pop(0) if self._lost_acks else None
        if landing is Landing.LATER:
            self._in_flight.append(lambda: self._store(fence, shard, bodies))
        if landing in (Landing.LATER, Landing.NEVER):
            raise AppendUnknown(f"{self._region}, shard {shard}: no answer in {timeout_s} s")
        sequences = self._store(fence, shard, bodies)
        if landing is Landing.NOW:
            raise AppendUnknown(f"{self._region}, shard {shard}: no answer in {timeout_s} s")
        return [make_lsn(fence.epoch, sequence) for sequence in sequences]

    async def beat(self, shard: int, *, timeout_s: float) -> int:
        self._check_up()
        sequence = self._put(shard, NO_INDEX, NO_EPOCH, Heartbeat())
        self._tell()
        return sequence

    async def open_epoch(self, index: IndexName, epoch: Epoch, *, timeout_s: float) -> Fence:
        self._check_up()
        tokens = [self._open(shard, index, epoch) for shard in range(self.shards)]
        self._tell()
        return Fence(index, epoch, tokens)

    async def epoch_ends(self, index: IndexName, epoch: Epoch, *, timeout_s: float) -> Sequence[int]:
        self._check_up()
        return [self._end(stream, index, epoch) for stream in self._streams]

    async def state(self, shard: int, *, timeout_s: float) -> ShardState:
        self._check_up()
        stream = self._streams[shard]
        return ShardState(stream.incarnation, stream.origin, stream.first, stream.last, self._clock())

    async def read(self, shard: int, after: int, incarnation: str) -> AsyncGenerator[Entry, None]:
        while True:
            self._check_up()
            changed, stream = self._changed, self._streams[shard]
            if stream.incarnation != incarnation:
                raise LogRecreated(f"shard {shard} is {stream.incarnation}, the cursor is of {incarnation}")
            if after > stream.last:
                raise LogRecreated(f"shard {shard} ends at {stream.last}, before the cursor at {after}")
            if after + 1 < stream.first:
                raise LogTrimmed(shard, after, stream.first)
            if after == stream.last:
                await changed.wait()
                continue
            after += 1
            yield _entry(shard, after, stream.entries[after])

    async def hold(self, reader: str, sequences: Sequence[int], *, lease_s: float) -> None:
        self._check_up()
        if len(sequences) != self.shards:
            raise ValueError(f"a lease names all {self.shards} shards, not {len(sequences)}")
        lease = Lease(list(sequences), self._clock() + lease_s)
        await self._registers.put(lease_key(reader), encode_lease(lease), timeout_s=1.0)

    async def trim(self) -> Sequence[int]:
        self._check_up()
        registers = await self._registers.scan(LEASE_PREFIX, timeout_s=1.0)
        leases = [decode_lease(register.value) for register in registers]
        for shard, stream in enumerate(self._streams):
            held = held_after(leases, shard, self._clock())
            self.trim_before(shard, self._first_to_keep(stream, held))
        return [stream.first for stream in self._streams]

    async def close(self) -> None:
        """What was appended stays, as on a server."""

    def go_down(self) -> None:
        """From now on every call and every reader raises LogUnavailable."""
        self._is_up = False
        self._tell()

    def come_up(self) -> None:
        """Answer again, with everything that was stored."""
        self._is_up = True

    def lose_next_ack(self, landing: Landing) -> None:
        """The next append (then the one after it, when called twice) raises AppendUnknown."""
        self._lost_acks.append(landing)

    def land(self) -> None:
        """What was lost with `Landing.LATER` arrives now, unless its epoch is fenced off by now."""
        late, self._in_flight = self._in_flight, []
        for store in late:
            try:
                store()
            except StaleEpoch:
                continue  # the log refused it, and nobody waits for the answer

    def tear(self, shard: int, last: int) -> None:
        """Lose every entry and every fence after `last`; the stream is the same by name and date."""
        stream = self._streams[shard]
        last = max(last, stream.first - 1)
        for sequence in range(last + 1, stream.last + 1):
            stream.drop(sequence)
        stream.last = min(stream.last, last)
        for fences in stream.fences.values():
            fences[:] = [each for each in fences if each[1] <= stream.last]
        self._tell()

    def recreate(self, shard: int) -> None:
        """Replace the shard's stream by an empty one; epochs must be opened anew."""
        self._streams[shard] = self._make(shard)
        self._tell()

    def trim_before(self, shard: int, first: int) -> None:
        """Remove every entry before `first`, whoever holds a lease."""
        stream = self._streams[shard]
        first = max(stream.first, min(first, stream.last + 1))
        for sequence in range(stream.first, first):
            stream.drop(sequence)
        stream.first = first
        self._tell()

    def corrupt(self, shard: int, sequence: int) -> None:
        """Turn a bit of a stored entry."""
        stored = self._streams[shard].entries[sequence]
        data = stored.data[:-1] + bytes([stored.data[-1] ^ 1])
        self._streams[shard].entries[sequence] = replace(stored, data=data)

    def _make(self, shard: int) -> _Stream:
        self._made += 1
        first = self._made * ORIGIN_STEP + 1
        return _Stream(f"{self._region}/{shard}/{self._made}", first, first, first - 1)

    def _store(self, fence: Fence, shard: int, bodies: Sequence[tuple[bytes, str]]) -> list[int]:
        stream = self._streams[shard]
        opened = stream.fences.get(fence.index)
        if not opened or opened[-1][1] != fence.tokens[shard]:
            raise StaleEpoch(f"epoch {fence.epoch} of {fence.index} is not open in shard {shard}")
        if stream.stored_bytes + sum(len(body) for body, _ in bodies) > self.retention.hard_bytes:
            raise LogUnavailable(f"shard {shard} is full")
        now_s = self._clock()
        sequences = [stream.put(fence.index, now_s, body, trace) for body, trace in bodies]
        self._tell()
        return sequences

    def _put(self, shard: int, index: IndexName, epoch: Epoch, body: Body) -> int:
        return self._streams[shard].put(index, self._clock(), encode(epoch, "", body))

    def _open(self, shard: int, index: IndexName, epoch: Epoch) -> int:
        opened = self._streams[shard].fences.setdefault(index, [])
        if opened and opened[-1][0] > epoch:
            raise StaleEpoch(f"epoch {opened[-1][0]} of {index} is open in shard {shard}, not {epoch}")
        if not opened or opened[-1][0] < epoch:
            opened.append((epoch, self._put(shard, index, epoch, EpochOpened())))
        return opened[-1][1]

    def _end(self, stream: _Stream, index: IndexName, epoch: Epoch) -> int:
        opened = stream.fences.get(index, [])
        if all(each != epoch for each, _ in opened):
            return 0
        return min((sequence - 1 for each, sequence in opened if each > epoch), default=stream.last)

    def _first_to_keep(self, stream: _Stream, held: int | None) -> int:
        oldest_s = self._clock() - self.retention.age_s
        young = next((n for n, e in stream.entries.items() if e.appended_s > oldest_s), stream.last + 1)
        fitting, room = stream.first, self.retention.soft_bytes
        for sequence in reversed(stream.entries):
            room -= len(stream.entries[sequence].data)
            if room < 0:
                fitting = sequence + 1
                break
        return new_first(
            stream.first,
            stream.last,
            young=young,
            fitting=fitting,
            held=held,
            stored_bytes=stream.stored_bytes,
            keep=self.retention,
        )

    def _check_up(self) -> None:
        if not self._is_up:
            raise LogUnavailable(f"the log of {self._region} cannot be reached")

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _entry(shard: int, sequence: int, stored: _Stored) -> Entry:
    try:
        epoch, namespace, body = decode(stored.data)
    except LogCorrupt as error:
        raise LogCorrupt(f"shard {shard}, sequence {sequence}: {error}") from error
    return Entry(shard, sequence, epoch, stored.appended_s, stored.index, namespace, body, stored.trace)
