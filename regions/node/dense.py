"""Dense vectors of a loaded namespace: an exact matrix, and an HNSW graph once there are many.

Shapes: a matrix is (slots, dimension) float32, a query (dimension,) float32. Under cosine both are unit
vectors. Every score that leaves this module is computed from the float32 matrix, so it does not depend on
how its record was found; the graph stores float16 and only proposes candidates.

faiss releases the GIL. Its threads would only compete with ours for the same cores, so each thread that
searches or builds calls `single_threaded` first.
"""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from regions.node.rows import Floats

faiss: Any = importlib.import_module("faiss")  # its type stubs lack half of what stands here
Slots = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LINKS: Final = 16
EF_CONSTRUCTION: Final = 128
EF_SEARCH: Final = 320
"""On clustered data recall@10 is .98 with 128 candidates, .99 with 256 (bench/results/node.md)."""

MIN_GRAPH: Final = 10_000
"""Below this many records an exact scan takes about as long as the graph: 2 ms at 384 dimensions."""

MAX_HALF: Final = 1_000.0
"""Vectors with larger components are kept as float32 in the graph: float16 ends at 65,504."""

_EXACT_US_A_RECORD: Final = 0.2
_GRAPH_US_A_CANDIDATE: Final = 5.5


def single_threaded() -> None:
    """Keep faiss on the calling thread; the setting belongs to the thread."""
    faiss.omp_set_num_threads(1)


def unit(vectors: Floats) -> Floats:
    """The vectors (..., dimension) at length 1; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    divided: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return divided


class Matrix:
    """Vectors by slot, only ever appended; a reader may keep `rows` while others append."""

    def __init__(self, dimension: int, metric: str) -> None:
        self.dimension, self.metric = dimension, metric
        self._rows: Floats = np.zeros((0, dimension), np.float32)
        self._count = 0

    @property
    def rows(self) -> Floats:
        return self._rows[: self._count]

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes

    def append(self, vectors: Floats) -> None:
        """Add (n, dimension) vectors at the next slots."""
        needed = self._count + len(vectors)
        if needed > len(self._rows):
            grown = np.zeros((max(needed, len(self._rows) * 3 // 2, 64), self.dimension), np.float32)
            grown[: self._count] = self.rows
            self._rows = grown
        self._rows[self._count : needed] = unit(vectors) if self.metric == "cosine" else vectors
        self._count = needed

    def take(self, keep: Slots) -> "Matrix":
        taken = Matrix(self.dimension, self.metric)
        taken._rows, taken._count = self._rows[keep], len(keep)
        return taken

    def query(self, vector: Floats) -> Floats:
        """The vector as scores expect it."""
        return np.ascontiguousarray(unit(vector) if self.metric == "cosine" else vector, np.float32)


def scores(rows: Floats, query: Floats, metric: str, slots: Slots | None = None) -> Floats:
    """Score of every row, or of the rows at `slots`: dot product, or for euclidean the squared distance."""
    count = len(rows) if slots is None else len(slots)
    found = np.empty(count, np.float32)
    if count == 0:
        return found
    out, asked, stored = faiss.swig_ptr(found), faiss.swig_ptr(query), faiss.swig_ptr(rows)
    if slots is None:
        call = faiss.fvec_L2sqr_ny if metric == "euclidean" else faiss.fvec_inner_products_ny
        call(out, asked, stored, rows.shape[1], count)
    else:
        by_slot = faiss.fvec_L2sqr_by_idx if metric == "euclidean" else faiss.fvec_inner_products_by_idx
        by_slot(out, asked, stored, faiss.swig_ptr(slots), rows.shape[1], 1, count)
    return found


def ef_for(allowed: int, total: int, wanted: int) -> int:
    """How many candidates the graph must hold so that enough of them are allowed."""
    return int(max(EF_SEARCH, 2 * wanted) * total / max(allowed, 1))


def is_exact_cheaper(allowed: int, total: int, wanted: int) -> bool:
    """Whether scanning the allowed records costs less than asking the graph for `wanted` of them."""
    return allowed * _EXACT_US_A_RECORD <= ef_for(allowed, total, wanted) * _GRAPH_US_A_CANDIDATE


class Graph:
    """An HNSW graph over slots 0 .. count-1: searched by many at once, extended by one alone."""

    def __init__(self, dimension: int, metric: str, *, half: bool = True) -> None:
        kind = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
        if half:
            self._index = faiss.IndexHNSWSQ(dimension, faiss.ScalarQuantizer.QT_fp16, LINKS, kind)
            self._index.train(np.zeros((1, dimension), np.float32))
        else:
            self._index = faiss.IndexHNSWFlat(dimension, LINKS, kind)
        self._index.hnsw.efConstruction = EF_CONSTRUCTION
        self._bytes_a_slot = dimension * (2 if half else 4) + LINKS * 9 + 16
        self._gate = _Gate()
        self.is_half = half
        self.count = 0

    @property
    def nbytes(self) -> int:
        return self.count * self._bytes_a_slot

    def add(self, vectors: Floats) -> None:
        """Add (n, dimension) vectors at the next slots; searches wait meanwhile, so keep n small."""
        with self._gate.alone():
            self._index.add(np.ascontiguousarray(vectors))
            self.count += len(vectors)

    def search(self, query: Floats, wanted: int, ef: int, allowed: Mask | None) -> Slots:
        """Up to `wanted` slots near the query, best first; `allowed` None lets all through."""
        parameters: dict[str, Any] = {"efSearch": max(ef, wanted)}
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            parameters["sel"] = faiss.IDSelectorBitmap(bits)
        with self._gate.together():
            _, found = self._index.search(
                query[None], wanted, params=faiss.SearchParametersHNSW(**parameters)
            )
        slots: Slots = found[0]
        return slots[slots >= 0]


class _Gate:
    """Many together or one alone; one who wants to be alone goes before newcomers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._wanting = 0
        self._is_alone = False

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            while self._is_alone or self._wanting:
                self._changed.wait()
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._wanting += 1
            while self._is_alone or self._together:
                self._changed.wait()
            self._wanting -= 1
            self._is_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()
