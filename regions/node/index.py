"""What searches of one namespace run on: slots with their ids, vectors, postings and columns.

A record lives in a slot; a new vector takes a new slot and leaves a tombstone. `lock` guards everything but
the searches of the graph, which has its own gate, and the scan of a matrix, whose rows never change.
Maintenance (`maintain`) runs on a thread of its own: it extends the graph in small steps, and when enough
slots are dead it builds a new graph aside and swaps everything in one go.

How exact is a query? With few enough records or matches, exactly. Else the dense part has the recall of the
graph. A hybrid score is dot(dense) + dot(sparse), and the hybrid answer is exact for what the graph
proposed: see `_hybrid`.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from regions.filters import Filter
from regions.node import dense
from regions.node.columns import Column, Columns
from regions.node.dense import Graph, Mask, Matrix, Slots
from regions.node.rows import Floats, Indices, Row, decode_dense, decode_metadata, decode_sparse
from regions.node.sparse import Postings
from regions.record_checks import VectorShape
from regions.records import Metadata

STEP: Final = 32
"""Vectors that enter a graph at a time: a search of it waits for one step at most, about 20 ms."""

MIN_TAIL: Final = 512
"""Slots beside the graph that are scanned rather than added."""

MIN_DEAD: Final = 1_000
_SLOT_BYTES: Final = 190
"""An id, its place in the dictionary and its tombstone flag."""

MetadataScan = Callable[[int], Iterable[tuple[str, bytes | None]]]
FoundScores = npt.NDArray[np.float64]


class Question(msgspec.Struct, frozen=True):
    """A query with its vectors as arrays; `scan` multiplies the candidates that a graph search holds."""

    top_k: int
    vector: Floats | None = None
    sparse: tuple[Indices, Floats] | None = None
    filter: Filter | None = None
    scan: float = 1.0
    max_candidates: int | None = None


class Found(msgspec.Struct, frozen=True):
    """Ids and scores, best first; `data` and `lsn` say what state of the namespace was searched."""

    ids: list[str]
    scores: list[float]
    data: int
    lsn: int


class _View(msgspec.Struct, frozen=True):
    """A consistent state to search: arrays that no one changes any more, but for rows beyond `count`."""

    count: int
    allowed: Mask | None
    allowed_count: int
    rows: Floats
    graph: Graph | None
    ids: list[str]
    data: int
    lsn: int
    sparse_scores: FoundScores | None


class NamespaceIndex:
    """One loaded namespace. Invariant: `ids`, `alive`, matrix and columns agree on what slot is whose."""

    def __init__(self, shape: VectorShape, data: int, lsn: int) -> None:
        self.lock = threading.RLock()
        self.shape, self.data, self.lsn = shape, data, lsn
        self._listeners: list[list[Row]] = []
        self._reset()

    def _reset(self) -> None:
        self._matrix = Matrix(self.shape.dimension or 0, self.shape.metric)
        self._graph: Graph | None = None
        self._postings = Postings()
        self._columns = Columns()
        self._ids: list[str] = []
        self._slots: dict[str, int] = {}
        self._alive: Mask = np.zeros(64, np.bool_)

    @property
    def nbytes(self) -> int:
        """About how much memory this holds."""
        with self.lock:
            graph = self._graph.nbytes if self._graph else 0
            derived = self._matrix.nbytes + graph + self._postings.nbytes + self._columns.nbytes
            return derived + _SLOT_BYTES * len(self._ids)

    @property
    def record_count(self) -> int:
        return len(self._slots)

    @property
    def graph_count(self) -> int:
        """Slots that the graph covers; the rest is scanned."""
        return self._graph.count if self._graph else 0

    # -- changing -----------------------------------------------------------------------------------

    def load(self, rows: Iterable[tuple[str, bytes | None, bytes | None]]) -> None:
        """Fill an empty index with (id, dense, sparse) of every record."""
        portion: list[tuple[str, bytes | None, bytes | None]] = []
        for row in rows:
            portion.append(row)
            if len(portion) == 1_000:
                self._append(portion)
                portion = []
        self._append(portion)

    def apply(
        self,
        data: int,
        lsn: int,
        *,
        is_reset: bool,
        puts: Sequence[tuple[Row, bool]],
        deletes: Sequence[str],
    ) -> None:
        """Follow an applied change; one at or below `lsn` is known already and changes nothing."""
        with self.lock:
            if lsn <= self.lsn:
                return
            if is_reset:
                self._reset()
            for id_ in deletes:
                self._bury(id_)
            moved = [row for row, has_vectors in puts if has_vectors or row.id not in self._slots]
            self._append([(row.id, row.dense, row.sparse) for row in moved])
            for noted in self._listeners:
                noted.extend(row for row, _ in puts)
            if not self._columns.is_empty():
                for row, _ in puts:
                    self._columns.put(self._slots[row.id], decode_metadata(row.metadata))
            self.data, self.lsn = data, lsn

    def _append(self, rows: Sequence[tuple[str, bytes | None, bytes | None]]) -> None:
        """Give each row a new slot; an older slot of the same id dies."""
        if not rows:
            return
        start = len(self._ids)
        if self.shape.dimension is not None:
            blank = bytes(4 * self.shape.dimension)
            joined = b"".join(vector or blank for _, vector, _ in rows)
            self._matrix.append(decode_dense(joined).reshape(len(rows), self.shape.dimension))
        if start + len(rows) > len(self._alive):
            grown = np.zeros(2 * (start + len(rows)), np.bool_)
            grown[:start] = self._alive[:start]
            self._alive = grown
        for slot, (id_, _, sparse) in enumerate(rows, start):
            self._bury(id_)
            self._slots[id_] = slot
            self._alive[slot] = True
            if sparse:
                self._postings.put(slot, *decode_sparse(sparse))
        self._ids.extend(row[0] for row in rows)

    def _bury(self, id_: str) -> None:
        slot = self._slots.pop(id_, None)
        if slot is not None:
            self._alive[slot] = False

    # -- columns ------------------------------------------------------------------------------------

    def missing_columns(self, fields: Iterable[str]) -> set[str]:
        with self.lock:
            return self._columns.missing(fields)

    def add_columns(
        self, fields: Iterable[str], scan: Callable[[int], Iterable[tuple[str, bytes | None]]]
    ) -> None:
        """Build the columns of some fields; `scan(data)` reads (id, metadata) of every record.

        The scan runs without the lock: changes that are applied meanwhile are noted and put in afterwards.
        """
        wanted = tuple(fields)
        noted: list[Row] = []
        with self.lock:
            data = self.data
            self._listeners.append(noted)
        try:
            values = [(id_, decode_metadata(encoded)) for id_, encoded in scan(data) if encoded]
            with self.lock:
                if self.data == data:
                    self._columns.adopt(self._built(wanted, values, noted))
        finally:
            with self.lock:
                self._listeners.remove(noted)

    def _built(
        self, fields: Iterable[str], values: Iterable[tuple[str, Metadata]], noted: Iterable[Row]
    ) -> dict[str, Column]:
        columns = Columns()
        columns.adopt({field: Column(len(self._ids)) for field in fields})
        for id_, metadata in values:
            if (slot := self._slots.get(id_)) is not None:
                columns.put(slot, metadata)
        for row in noted:
            if (slot := self._slots.get(row.id)) is not None:
                columns.put(slot, decode_metadata(row.metadata))
        return columns.by_field()

    # -- searching ----------------------------------------------------------------------------------

    def search(self, question: Question) -> Found:
        """The best `top_k`; the columns of the filter's fields must be there."""
        view = self._view(question)
        slots: Slots
        found: FoundScores
        if question.vector is None:
            slots, found = _sparse_only(view)
        elif view.sparse_scores is not None:
            slots, found = self._hybrid(view, self._matrix.query(question.vector), question)
        else:
            query = self._matrix.query(question.vector)
            slots = self._candidates(view, query, question, question.top_k)
            found = dense.scores(view.rows, query, self.shape.metric, slots).astype(np.float64)
        slots, found = _best(slots, found, question.top_k, is_distance=self.shape.metric == "euclidean")
        return Found([view.ids[slot] for slot in slots.tolist()], found.tolist(), view.data, view.lsn)

    def matching_ids(self, tree: Filter) -> tuple[list[str], int, int]:
        """Ids that match, with the state's data and lsn; the columns must be there."""
        view = self._view(Question(top_k=1, filter=tree))
        slots = np.flatnonzero(view.allowed) if view.allowed is not None else np.arange(view.count)
        return [view.ids[slot] for slot in slots.tolist()], view.data, view.lsn

    def _view(self, question: Question) -> _View:
        with self.lock:
            count = len(self._ids)
            allowed: Mask | None = None
            if question.filter is not None:
                allowed = self._columns.mask(question.filter, count) & self._alive[:count]
            elif len(self._slots) < count:
                allowed = self._alive[:count].copy()
            allowed_count = count if allowed is None else int(np.count_nonzero(allowed))
            sparse_scores = None
            if question.sparse is not None:
                sparse_scores = self._postings.scores(*question.sparse, count)
            rows = self._matrix.rows
            return _View(
                count,
                allowed,
                allowed_count,
                rows,
                self._graph,
                self._ids,
                self.data,
                self.lsn,
                sparse_scores,
            )

    def _candidates(self, view: _View, query: Floats, question: Question, wanted: int) -> Slots:
        """Slots that hold the best `wanted`: all that are allowed, or what the graph and its tail propose."""
        graph = view.graph
        if (
            graph is None
            or 2 * graph.count < view.count  # a young graph saves less than waiting for it costs
            or wanted >= view.allowed_count
            or dense.is_exact_cheaper(view.allowed_count, view.count, wanted)
        ):
            return _slots_of(view.allowed, view.count)
        ef = int(dense.ef_for(view.allowed_count, view.count, wanted) * question.scan)
        if question.max_candidates is not None:
            ef = max(dense.EF_SEARCH, min(ef, question.max_candidates))
        covered = min(graph.count, view.count)
        in_graph = None if view.allowed is None else view.allowed[:covered]
        near = graph.search(query, max(wanted, dense.EF_SEARCH), ef, in_graph)
        near = near[near < covered]
        proposed = np.concatenate((near, _slots_of(view.allowed, view.count, covered)))
        if len(proposed) < min(question.top_k, view.allowed_count):
            return _slots_of(view.allowed, view.count)
        return proposed

    def _hybrid(self, view: _View, query: Floats, question: Question) -> tuple[Slots, FoundScores]:
        """Candidates and their exact hybrid scores.

        Let the graph propose the densest records, d be the lowest dense score among them, and s the k-th best
        hybrid score so far. Any other record scores at most d + its own sparse score, and all sparse scores
        are known exactly: so those above s - d join the candidates, and nothing else can be in the answer.
        """
        if view.sparse_scores is None:
            raise ValueError("a hybrid search needs sparse scores")
        wanted = max(4 * question.top_k, dense.EF_SEARCH)
        slots = self._candidates(view, query, question, wanted)
        densest = dense.scores(view.rows, query, self.shape.metric, slots).astype(np.float64)
        found = densest + view.sparse_scores[slots]
        if len(slots) >= view.allowed_count or len(slots) < question.top_k:
            return slots, found
        threshold = np.partition(found, -question.top_k)[-question.top_k] - densest.min()
        promising = view.sparse_scores > threshold
        if view.allowed is not None:
            promising &= view.allowed
        promising[slots] = False
        extra = np.flatnonzero(promising).astype(np.int64)
        scored = dense.scores(view.rows, query, self.shape.metric, extra) + view.sparse_scores[extra]
        return np.concatenate((slots, extra)), np.concatenate((found, scored))

    # -- maintenance --------------------------------------------------------------------------------

    def needs_maintenance(self) -> bool:
        with self.lock:
            return self._is_decayed() or self._has_long_tail()

    def _is_decayed(self) -> bool:
        dead = len(self._ids) - len(self._slots)
        return dead >= MIN_DEAD and dead * 5 >= len(self._ids)

    def _has_long_tail(self) -> bool:
        if self.shape.dimension is None or len(self._ids) < dense.MIN_GRAPH:
            return False
        return len(self._ids) - self.graph_count >= MIN_TAIL

    def maintain(self, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """One step: compact when too much is dead, else extend the graph by `STEP` slots.

        A long step asks `is_wanted` now and then, and ends without effect when it is not any more.
        """
        if self._is_decayed():
            self._compact(is_wanted)
        elif self._has_long_tail():
            self._extend()

    def _extend(self) -> None:
        with self.lock:
            matrix, graph = self._matrix, self._graph
            if graph is None:
                graph = self._graph = Graph(matrix.dimension, matrix.metric)
            chunk = matrix.rows[graph.count : graph.count + STEP]
            if graph.is_half and np.abs(chunk).max() > dense.MAX_HALF:
                self._graph = Graph(matrix.dimension, matrix.metric, half=False)
                return
        graph.add(chunk)

    def _compact(self, is_wanted: Callable[[], bool]) -> None:
        """Leave the dead behind: build the graph of the living aside, then swap all parts together."""
        with self.lock:
            seen = len(self._ids)
            keep = np.flatnonzero(self._alive[:seen]).astype(np.int64)
            matrix, graph, data = self._matrix, self._graph, self.data
            rows = matrix.rows
        rebuilt = None
        if graph is not None and len(keep) >= dense.MIN_GRAPH:
            rebuilt = Graph(matrix.dimension, matrix.metric, half=graph.is_half)
            for start in range(0, len(keep), STEP):
                if not is_wanted():
                    return
                rebuilt.add(rows[keep[start : start + STEP]])
        with self.lock:
            if self.data != data:
                return  # emptied meanwhile: there is nothing to compact any more
            self._swap(keep, seen, rebuilt)

    def _swap(self, keep: Slots, seen: int, graph: Graph | None) -> None:
        """Renumber: the kept slots come first, then those that were added since `seen`."""
        count = len(self._ids)
        keep = np.concatenate((keep, np.arange(seen, count, dtype=np.int64)))
        places = np.full(count, -1, np.int64)
        places[keep] = np.arange(len(keep))
        self._ids = [self._ids[slot] for slot in keep.tolist()]
        self._slots = {id_: int(places[slot]) for id_, slot in self._slots.items()}
        self._alive = np.concatenate((self._alive[keep], np.zeros(64, np.bool_)))
        if self.shape.dimension is not None:
            self._matrix = self._matrix.take(keep)
        self._postings = self._postings.take(places)
        self._columns = self._columns.take(keep)
        self._graph = graph


def _slots_of(allowed: Mask | None, count: int, start: int = 0) -> Slots:
    """The allowed slots from `start` on."""
    if allowed is None:
        return np.arange(start, count, dtype=np.int64)
    return np.flatnonzero(allowed[start:]).astype(np.int64) + start


def _sparse_only(view: _View) -> tuple[Slots, FoundScores]:
    """Every allowed record that shares a term with the query, as Pinecone's sparse indexes answer."""
    if view.sparse_scores is None:
        return np.zeros(0, np.int64), np.zeros(0, np.float64)
    touched = view.sparse_scores != 0
    if view.allowed is not None:
        touched &= view.allowed
    slots = np.flatnonzero(touched).astype(np.int64)
    return slots, view.sparse_scores[slots]


def _best(slots: Slots, scores: FoundScores, top_k: int, *, is_distance: bool) -> tuple[Slots, FoundScores]:
    """The best `top_k` in order; equal scores in slot order, so equal states answer equally."""
    keys = scores if is_distance else -scores
    if len(slots) > top_k:
        kept = np.argpartition(keys, top_k - 1)[:top_k]
        slots, scores, keys = slots[kept], scores[kept], keys[kept]
    order = np.lexsort((slots, keys))
    return slots[order], scores[order]
