"""What a change log can do, whatever server stands behind it.

A region has one log. It is cut into shards by a hash of the namespace, and each shard is one totally
ordered stream whose sequence has no holes. The order within a namespace is therefore the order of its
shard. Every entry of an index carries the epoch under which it was appended; the LSN that callers see is
``epoch << 40 | sequence``.

A stream's sequence begins at its `origin`, which is another number for every stream ever made. Were it
always 1, then the fence of a new epoch in a re-created stream would often stand where the old one stood in
the lost stream, and the log would take an old epoch's appends for the new one's.

What a log promises:

1. `append` answers only when the whole batch is on disk; the batch is stored whole or not at all.
2. Appending under an epoch that has been fenced off is refused, by the log itself.
3. `read` gives every entry after a cursor, in order, once; a hole, a trimmed or a re-created stream is
   an error, never a silent skip.
4. Nobody's entries are trimmed while they hold a lease on them, up to the log's limit of bytes; when
   that limit wins, the reader learns of it (`LogTrimmed`). Fences outlive trimming: an epoch stays open.

Times are the log server's clock, seconds since 1970: the age of an entry is judged by one clock only.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from regions.change_codec import MAX_ENTRY_BYTES, encode
from regions.changes import Body
from regions.names import IndexName, RegionId
from regions.positions import Epoch, Lsn, make_lsn

MAX_BATCH_CHANGES: Final = 1_000
MAX_BATCH_BYTES: Final = 16_000_000
"""What one batch may hold: JetStream's atomic batches end at 1,000 messages; the bytes bound memory."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to append to an index under an epoch: one token a shard, given by `Log.open_epoch`."""

    index: IndexName
    epoch: Epoch
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class Entry:
    """A change at its position. `appended_s` is the log server's time; `index` is "" for a heartbeat.

    `trace` is the `traceparent` of what appended it, as `Append` had it.
    """

    shard: int
    sequence: int
    epoch: Epoch
    appended_s: float
    index: IndexName
    namespace: str
    body: Body
    trace: str = ""

    @property
    def lsn(self) -> Lsn:
        return make_lsn(self.epoch, self.sequence)


@dataclass(frozen=True, slots=True)
class ShardState:
    """A shard as it stands: `first` and `last` sequence (first = last + 1 when empty), and its stream.

    `incarnation` differs for a stream that was deleted and made anew. `origin` is the sequence of its very
    first entry: a reader without a cursor reads after ``origin - 1``, and nothing was trimmed as long as
    ``first == origin``. `now_s` is the log server's clock.
    """

    incarnation: str
    origin: int
    first: int
    last: int
    now_s: float


@dataclass(frozen=True, slots=True)
class Append:
    """One change for a namespace, before it has a position.

    `trace` says which span appended it (W3C `traceparent`, "" for none); it is kept beside the change, for
    those who apply it to refer to, and means nothing to the log.
    """

    namespace: str
    body: Body
    trace: str = ""


def encode_batch(epoch: Epoch, batch: Sequence[Append]) -> list[bytes]:
    """The bytes of each change. Raises: ValueError: a batch or a change that no log takes."""
    bodies = [encode(epoch, each.namespace, each.body) for each in batch]
    if not 0 < len(bodies) <= MAX_BATCH_CHANGES:
        raise ValueError(f"a batch holds 1 to {MAX_BATCH_CHANGES} changes, not {len(bodies)}")
    if max(map(len, bodies)) > MAX_ENTRY_BYTES or sum(map(len, bodies)) > MAX_BATCH_BYTES:
        raise ValueError(
            f"a change takes at most {MAX_ENTRY_BYTES} bytes and a batch {MAX_BATCH_BYTES}: split it"
        )
    return bodies


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
        AppendUnknown: it may or may not be stored, or be stored yet, and that could not be found out in
        time. ValueError: no change, over `MAX_BATCH_CHANGES` or `MAX_BATCH_BYTES`, or a change that takes
        more than `change_codec.MAX_ENTRY_BYTES` (see `change_codec.split`).
        """
        ...

    async def beat(self, shard: int, *, timeout_s: float) -> int:
        """Append a heartbeat, of no index and no epoch, so that silence has an age; its sequence."""
        ...

    async def open_epoch(self, index: IndexName, epoch: Epoch, *, timeout_s: float) -> Fence:
        """Fence off every earlier epoch of the index in every shard. Repeating it gives the same fence.

        Raises: StaleEpoch: a later epoch is open already. LogUnavailable: not in every shard, perhaps in
        some; repeating it is safe.
        """
        ...

    async def epoch_ends(self, index: IndexName, epoch: Epoch, *, timeout_s: float) -> Sequence[int]:
        """Where the epoch ended in every shard: no entry of it lies after; 0 where it was never open.

        It is the sequence before the next epoch's fence, or the shard's last while the epoch is open.
        """
        ...

    async def state(self, shard: int, *, timeout_s: float) -> ShardState: ...

    def read(self, shard: int, after: int, incarnation: str) -> AsyncGenerator[Entry, None]:
        """Entries after that sequence, then new ones as they come, until the generator is closed.

        Raises: LogTrimmed: the entry after the cursor is gone. LogRecreated: the stream is another one,
        or ends before the cursor. LogCorrupt: an entry's checksum or codec version is wrong.
        LogUnavailable: the server cannot be reached; reading again from the last entry is safe.
        """
        ...

    async def hold(self, reader: str, sequences: Sequence[int], *, lease_s: float) -> None:
        """Keep every shard's entries after these sequences for that reader, until the lease ends.

        Repeating it moves the lease; with `lease_s` 0 it ends. Raises: LogUnavailable: it may not stand.
        """
        ...

    async def trim(self) -> Sequence[int]:
        """Trim by age and size as configured, never past a lease that lives unless the limit of bytes
        forces it; the new first sequences.

        Much to trim may take several calls: it is meant to be called every few seconds.
        """
        ...

    async def close(self) -> None: ...
