"""The namespaces that are in memory: loaded when first asked for, the least recently used dropped first.

The writer's thread calls `apply` after each commit; search threads call `get`. A namespace that is being
loaded keeps what is applied meanwhile, and takes it in when its snapshot is in place: positions say what the
snapshot held already. `memory_limit_bytes` bounds all but the namespaces that are in use at the moment.
"""

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec
import structlog

from regions.errors import RegionsError
from regions.node import dense
from regions.node.index import NamespaceIndex
from regions.node.reading import get_namespace, scan_vectors
from regions.node.store import Effect
from regions.record_checks import VectorShape

_EFFECTS_A_CHECK: Final = 256
"""Effects between two looks at how much memory is held."""

_log: Final = structlog.get_logger("meridian.node")


class NamespaceGone(RegionsError):
    """The namespace was removed, with its index, while it was being read."""


class Totals(msgspec.Struct, frozen=True):
    """Namespaces in memory, their bytes, and how many of them wait for or are in maintenance."""

    namespaces: int
    nbytes: int
    in_maintenance: int


class _Entry:
    """A namespace in memory; until `is_ready`, effects wait in `waiting`."""

    def __init__(self, index: NamespaceIndex) -> None:
        self.index = index
        self.is_ready = threading.Event()
        self.is_scheduled = False
        self.waiting: list[Effect] = []
        self.failure: Exception | None = None


class LoadedNamespaces:
    """Owns the maintenance thread, from construction to `close`."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], memory_limit_bytes: int) -> None:
        self._connect, self._limit = connect, memory_limit_bytes
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._is_closing = False
        self._unchecked = 0
        self._maintenance = ThreadPoolExecutor(1, "node-maintenance", initializer=dense.single_threaded)

    @property
    def nbytes(self) -> int:
        return self.totals().nbytes

    def totals(self) -> Totals:
        """What is in memory at the moment."""
        with self._lock:
            entries = list(self._entries.values())
        behind = sum(entry.is_scheduled or entry.index.needs_maintenance() for entry in entries)
        return Totals(len(entries), sum(entry.index.nbytes for entry in entries), behind)

    def get(self, key: int, shape: VectorShape) -> NamespaceIndex:
        """The namespace, loaded if it was not. Raises: NamespaceGone: there is none with this key."""
        with self._lock:
            entry = self._entries.get(key)
            is_mine = entry is None
            if entry is None:
                entry = self._entries[key] = _Entry(NamespaceIndex(shape, data=0, lsn=-1))
            self._entries.move_to_end(key)
        if is_mine:
            self._load(key, entry)
            self._shrink(key)
        else:
            entry.is_ready.wait()
        if entry.failure is not None:
            raise NamespaceGone("the namespace could not be loaded") from entry.failure
        return entry.index

    def _load(self, key: int, entry: _Entry) -> None:
        try:
            self._fill(key, entry)
        except (RegionsError, sqlite3.Error, MemoryError) as error:
            entry.failure = error
            self.drop([key])
        finally:
            entry.is_ready.set()

    def _fill(self, key: int, entry: _Entry) -> None:
        """Take in one snapshot of the store, then what was committed since."""
        db = self._connect()
        db.execute("BEGIN")
        try:
            namespace = get_namespace(db, key)
            if namespace is None:
                raise NamespaceGone("the namespace is gone")
            index = entry.index
            index.data, index.lsn = namespace.data, namespace.applied_lsn
            index.load(scan_vectors(db, namespace.data))
        finally:
            db.execute("COMMIT")
        with index.lock:
            for effect in entry.waiting:
                _follow(index, effect)
            entry.waiting.clear()
            entry.is_ready.set()
        self._schedule(entry)

    def apply(self, effects: Sequence[Effect]) -> None:
        """Let the loaded namespaces follow what was committed, in its order."""
        for effect in effects:
            with self._lock:
                entry = self._entries.get(effect.namespace)
            if entry is None:
                continue
            with entry.index.lock:
                if entry.is_ready.is_set():
                    _follow(entry.index, effect)
                else:
                    entry.waiting.append(effect)
                    continue
            self._schedule(entry)
        self._unchecked += len(effects)
        if self._unchecked >= _EFFECTS_A_CHECK:
            self._unchecked = 0
            self._shrink(None)

    def drop(self, keys: Sequence[int]) -> None:
        """Forget namespaces; searches that hold one finish on what they have."""
        with self._lock:
            for key in keys:
                self._entries.pop(key, None)

    def _shrink(self, spared: int | None) -> None:
        """Drop the least recently used until the rest fits; `spared` stays, whatever its size."""
        held = self.nbytes
        while held > self._limit:
            with self._lock:
                ready = (key for key, entry in self._entries.items() if entry.is_ready.is_set())
                oldest = next((key for key in ready if key != spared), None)
                if oldest is None:
                    return
                dropped = self._entries.pop(oldest)
            held -= dropped.index.nbytes

    def _schedule(self, entry: _Entry) -> None:
        """Have the namespace maintained, unless it is in line already or needs nothing."""
        with self._lock:
            if entry.is_scheduled or self._is_closing or not entry.index.needs_maintenance():
                return
            entry.is_scheduled = True
            self._maintenance.submit(self._maintain, entry)

    def _maintain(self, entry: _Entry) -> None:
        """One step, then the others in line have their turn."""
        try:
            if not self._is_closing:
                entry.index.maintain(lambda: not self._is_closing)
        except Exception:
            _log.exception("namespace maintenance failed", records=entry.index.record_count)
            raise  # and it stays scheduled: searches go on without, maintenance is not tried again
        entry.is_scheduled = False
        self._schedule(entry)

    def close(self) -> None:
        self._is_closing = True
        self._maintenance.shutdown(wait=True, cancel_futures=True)


def _follow(index: NamespaceIndex, effect: Effect) -> None:
    index.apply(effect.data, effect.lsn, is_reset=effect.is_reset, puts=effect.puts, deletes=effect.deletes)
