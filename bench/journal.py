"""A client's own account of its writes: what it was told, on disk before it goes on, and what may stand.

Each id has one writer, which does one thing after the other. So whatever an id holds in the end is the effect
of the last write of it that was acknowledged, or of one after it whose outcome is not known.
"""

import os
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

GONE: Final = 0
"""What an id holds that was deleted or never written; writes are numbered from 1."""


class Outcome(StrEnum):
    """What the client was told."""

    ACKED = "acked"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Wrote(msgspec.Struct, frozen=True):
    """A write of some ids: they hold `number` now, or nothing when `is_delete`."""

    namespace: str
    ids: list[str]
    number: int
    is_delete: bool
    outcome: Outcome

    @property
    def leaves(self) -> int:
        return GONE if self.is_delete else self.number


class Journal:
    """The account of one writer, synced to disk line by line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def note(self, wrote: Wrote) -> None:
        """On disk on return."""
        self._file.write(msgspec.json.encode(wrote) + b"\n")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Wrote]:
    """What a journal holds; a last line that was cut off was never acknowledged to anybody."""
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield msgspec.json.decode(line, type=Wrote)


class Expected(msgspec.Struct):
    """What an id may hold: the effect of `acked` (its number, if that was no delete), or one of `perhaps`."""

    acked: int = GONE
    leaves: int = GONE
    perhaps: set[int] = msgspec.field(default_factory=set)

    def take(self, wrote: Wrote) -> None:
        if wrote.outcome is Outcome.ACKED:
            self.acked, self.leaves = wrote.number, wrote.leaves
            self.perhaps = set()
        elif wrote.outcome is Outcome.UNKNOWN:
            self.perhaps.add(wrote.leaves)

    def judge(self, holds: int) -> str:
        """ "" when that may be; else "lost" or "resurrected"."""
        if holds == self.leaves or holds in self.perhaps:
            return ""
        # What is older than the acknowledged write came back over it; or that write never took effect.
        return "resurrected" if self.leaves == GONE else "lost"


def expected(paths: list[Path]) -> Mapping[tuple[str, str], Expected]:
    """What every id may hold, by namespace and id."""
    found: dict[tuple[str, str], Expected] = {}
    for path in paths:
        for wrote in read(path):
            for id_ in wrote.ids:
                found.setdefault((wrote.namespace, id_), Expected()).take(wrote)
    return found
