"""Searching a namespace: exact where it says so, near enough where a graph proposes, never a dead record."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regions.filters import compile_filter, fields_of
from regions.node.dense import unit
from regions.node.index import NamespaceIndex, Question
from regions.node.rows import Row, decode_sparse, encode_dense, encode_metadata, encode_sparse
from regions.record_checks import VectorShape
from regions.records import SparseVector

Floats = npt.NDArray[np.float32]

MANY = 12_000
DIMENSION = 16


def row(id_: str, values: Any, sparse: dict[int, float] | None = None, **metadata: Any) -> Row:
    encoded = encode_sparse(SparseVector(list(sparse), list(sparse.values()))) if sparse else None
    return Row(id_, encode_dense(values), encoded, encode_metadata(metadata))


def put(index: NamespaceIndex, *rows: Row) -> None:
    index.apply(1, index.lsn + 1, is_reset=False, puts=[(each, True) for each in rows], deletes=())


def delete(index: NamespaceIndex, *ids: str) -> None:
    index.apply(1, index.lsn + 1, is_reset=False, puts=(), deletes=ids)


def floats(*values: float) -> Floats:
    return np.array(values, np.float32)


def terms(sparse: dict[int, float]) -> tuple[npt.NDArray[np.uint32], Floats]:
    encoded = encode_sparse(SparseVector(list(sparse), list(sparse.values())))
    assert encoded is not None
    return decode_sparse(encoded)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("cosine", [("a", 1.0), ("b", 2**-0.5), ("c", 0.0)]),
        ("dotproduct", [("b", 6.0), ("a", 1.0), ("c", 0.0)]),
        ("euclidean", [("a", 0.0), ("c", 2.0), ("b", 61.0)]),
    ],
)
def test_each_metric_scores_and_orders_as_pinecone_does(
    metric: str, expected: list[tuple[str, float]]
) -> None:
    index = NamespaceIndex(VectorShape(2, metric), 1, 0)
    put(index, row("a", [1, 0]), row("b", [6, 6]), row("c", [0, 1]))
    found = index.search(Question(3, floats(1, 0)))
    assert found.ids == [id_ for id_, _ in expected]
    assert found.scores == pytest.approx([score for _, score in expected], abs=1e-6)


def test_a_sparse_query_finds_only_records_that_share_a_term() -> None:
    index = NamespaceIndex(VectorShape(None, "dotproduct"), 1, 0)
    put(index, row("a", [], {1: 1.0, 9: 2.0}), row("b", [], {2: 5.0}), row("c", [], {9: 0.5}))
    found = index.search(Question(5, sparse=terms({9: 2.0, 77: 1.0})))
    assert list(zip(found.ids, found.scores, strict=True)) == [("a", 4.0), ("c", 1.0)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_after_any_changes_a_search_equals_a_scan_of_what_is_left(seed: int, top_k: int) -> None:
    rng = np.random.default_rng(seed)
    index, truth = NamespaceIndex(VectorShape(3, "dotproduct"), 1, 0), dict[str, Row]()
    for _ in range(rng.integers(1, 20)):
        id_ = f"r{rng.integers(8)}"
        if rng.random() < 0.3:
            truth.pop(id_, None)
            delete(index, id_)
        else:
            sparse = {int(term): 1.0 + float(term) for term in rng.choice(6, rng.integers(3), replace=False)}
            truth[id_] = row(id_, rng.standard_normal(3), sparse, n=int(rng.integers(3)))
            put(index, truth[id_])
    query, sparse_query = rng.standard_normal(3).astype(np.float32), {1: 0.5, 4: -2.0}
    tree = compile_filter({"n": {"$ne": 1}})
    index.add_columns(fields_of(tree), lambda _: [(each.id, each.metadata) for each in truth.values()])
    expected = {
        id_: score_of(each, query, sparse_query)
        for id_, each in truth.items()
        if each.metadata != encode_metadata({"n": 1})
    }
    found = index.search(Question(top_k, query, terms(sparse_query), tree))
    assert found.scores == pytest.approx(sorted(expected.values(), reverse=True)[:top_k], abs=1e-5)
    assert found.scores == pytest.approx([expected[id_] for id_ in found.ids], abs=1e-5)


def score_of(stored: Row, query: Floats, sparse_query: dict[int, float]) -> float:
    score = float(np.frombuffer(stored.dense or b"", np.float32) @ query)
    if stored.sparse:
        for term, weight in zip(*(part.tolist() for part in decode_sparse(stored.sparse)), strict=True):
            score += weight * sparse_query.get(term, 0.0)
    return score


@pytest.fixture(scope="module")
def vectors() -> Floats:
    rng = np.random.default_rng(3)
    drawn = rng.standard_normal((MANY, DIMENSION)).astype(np.float32)
    return unit(drawn)


@pytest.fixture(scope="module")
def graphed(vectors: Floats) -> NamespaceIndex:
    """A namespace with a graph; the terms of record n are its last two digits, and one of its own."""
    index = NamespaceIndex(VectorShape(DIMENSION, "dotproduct"), 1, 0)
    rows = [row(f"r{n}", vector, {n % 100: 1.0, 100 + n: 0.2}, n=n) for n, vector in enumerate(vectors)]
    put(index, *rows)
    index.add_columns(["n"], lambda _: [(each.id, each.metadata) for each in rows])
    settle(index)
    assert index.graph_count > MANY - 600
    return index


def settle(index: NamespaceIndex) -> None:
    while index.needs_maintenance():
        index.maintain()


@pytest.mark.parametrize("least", [0, MANY // 3, MANY - 120])
def test_the_graph_and_its_filters_find_nearly_all_of_the_nearest(
    graphed: NamespaceIndex, vectors: Floats, least: int
) -> None:
    tree = compile_filter({"n": {"$gte": least}})
    hits = 0
    for query in vectors[:50]:
        exact = np.argsort(-(vectors[least:] @ query))[:10] + least
        found = graphed.search(Question(10, query, None, tree))
        hits += len({f"r{n}" for n in exact} & set(found.ids))
    assert hits >= 495


def test_a_hybrid_answer_is_exact_even_where_the_best_record_is_far_in_the_dense_part(
    graphed: NamespaceIndex, vectors: Floats
) -> None:
    for n, query in enumerate(vectors[:30]):
        sparse_query = {n: 0.7, 100 + n * 7: 9.0}
        sums = vectors @ query
        sums[n::100] += 0.7 * 1.0
        sums[n * 7] += 9.0 * 0.2
        found = graphed.search(Question(10, query, terms(sparse_query)))
        assert found.scores == pytest.approx(np.sort(sums)[::-1][:10].tolist(), abs=1e-5)


def test_compaction_drops_the_dead_and_changes_no_answer(vectors: Floats) -> None:
    index = NamespaceIndex(VectorShape(DIMENSION, "dotproduct"), 1, 0)
    put(index, *(row(f"r{n}", vector, {n % 7: 1.0}, n=n) for n, vector in enumerate(vectors)))
    settle(index)
    held = index.nbytes
    delete(index, *(f"r{n}" for n in range(0, MANY, 3)))
    put(index, row("r1", vectors[0], {5: 3.0}, n=-1))
    question = Question(20, vectors[0], terms({5: 1.0}))
    before = index.search(question)
    assert index.needs_maintenance()
    settle(index)
    after = index.search(question)
    assert (after.ids, after.scores) == (before.ids, before.scores)
    assert before.ids[0] == "r1"
    assert index.record_count == MANY - MANY // 3
    assert index.nbytes < held


def test_a_large_top_k_is_answered_in_full(graphed: NamespaceIndex, vectors: Floats) -> None:
    found = graphed.search(Question(10_000, vectors[0]))
    assert len(set(found.ids)) == 10_000


def test_vectors_too_large_for_half_floats_are_searched_all_the_same(vectors: Floats) -> None:
    index = NamespaceIndex(VectorShape(DIMENSION, "euclidean"), 1, 0)
    put(index, *(row(f"r{n}", vector * 1e6) for n, vector in enumerate(vectors)))
    settle(index)
    found = index.search(Question(1, vectors[5] * np.float32(1e6)))
    assert (found.ids, found.scores) == (["r5"], [0.0])


def test_a_change_that_is_known_already_changes_nothing() -> None:
    index = NamespaceIndex(VectorShape(2, "cosine"), 1, 7)
    index.apply(1, 7, is_reset=False, puts=[(row("a", [1, 0]), True)], deletes=())
    assert index.record_count == 0


def test_emptying_leaves_nothing_and_names_the_new_place() -> None:
    index = NamespaceIndex(VectorShape(2, "cosine"), 1, 0)
    put(index, row("a", [1, 0]))
    index.apply(2, 9, is_reset=True, puts=(), deletes=())
    found = index.search(Question(3, floats(1, 0)))
    assert (found.ids, found.data, found.lsn) == ([], 2, 9)


def test_changes_during_the_scan_for_a_column_are_in_the_column() -> None:
    index = NamespaceIndex(VectorShape(2, "cosine"), 1, 0)
    put(index, row("a", [1, 0], n=1), row("b", [0, 1], n=1))

    def scan(data: int) -> list[tuple[str, bytes | None]]:
        seen = [("a", encode_metadata({"n": 1})), ("b", encode_metadata({"n": 1}))]
        put(index, row("b", [0, 1], n=2), row("c", [1, 1], n=1))
        return seen

    index.add_columns(["n"], scan)
    ids, _, _ = index.matching_ids(compile_filter({"n": 1}))
    assert sorted(ids) == ["a", "c"]
