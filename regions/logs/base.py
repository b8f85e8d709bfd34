"""What a change log can do, whatever server stands behind it.

A region has one log. It is cut into shards by a hash of the namespace, and each shard is one totally
ordered stream whose sequence begins at 1 and has no holes. The order within a namespace is therefore
the order of its shard. Every entry of an index carries the epoch under which it was appended; the LSN
that callers see is ``epoch << 40 | sequence``.

What a log promises:

1. `append` answers only when the whole batch is on disk; the batch is stored whole or not at all.
2. Appending under an epoch that has been fenced off is refused, by the log itself.
3. `read` gives every entry after a cursor, in order, once; a hole, a trimmed or a re-created stream is
   an error, never a silent skip.
4. Nobody's entries are trimmed while they hold a lease on them, up to the log's limit of bytes; when
   that limit wins, the reader learns of it (`LogTrimmed`).

Times are the log server's clock, seconds since 1970: the age of an entry is judged by one clock only.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from regions.changes import Body
from regions.names import IndexName, RegionId
from regions.positions import Epoch, Lsn, make_lsn


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to append to an index under an epoch: one token a shard, given by `Log.open_epoch`."""

    index: IndexName
    epoch: Epoch
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class Entry:
    """A change at its position. `appended_s` is the log server's time; `index` is "" for a heartbeat."""

    shard: int
    sequence: int
    epoch: Epoch
    appended_s: float
    index: IndexName
    namespace: str
    body: Body

    @property
    def lsn(self) -> Lsn:
        return make_lsn(self.epoch, self.sequence)


@dataclass(frozen=True, slots=True)
class ShardState:
    """A shard as it stands: `first` and `last` sequence (first = last + 1 when empty), and its stream.

    `incarnation` differs for a stream that was deleted and made anew.
    """

    incarnation: str
    first: int
    last: int
    now_s: float


@dataclass(frozen=True, slots=True)
class Append:
    """One change for a namespace, before it has a position."""

    namespace: str
    body: Body


class Log(Protocol):
    """The change log of one region."""

    @property
    def region(self) -> RegionId: ...

    @property
    def shards(self) -> int: ...

    async def start(self) -> None: ...

    async def append(
        self, fence: Fence, shard: int, batch: Sequence[Append], *, timeout_s: float
    ) -> Sequence[Lsn]:
        """Store the batch, whole, in one shard; the positions are consecutive.

        Raises: StaleEpoch: another epoch was opened since. LogUnavailable: certainly not stored.
        AppendUnknown: it may or may not be stored, and that could not be found out in time.
        """
        ...

    async def beat(self, shard: int, *, timeout_s: float) -> int:
        """Append a heartbeat, of no index and no epoch, so that silence has an age; its sequence."""
        ...

    async def open_epoch(self, index: IndexName, epoch: Epoch, *, timeout_s: float) -> Fence:
        """Fence off every earlier epoch of the index in every shard. Repeating it gives the same fence.

        Raises: StaleEpoch: a later epoch is open already.
        """
        ...

    async def epoch_ends(self, index: IndexName, epoch: Epoch, *, timeout_s: float) -> Sequence[int]:
        """The last sequence appended under that epoch, for every shard; 0 where there is none."""
        ...

    async def state(self, shard: int, *, timeout_s: float) -> ShardState: ...

    def read(self, shard: int, after: int, incarnation: str) -> AsyncIterator[Entry]:
        """Entries after that sequence, then new ones as they come, until the iterator is closed.

        Raises: LogTrimmed: the entry after the cursor is gone. LogRecreated: the stream is another one,
        or ends before the cursor. LogCorrupt: an entry's checksum or codec version is wrong.
        LogUnavailable: the server cannot be reached; reading again from the last entry is safe.
        """
        ...

    async def hold(self, reader: str, sequences: Sequence[int], *, lease_s: float) -> None:
        """Keep every shard's entries after these sequences for that reader, until the lease ends."""
        ...

    async def trim(self) -> Sequence[int]:
        """Trim by age and size as configured, never past a lease that lives; the new first sequences."""
        ...

    async def close(self) -> None: ...


class Registers(Protocol):
    """Small values of one region, each changed by compare-and-set: homes, cursors, leases, watermarks."""

    async def get(self, key: str, *, timeout_s: float) -> tuple[bytes, int] | None:
        """The value and its revision; None when there is none. Raises: LogUnavailable."""
        ...

    async def put(self, key: str, value: bytes, *, timeout_s: float) -> int:
        """Set it whatever it was; the new revision."""
        ...

    async def swap(self, key: str, value: bytes, revision: int, *, timeout_s: float) -> int:
        """Set it if it is still at `revision` (0: absent). Raises: Conflict: it is not."""
        ...

    def watch(self, prefix: str) -> AsyncIterator[tuple[str, bytes, int]]:
        """Every key of the prefix as it is, then as it changes. Raises: LogUnavailable."""
        ...
