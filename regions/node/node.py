"""Every call of a node as a method, for the HTTP face and for benchmarks.

Namespaces are named as they are stored: `__default__`, never "". All reading, searching and encoding of size
happens on the search threads and all writing on the writer's: the event loop only hands over and waits.
"""

import asyncio
import heapq
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from regions.changes import Change, DeleteAll, DropNamespace, Upsert
from regions.errors import RegionsError
from regions.filters import Filter, compile_filter, fields_of
from regions.node import reading
from regions.node.config import NodeConfig
from regions.node.dense import single_threaded
from regions.node.index import NamespaceIndex, Question
from regions.node.loaded import LoadedNamespaces
from regions.node.reading import Namespace
from regions.node.rows import Row, decode_dense, decode_row, decode_sparse, encode_records, encode_sparse
from regions.node.schema import open_for_reading, open_for_writing
from regions.node.stalls import Stalls
from regions.node.store import Store, Written
from regions.node.writer import Writer
from regions.pinecone_api import Protection, VectorField, VectorType
from regions.positions import Lsn
from regions.record_checks import VectorShape
from regions.records import Match, Query, Record
from regions.runtime import tracing

T = TypeVar("T")

_SMALL_UPSERT: Final = 16
"""Records that are encoded on the spot; more go to a thread."""


class IndexExists(RegionsError):
    """An index of that name is there already."""


class IndexMissing(RegionsError):
    """No index of that name."""


class IndexChanged(RegionsError):
    """Another index has taken the name while a call was under way: which one it was about is not known."""


class IndexProtected(RegionsError):
    """The index has deletion protection."""


class Definition(msgspec.Struct, frozen=True):
    """What an index is; `dimension` None means sparse only, `fields` is the schema it was declared with."""

    metric: str
    dimension: int | None = None
    vector_type: VectorType = "dense"
    fields: dict[str, VectorField] | None = None
    deletion_protection: Protection = "disabled"
    tags: dict[str, str] | None = None
    deployment: dict[str, Any] | None = None

    @property
    def shape(self) -> VectorShape:
        return VectorShape(self.dimension, self.metric)


class NodeIndex(msgspec.Struct, frozen=True):
    """An index of this node."""

    key: int
    name: str
    definition: Definition


def _node_index(index: reading.Index) -> NodeIndex:
    return NodeIndex(index.key, index.name, msgspec.json.decode(index.definition, type=Definition))


class Matches(msgspec.Struct, frozen=True):
    """A query's answer and the position it saw."""

    matches: list[Match]
    lsn: int


class Records(msgspec.Struct, frozen=True):
    """Records by id and the position they were read at; `is_last` is False when more match."""

    records: dict[str, Record]
    lsn: int
    is_last: bool = True


class Ids(msgspec.Struct, frozen=True):
    """A page of ids, in order."""

    ids: list[str]
    lsn: int
    is_last: bool


