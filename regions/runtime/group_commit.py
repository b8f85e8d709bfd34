"""Many small appends as few large ones: everything that waits goes into the next commit.

One commit runs at a time, and nothing waits for anything but the running one: alone, an append goes out at
once; under load, batches grow by themselves up to the bounds.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from regions.errors import AppendUnknown, LogUnavailable

W = TypeVar("W")
R = TypeVar("R")

Commit = Callable[[Sequence[W], float], Awaitable[Sequence[R | Exception]]]
"""Given the works and the loop time at which the last of their callers gives up: an outcome for each."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one commit may hold, and how many bytes may wait for theirs."""

    count: int
    bytes: int
    waiting_bytes: int


@dataclass(slots=True, eq=False)
class _Item(Generic[W, R]):
    work: W
    count: int
    bytes: int
    until_s: float
    done: asyncio.Future[R]
    is_sent: bool = False


class GroupCommit(Generic[W, R]):
    """A queue before `commit`; `run` is the task that empties it."""

    def __init__(self, commit: Commit[W, R], bounds: Bounds) -> None:
        self._commit, self._bounds = commit, bounds
        self._waiting: deque[_Item[W, R]] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._is_running = False

    async def submit(self, work: W, *, count: int, size: int, timeout_s: float) -> R:
        """The work's outcome. A work larger than the bounds is committed alone.

        Raises: LogUnavailable: it was not sent: too much waits, or `timeout_s` passed before its turn.
        AppendUnknown: it was sent, and `timeout_s` passed. What the commit gave for it.
        """
        if not self._is_running:
            raise LogUnavailable("not started, or closed")
        if self._waiting_bytes + size > self._bounds.waiting_bytes and self._waiting:
            raise LogUnavailable(f"{self._waiting_bytes} bytes wait to be appended already")
        loop = asyncio.get_running_loop()
        item: _Item[W, R] = _Item(work, count, size, loop.time() + timeout_s, loop.create_future())
        self._waiting.append(item)
        self._waiting_bytes += size
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await item.done
        except TimeoutError:
            if item.is_sent:
                raise AppendUnknown(f"no answer in {timeout_s:.1f} s") from None
            raise LogUnavailable(f"not appended in {timeout_s:.1f} s: others were before it") from None
        finally:
            if not item.is_sent:
                self._waiting.remove(item)
                self._waiting_bytes -= size

    async def run(self) -> None:
        """Commit what comes, until cancelled; then everyone who still waits is told."""
        self._is_running = True
        batch: list[_Item[W, R]] = []
        try:
            while True:
                batch = await self._next_batch()
                until_s = max(item.until_s for item in batch)
                works = [item.work for item in batch]
                try:
                    outcomes = await self._commit(works, until_s)
                except Exception as error:  # noqa: BLE001 - every caller raises it; the queue must live
                    unknown = AppendUnknown(f"failed: {error!r}")
                    unknown.__cause__ = error
                    outcomes = [unknown] * len(works)
                for item, outcome in zip(batch, outcomes, strict=True):
                    _settle(item, outcome)
        finally:
            self._is_running = False
            for item in batch:
                _settle(item, AppendUnknown("closed while it was being appended"))
            for item in self._waiting:
                _settle(item, LogUnavailable("closed"))

    async def _next_batch(self) -> list[_Item[W, R]]:
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        batch: list[_Item[W, R]] = []
        count = size = 0
        while self._waiting:
            item = self._waiting[0]
            count, size = count + item.count, size + item.bytes
            if batch and (count > self._bounds.count or size > self._bounds.bytes):
                break
            item.is_sent = True
            self._waiting_bytes -= item.bytes
            batch.append(self._waiting.popleft())
        return batch


def _settle(item: _Item[W, R], outcome: R | Exception) -> None:
    if item.done.done():
        return  # its caller has gone
    if isinstance(outcome, Exception):
        item.done.set_exception(outcome)
    else:
        item.done.set_result(outcome)
