"""What a journal can do: an append-only stream of small records in a region, which change no index.

It knows nothing of epochs and homes: anyone may append, nothing is ever refused as stale, and the order of
records of different writers means nothing. So two writers need no agreement, and a record that may have been
stored already may be appended again, as long as whoever reads knows a record by its own id.

What a journal promises:

1. `append` answers only when all of it is on disk; what it was given is stored whole or not at all.
2. `read` gives every record after a cursor, in order, once; a trimmed or a re-created stream is an error,
   never a silent skip.
3. Records go by age, and before that only when the journal is full: the oldest first.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from regions.names import RegionId

MAX_RECORDS: Final = 1_000
MAX_RECORD_BYTES: Final = 64_000
MAX_BYTES: Final = 16_000_000
"""What one append may hold."""


@dataclass(frozen=True, slots=True)
class Record:
    """What was appended, at its place; `stored_s` is the server's clock, seconds since 1970."""

    sequence: int
    stored_s: float
    data: bytes


@dataclass(frozen=True, slots=True)
class JournalState:
    """A journal as it stands: `first` and `last` sequence (first = last + 1 when empty), and its stream.

    `incarnation` differs for a stream that was deleted and made anew. A reader without a cursor reads after
    ``first - 1``, and knows with ``first == 1`` that it misses nothing.
    """

    incarnation: str
    first: int
    last: int


class Journal(Protocol):
    """One journal of one region."""

    @property
    def region(self) -> RegionId: ...

    async def start(self) -> None:
        """Connect, and make the stream that is missing. Raises: LogUnavailable: a later call tries again."""
        ...

    async def append(self, records: Sequence[bytes], *, timeout_s: float) -> int:
        """Store them; the sequence of the last.

        Raises: LogUnavailable: certainly not stored. AppendUnknown: nobody knows; appending them again is
        right where readers know records by an id. ValueError: none, or more than fits (`check`).
        """
        ...

    async def state(self, *, timeout_s: float) -> JournalState:
        """Raises: LogUnavailable."""
        ...

    def read(self, after: int, incarnation: str) -> AsyncGenerator[Record, None]:
        """What stands after that sequence as the reading begins, in order; then it ends.

        Raises: LogTrimmed: the record after the cursor is gone. LogRecreated: the stream is another one, or
        ends before the cursor. LogUnavailable: the server was lost; reading on from the last record is safe.
        """
        ...

    async def close(self) -> None: ...


def check(records: Sequence[bytes]) -> None:
    """Raises: ValueError: no record, too many, or too large."""
    if not 0 < len(records) <= MAX_RECORDS:
        raise ValueError(f"an append holds 1 to {MAX_RECORDS} records, not {len(records)}")
    if max(map(len, records)) > MAX_RECORD_BYTES or sum(map(len, records)) > MAX_BYTES:
        raise ValueError(f"a record takes at most {MAX_RECORD_BYTES} bytes and an append {MAX_BYTES}")