class Node:
    """Owns the store, the writer and the threads, from `Node(config)` to `close`.

    Raises on construction: sqlite3.DatabaseError: the store is damaged or of another format.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._path = config.data_dir / "node.db"
        self._delay_s = config.visibility_delay_ms / 1000
        self._readers = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._waiting: deque[tuple[float, int, int]] = deque()
        self._has_waiting = asyncio.Event()
        self._has_garbage = asyncio.Event()
        db = open_for_writing(self._path)
        self.stalls = Stalls()
        self.incarnation = reading.incarnation(db)
        self._indexes = {
            index.name: NodeIndex(
                index.key, index.name, msgspec.json.decode(index.definition, type=Definition)
            )
            for index in reading.list_indexes(db)
        }
        self._pending = Store(db).pending()
        self.loaded = LoadedNamespaces(self._reader, config.memory_limit_bytes)
        self._writer = Writer(db, self._on_commit)
        self._threads = ThreadPoolExecutor(config.search_threads, "node-search", initializer=single_threaded)

    # -- indexes ------------------------------------------------------------------------------------

    def index(self, name: str) -> NodeIndex:
        """Raises: IndexMissing."""
        found = self._indexes.get(name)
        if found is None:
            raise IndexMissing(f"Resource {name} not found")
        return found

    def incarnation_of(self, index: NodeIndex) -> str:
        """Never the same for two indexes, whenever and of whatever name."""
        return f"{self.incarnation}.{index.key}"

    def indexes(self) -> list[NodeIndex]:
        return [self._indexes[name] for name in sorted(self._indexes)]

    async def create_index(self, name: str, definition: Definition) -> NodeIndex:
        """Raises: IndexExists."""
        encoded = msgspec.json.encode(definition)
        key = await self._write(lambda store: store.create_index(name, encoded))
        if key is None:
            raise IndexExists(f"Resource {name} already exists")
        self._indexes[name] = NodeIndex(key, name, definition)
        return self._indexes[name]

    async def configure_index(self, name: str, definition: Definition) -> NodeIndex:
        """Give an index another definition of the same shape. Raises: IndexMissing."""
        key, encoded = self.index(name).key, msgspec.json.encode(definition)
        await self._write(lambda store: store.configure_index(key, encoded))
        self._indexes[name] = NodeIndex(key, name, definition)
        return self._indexes[name]

    async def delete_index(self, name: str) -> None:
        """Raises: IndexMissing, IndexProtected."""
        index = self.index(name)
        if index.definition.deletion_protection == "enabled":
            raise IndexProtected("Deletion protection is enabled for this index. Disable it before deleting.")
        # Before its rows go: a read that finds none of them any more must not be told as this index's.
        del self._indexes[name]
        try:
            gone = await self._write(lambda store: store.delete_index(index.key))
        except Exception:
            self._indexes.setdefault(name, index)
            raise
        self.loaded.drop(gone)
        self._has_garbage.set()

    # -- writes -------------------------------------------------------------------------------------

    async def write(
        self, index: NodeIndex, namespace: str, change: Change, position: Lsn | None = None
    ) -> Written:
        """Make a checked change durable and, without a delay, visible.

        `position` is its place in the log that a replicator follows.
        Raises: ReplicaAhead, NamespaceExists, NamespaceMissing, BadFilter, BadRecord, WriterBusy,
        WriterFailed.
        """
        rows: list[Row] | None = None
        is_delayed = self._delay_s > 0
        if isinstance(change, Upsert) and not is_delayed:
            if len(change.records) <= _SMALL_UPSERT:
                rows = encode_records(change.records)
            else:
                rows = await self.run(encode_records, change.records)
        written = await self._write(
            lambda store: store.write(
                index.key, namespace, change, rows, delayed=is_delayed, position=position
            )
        )
        if written.effect is None:
            due = asyncio.get_running_loop().time() + self._delay_s
            self._waiting.append((due, written.namespace, written.lsn))
            self._has_waiting.set()
        if isinstance(change, DeleteAll | DropNamespace):
            self._has_garbage.set()
        return written

    # -- reads --------------------------------------------------------------------------------------

    async def query(self, index: NodeIndex, namespace: str, query: Query) -> Matches:
        """Raises: BadFilter."""
        tree = compile_filter(query.filter) if query.filter else None
        with tracing.span("search") as span:
            found = await self.run(self._query, index, namespace, query, tree)
            if span is not None:
                span.attributes |= {
                    "db.namespace": namespace,
                    "db.response.returned_rows": len(found.matches),
                }
            return found

    async def fetch(self, index: NodeIndex, namespace: str, ids: Sequence[str]) -> Records:
        return await self.run(self._fetch, index, namespace, ids)

    async def fetch_by_metadata(
        self, index: NodeIndex, namespace: str, raw: dict[str, Any], after: str, limit: int
    ) -> Records:
        """Matching records by id, from beyond `after`. Raises: BadFilter."""
        return await self.run(self._fetch_by_metadata, index, namespace, compile_filter(raw), after, limit)

    async def count_matching(self, index: NodeIndex, namespace: str, raw: dict[str, Any]) -> int:
        """Raises: BadFilter."""
        return await self.run(self._count_matching, index, namespace, compile_filter(raw))

    async def list_ids(self, index: NodeIndex, namespace: str, prefix: str, after: str, limit: int) -> Ids:
        return await self.run(self._list_ids, index, namespace, prefix, after, limit)

    async def namespace(self, index: NodeIndex, name: str) -> Namespace | None:
        """A living namespace."""
        found = await self.run(self._find, index, name)
        return found if found is not None and found.alive else None

    async def namespaces(
        self, index: NodeIndex, prefix: str, after: str, limit: int
    ) -> tuple[list[Namespace], int]:
        """A page by name, one more than `limit` when there are more, and how many there are in all."""
        return await self.run(self._list_namespaces, index, prefix, after, limit)

    async def record_counts(self, index: NodeIndex) -> dict[str, int]:
        return await self.run(lambda: reading.record_counts(self._reader(), index.key))

    # -- life ---------------------------------------------------------------------------------------

    async def run(self, call: Callable[..., T], *args: object) -> T:
        """Do something of size on a search thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)

    async def keep(self) -> None:
        """What happens beside requests, until cancelled: waiting changes become visible, garbage goes."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reveal())
            group.create_task(self._sweep())
            group.create_task(self.stalls.watch())

    def close(self) -> None:
        """Finish the writes that wait, then let go of threads and files. Blocks: call it off the loop."""
        self._writer.close()
        self.loaded.close()
        self._threads.shutdown(wait=True)
        for db in self._opened:
            db.close()

    async def _write(self, call: Callable[[Store], T], *, is_own: bool = False) -> T:
        with tracing.span("commit"):
            return await asyncio.wrap_future(self._writer.submit(call, is_own=is_own))

    def _on_commit(self, results: Sequence[object]) -> None:
        written = (result for result in results if isinstance(result, Written))
        self.loaded.apply([each.effect for each in written if each.effect is not None])

    async def _reveal(self) -> None:
        """Apply waiting changes when they are due; those of an earlier run wait their time once more."""
        loop = asyncio.get_running_loop()
        self._waiting.extendleft((loop.time() + self._delay_s, *each) for each in reversed(self._pending))
        while True:
            while self._waiting:
                due, key, lsn = self._waiting[0]
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._write(partial(Store.apply_pending, key=key, lsn=lsn), is_own=True)
                self._waiting.popleft()
            self._has_waiting.clear()
            await self._has_waiting.wait()

    async def _sweep(self) -> None:
        while True:
            while await self._write(Store.sweep, is_own=True):
                pass
            self._has_garbage.clear()
            await self._has_garbage.wait()

    # -- on the search threads ----------------------------------------------------------------------

    def _reader(self) -> sqlite3.Connection:
        """This thread's connection."""
        db: sqlite3.Connection | None = getattr(self._readers, "db", None)
        if db is None:
            db = self._readers.db = open_for_reading(self._path)
            self._opened.append(db)
        return db

    def _find(self, index: NodeIndex, name: str) -> Namespace | None:
        return reading.find_namespace(self._reader(), index.key, name)

    def _loaded(self, index: NodeIndex, namespace: Namespace, tree: Filter | None) -> NamespaceIndex:
        """The namespace in memory, with the columns that the filter needs."""
        loaded = self.loaded.get(namespace.key, index.definition.shape)
        if tree is not None:
            while missing := loaded.missing_columns(fields_of(tree)):
                loaded.add_columns(missing, lambda data: reading.scan_metadata(self._reader(), data))
        return loaded

    def _query(self, index: NodeIndex, name: str, query: Query, tree: Filter | None) -> Matches:
        namespace = self._find(index, name)
        if namespace is None:
            return Matches([], 0)
        question = self._question(namespace, query, tree)
        if question is None:
            return Matches([], namespace.applied_lsn)
        found = self._loaded(index, namespace, tree).search(question)
        if not query.include_values and not query.include_metadata:
            pairs = zip(found.ids, found.scores, strict=True)
            return Matches([Match(id_, score) for id_, score in pairs], found.lsn)
        rows = reading.read_rows(
            self._reader(),
            found.data,
            found.ids,
            values=query.include_values,
            metadata=query.include_metadata,
        )
        matches = []
        for id_, score in zip(found.ids, found.scores, strict=True):
            if id_ in rows:  # a record may have been deleted since the search
                record = decode_row(rows[id_])
                matches.append(Match(id_, score, record.values, record.sparse_values, record.metadata))
        return Matches(matches, found.lsn)

    def _question(self, namespace: Namespace, query: Query, tree: Filter | None) -> Question | None:
        """The query with its vectors as arrays; None when it names a record that does not exist."""
        dense = np.array(query.vector, np.float32) if query.vector is not None else None
        encoded = encode_sparse(query.sparse_vector)
        sparse = decode_sparse(encoded) if encoded else None
        if query.id is not None:
            row = reading.read_rows(self._reader(), namespace.data, [query.id], metadata=False).get(query.id)
            if row is None:
                return None
            dense = decode_dense(row.dense) if row.dense else None
            sparse = decode_sparse(row.sparse) if row.sparse else None
        return Question(query.top_k, dense, sparse, tree, query.scan_factor or 1.0, query.max_candidates)

    def _fetch(self, index: NodeIndex, name: str, ids: Sequence[str]) -> Records:
        namespace = self._find(index, name)
        if namespace is None:
            return Records({}, 0)
        rows = reading.read_rows(self._reader(), namespace.data, ids)
        return Records({id_: decode_row(row) for id_, row in rows.items()}, namespace.applied_lsn)

    def _fetch_by_metadata(
        self, index: NodeIndex, name: str, tree: Filter, after: str, limit: int
    ) -> Records:
        namespace = self._find(index, name)
        if namespace is None:
            return Records({}, 0)
        ids, data, lsn = self._loaded(index, namespace, tree).matching_ids(tree)
        page = heapq.nsmallest(limit + 1, (id_ for id_ in ids if id_ > after))
        rows = reading.read_rows(self._reader(), data, page[:limit])
        records = {id_: decode_row(rows[id_]) for id_ in page[:limit] if id_ in rows}
        return Records(records, lsn, is_last=len(page) <= limit)

    def _count_matching(self, index: NodeIndex, name: str, tree: Filter) -> int:
        namespace = self._find(index, name)
        if namespace is None:
            return 0
        return len(self._loaded(index, namespace, tree).matching_ids(tree)[0])

    def _list_ids(self, index: NodeIndex, name: str, prefix: str, after: str, limit: int) -> Ids:
        namespace = self._find(index, name)
        if namespace is None:
            return Ids([], 0, is_last=True)
        ids = reading.list_ids(self._reader(), namespace.data, prefix, after, limit + 1)
        return Ids(ids[:limit], namespace.applied_lsn, is_last=len(ids) <= limit)

    def _list_namespaces(
        self, index: NodeIndex, prefix: str, after: str, limit: int
    ) -> tuple[list[Namespace], int]:
        db = self._reader()
        total = reading.count_namespaces(db, index.key, prefix)
        return reading.list_namespaces(db, index.key, prefix, after, limit + 1), total
