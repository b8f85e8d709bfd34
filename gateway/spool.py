"""A spool: records that no journal has yet, in files of this machine, which outlive the process.

`write` is one write(2): what it wrote is the kernel's, and there after a kill -9 of this process. It is not
synced: a machine that loses power loses what the journal had not yet, as a rule the last tenth of a second.

Records go into the active segment, a file; `seal` ends it and begins another with the next record. A sealed
segment is read, sent to the journal, and removed. Every file is locked by the process that fills it, so
whoever gets the lock of another's file knows that its process is gone, and adopts it.

What is here is the event loop's, but for `orphans` and `read`, which are for a thread.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUFFIX: Final = ".spool"
SEGMENT_BYTES: Final = 1_000_000
"""A segment that has so much is sealed by itself: this bounds what one holds in memory."""


@dataclass(slots=True)
class Segment:
    """One file, and how much is in it."""

    path: Path
    fd: int
    size_bytes: int = 0
    records: int = 0


class SpoolFull(Exception):
    """There is no room for the record, by the limit or on the disk."""


class Spool:
    """The files of one process in a directory that it may share; `name` says whose they are.

    What begins with another name is never touched, so a directory may hold the spools of several regions.
    """

    def __init__(self, directory: Path, name: str, own: str, *, max_bytes: int) -> None:
        self._directory, self._prefix, self._own, self._max_bytes = directory, f"{name}~", own, max_bytes
        self._active: Segment | None = None
        self._sealed: list[Segment] = []
        self._made = 0

    @property
    def records(self) -> int:
        """How many are not dropped yet."""
        return sum(segment.records for segment in self._all())

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self._all())

    def write(self, record: bytes) -> None:
        """Keep one record, which has no line end in it. Raises: SpoolFull: it is not kept."""
        line = record + b"\n"
        if self.size_bytes + len(line) > self._max_bytes:
            raise SpoolFull(f"{self._max_bytes} bytes wait already")
        try:
            segment = self._open() if self._active is None else self._active
            self._append(segment, line)
        except OSError as error:
            raise SpoolFull(f"{self._directory}: {error.strerror}") from error
        if segment.size_bytes >= SEGMENT_BYTES:
            self.seal()

    def seal(self) -> list[Segment]:
        """Everything that is to be sent, oldest first; what is written from now on comes into a new file."""
        if self._active is not None:
            self._sealed.append(self._active)
            self._active = None
        return list(self._sealed)

    def adopt(self, found: Sequence[Segment]) -> None:
        """Send these too, first of all."""
        self._sealed[:0] = found

    def forget(self, segment: Segment) -> None:
        """The journal has it: `remove` is next."""
        self._sealed.remove(segment)

    def orphans(self) -> list[Segment]:
        """What processes that are gone left behind, now locked by us.

        Raises: OSError: the directory cannot be made, or not be written to.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        if not os.access(self._directory, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable")
        paths = sorted(self._directory.glob(f"{self._prefix}*{SUFFIX}"))
        return [segment for path in paths if (segment := _locked(path)) is not None]

    def close(self) -> None:
        """Let go of the files; what is in them waits for the next process."""
        for segment in self.seal():
            os.close(segment.fd)
        self._sealed.clear()

    def _open(self) -> Segment:
        self._made += 1
        path = self._directory / f"{self._prefix}{self._own}-{self._made:08d}{SUFFIX}"
        being_made = path.with_suffix(".new")  # under its name only once it is locked: or others adopted it
        fd = os.open(being_made, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        being_made.rename(path)
        self._active = Segment(path, fd)
        return self._active

    def _append(self, segment: Segment, line: bytes) -> None:
        """All of the line or nothing of it. Raises: OSError."""
        written = os.write(segment.fd, line)
        if written < len(line):
            os.ftruncate(segment.fd, segment.size_bytes)
            raise OSError(errno.ENOSPC, "no space left for a whole record")
        segment.size_bytes += written
        segment.records += 1

    def _all(self) -> Iterator[Segment]:
        yield from self._sealed
        if self._active is not None:
            yield self._active


def remove(segment: Segment) -> None:
    """Its file, and our hold on it."""
    segment.path.unlink(missing_ok=True)
    os.close(segment.fd)


def read(segment: Segment) -> list[bytes]:
    """Its records. What a torn line holds is no record: whoever decodes it finds that out."""
    return os.pread(segment.fd, segment.size_bytes, 0).splitlines()


def _locked(path: Path) -> Segment | None:
    """The file of a process that is gone; None when it is alive, or another adopted it before us."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_there = os.fstat(fd).st_nlink > 0
    except BlockingIOError:
        is_there = False
    if not is_there:
        os.close(fd)
        return None
    segment = Segment(path, fd, os.fstat(fd).st_size)
    segment.records = len(read(segment))
    return segment
