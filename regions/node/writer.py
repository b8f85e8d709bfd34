"""The one thread that writes: everything that waits goes into one transaction, and so costs one fsync.

A task is a call on the `Store`. Each runs in a savepoint: one that is refused leaves the others alone. After
the commit `on_commit` sees the results, still on this thread and in their order, and only then do the
callers hear: an acknowledged write is durable and, without a visibility delay, searchable.
"""

import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from regions.errors import RegionsError
from regions.node.store import Store

T = TypeVar("T")

MAX_TASKS_A_COMMIT: Final = 256


class WriterBusy(RegionsError):
    """More writes wait than the queue holds."""


class WriterFailed(RegionsError):
    """The store could not be written: a full or broken disk."""


@dataclass(frozen=True, slots=True)
class _Task:
    call: Callable[[Store], Any]
    done: Future[Any]


class Writer:
    """Owns the writing connection and its thread, from construction to `close`."""

    def __init__(
        self, db: sqlite3.Connection, on_commit: Callable[[Sequence[Any]], None], max_waiting: int = 4_096
    ) -> None:
        self._db, self._store, self._on_commit = db, Store(db), on_commit
        self._waiting: queue.Queue[_Task | None] = queue.Queue()
        self._max_waiting = max_waiting
        self._thread = threading.Thread(target=self._run, name="node-writer", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[Store], T], *, is_own: bool = False) -> Future[T]:
        """Queue a call; its future ends after the commit. The node's own calls always find room.

        Raises: WriterBusy: as many calls wait as may.
        """
        if not is_own and self._waiting.qsize() >= self._max_waiting:
            raise WriterBusy("too many writes are waiting")
        done: Future[T] = Future()
        self._waiting.put(_Task(call, done))
        return done

    def close(self) -> None:
        """Finish what waits, fold the log into the database and close it."""
        self._waiting.put(None)
        self._thread.join()
        self._db.close()

    def _run(self) -> None:
        while (task := self._waiting.get()) is not None:
            batch, is_last = self._batch(task)
            self._commit([each for each in batch if each.done.set_running_or_notify_cancel()])
            if is_last:
                return

    def _batch(self, first: _Task) -> tuple[list[_Task], bool]:
        """All that waits, up to a bound, and whether the end was among it."""
        batch = [first]
        with suppress(queue.Empty):
            while len(batch) < MAX_TASKS_A_COMMIT:
                task = self._waiting.get_nowait()
                if task is None:
                    return batch, True
                batch.append(task)
        return batch, False

    def _commit(self, batch: list[_Task]) -> None:
        try:
            outcomes = self._write(batch)
        except Exception as error:  # noqa: BLE001 - it is raised again in every caller; the thread must live
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            failure = WriterFailed(f"the store cannot be written: {error}")
            failure.__cause__ = error
            for task in batch:
                task.done.set_exception(failure)
            return
        for task, (result, refusal) in zip(batch, outcomes, strict=True):
            if refusal is None:
                task.done.set_result(result)
            else:
                task.done.set_exception(refusal)

    def _write(self, batch: list[_Task]) -> list[tuple[Any, RegionsError | None]]:
        self._db.execute("BEGIN IMMEDIATE")
        outcomes = [self._attempt(task) for task in batch]
        self._db.execute("COMMIT")
        self._on_commit([result for result, refusal in outcomes if refusal is None])
        return outcomes

    def _attempt(self, task: _Task) -> tuple[Any, RegionsError | None]:
        """The call's result, or why it was refused; a refused call has changed nothing."""
        self._db.execute("SAVEPOINT task")
        result: Any = None
        refusal: RegionsError | None = None
        try:
            result = task.call(self._store)
        except RegionsError as error:
            refusal = error
            self._db.execute("ROLLBACK TO task")
        self._db.execute("RELEASE task")
        return result, refusal
