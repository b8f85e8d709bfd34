"""Saves what an old home took and never shipped, when its region is back: a file a term, and a note of it.

A term that was ended by force may have a tail: changes that its log acknowledged beyond the term's end. They
are no history and nobody applies them; they are written to a file for people to judge. `Tails` does it in the
old home's own region, under the lease of its replicator. The note in the region's registers comes after the
file, so a crash between the two only means that the file is found there already. Whatever machine the lease
moves to, the note says that it is done, how much it was, and where.

A tail does not change once its log is fenced off, so saving it twice gives the same bytes under the same
name; the name has the streams in it, so that another life of the index never takes this file for its own.
"""

import asyncio
import glob
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

import msgspec

from regions.errors import LogError, LogUnavailable
from regions.live import Live
from regions.logs.base import Entry
from regions.promotion import export_tail, fence_off, tail_gap, tail_line
from regions.topology import Home, Term

TAILS_PREFIX: Final = "tails."
LOOK_AGAIN_S: Final = 5.0
CALL_S: Final = 5.0
CHUNK_BYTES: Final = 1024 * 1024


class Saved(msgspec.Struct, frozen=True):
    """What became of a term's tail.

    `changes` are in the file at `path`, which is on the machine whose replicator saved it; no file when there
    are none. `trimmed`: at most so many more, of all indexes, the log had dropped before. With an `error` it
    could not be saved, and is tried again.
    """

    index: str
    epoch: int
    region: str
    changes: int = 0
    path: str = ""
    trimmed: int = 0
    error: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether everything had been shipped."""
        return not (self.changes or self.trimmed or self.error)


_DECODER: Final = msgspec.json.Decoder(Saved)

Say = Callable[[Saved], None]


def tail_key(index: str, epoch: int) -> str:
    """The register that says what became of a term's tail."""
    return f"{TAILS_PREFIX}{index}.{epoch}"


def decode_saved(data: bytes) -> Saved:
    """Raises: msgspec.DecodeError: no such note."""
    return _DECODER.decode(data)


class Tails:
    """Saves the tails of one region's own log, as its terms turn out to have been ended by force."""

    def __init__(self, live: Live, directory: Path, say: Say) -> None:
        """`say` is told of every tail that is not empty, and of every one that could not be saved."""
        self._live, self._directory, self._say = live, directory, say
        self._here = live.topology.here
        self._done: set[tuple[str, int]] = set()
        self._failed: dict[tuple[str, int], str] = {}

    async def run(self) -> NoReturn:
        """Look for ever; to be cancelled. What fails is tried again."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def look(self) -> None:
        """Save what there is to save now."""
        for home in [*self._live.topology.homes.values()]:
            for term in home.terms:
                if (
                    term.is_forced
                    and term.region == self._here
                    and (home.index, term.epoch) not in self._done
                ):
                    await self._settle(home, term)

    async def _settle(self, home: Home, term: Term) -> None:
        """Save a term's tail unless that was done, and note it."""
        try:
            if await self._is_left(home, term):
                saved = await self._save(home, term)
                await self._note(saved)
                if not saved.is_empty:
                    self._say(saved)
        except LogUnavailable:
            return  # the region is not back yet
        except (LogError, OSError) as error:
            await self._fail(home, term, error)
        else:
            self._done.add((home.index, term.epoch))

    async def _is_left(self, home: Home, term: Term) -> bool:
        """Whether nobody has saved it. Raises: LogUnavailable."""
        key, registers = tail_key(home.index, term.epoch), self._live.registers[self._here]
        register = await registers.get(key, timeout_s=CALL_S)
        if register is None:
            return True
        try:
            return bool(decode_saved(register.value).error)
        except msgspec.DecodeError:
            return False  # the note of a newer program, which has seen to it

    async def _note(self, saved: Saved) -> None:
        registers = self._live.registers[self._here]
        await registers.put(tail_key(saved.index, saved.epoch), msgspec.json.encode(saved), timeout_s=CALL_S)

    async def _save(self, home: Home, term: Term) -> Saved:
        """Raises: LogError, OSError."""
        log = self._live.logs[self._here]
        await fence_off(log, home, self._here)  # from here on the tail does not grow
        trimmed = await tail_gap(log, home, term)
        streams = [(await log.state(shard, timeout_s=CALL_S)).incarnation for shard in range(log.shards)]
        path = self._directory.absolute() / file_name(home, term, streams)
        if await asyncio.to_thread(path.exists):  # and there was no time left to note it
            changes = await asyncio.to_thread(_count_lines, path)
        else:
            await asyncio.to_thread(path.parent.mkdir, 0o700, parents=True, exist_ok=True)
            async with aclosing(export_tail(log, home, term)) as entries:
                changes = await write_tail(path, entries)
        return Saved(home.index, term.epoch, self._here, changes, str(path) if changes else "", trimmed)

    async def _fail(self, home: Home, term: Term, error: Exception) -> None:
        """Say it once, and note it, so that `meridian status` says it too."""
        key, told = (home.index, term.epoch), f"{type(error).__name__}: {error}"
        if self._failed.get(key) != told:
            self._failed[key] = told
            failed = Saved(home.index, term.epoch, self._here, error=told)
            self._say(failed)
            with suppress(LogUnavailable):
                await self._note(failed)


def file_name(home: Home, term: Term, streams: Iterable[str]) -> str:
    """Of this index, term and streams alone."""
    life = blake2b("\0".join(streams).encode(), digest_size=4).hexdigest()
    return f"{home.index}.epoch-{term.epoch}.{term.region}.{life}.jsonl"


async def write_tail(path: Path, entries: AsyncIterator[Entry]) -> int:
    """Write the entries to a new file that only its owner reads, a JSON object a line; how many there were.

    The file has its name when all of it is on disk, and not before; without an entry there is none. What an
    attempt before this one left half done is removed.

    Raises: FileExistsError: there is such a file. OSError. Whatever `entries` raises.
    """
    await asyncio.to_thread(_remove_partial, path)
    descriptor, partial = await asyncio.to_thread(tempfile.mkstemp, dir=path.parent, prefix=_partial(path))
    count, chunk = 0, bytearray()
    with os.fdopen(descriptor, "wb") as file:
        try:
            async for entry in entries:
                chunk += tail_line(entry) + b"\n"
                count += 1
                if len(chunk) >= CHUNK_BYTES:
                    await asyncio.to_thread(file.write, bytes(chunk))
                    chunk.clear()
            if count:
                file.write(chunk)
                await asyncio.to_thread(_publish, file, Path(partial), path)
        finally:
            with suppress(FileNotFoundError):  # it has its name
                os.unlink(partial)
    return count


def _publish(file: BinaryIO, partial: Path, path: Path) -> None:
    """Give the file its name, once it would outlive a power cut. Raises: FileExistsError, OSError."""
    file.flush()
    os.fsync(file.fileno())
    if path.exists():  # renaming would replace it without a word
        raise FileExistsError(f"{path} is there already")
    partial.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove_partial(path: Path) -> None:
    for left in path.parent.glob(f"{glob.escape(_partial(path))}*"):
        left.unlink(missing_ok=True)


def _partial(path: Path) -> str:
    """What the names of its unfinished files begin with."""
    return f".{path.name}.partial-"


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
