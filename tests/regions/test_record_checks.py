"""Pinecone's limits: what is on the line passes, what is beyond it is refused."""

from typing import Any

import pytest

from regions.changes import Update
from regions.record_checks import (
    BadRecord,
    VectorShape,
    check_ids,
    check_query,
    check_record,
    check_records,
    check_update,
)
from regions.records import Query, Record, SparseVector

DENSE = VectorShape(2, "cosine")
HYBRID = VectorShape(2, "dotproduct")
SPARSE = VectorShape(None, "dotproduct")


def test_what_is_on_the_line_passes() -> None:
    fullest = SparseVector(list(range(1_000)), [1.0] * 1_000)
    check_record(Record("i" * 512, [1.0, 3.4e38], fullest, {"m": "x" * 40_952}), HYBRID)
    check_record(Record("a", [], SparseVector([2**32 - 1], [1.0])), SPARSE)
    check_query(Query(10_000, [0.0, 0.0]), DENSE)


@pytest.mark.parametrize(
    ("record", "shape"),
    [
        (Record("", [1, 1]), DENSE),
        (Record("i" * 513, [1, 1]), DENSE),
        (Record("é", [1, 1]), DENSE),
        (Record("a\0", [1, 1]), DENSE),
        (Record("a", [1]), DENSE),
        (Record("a", []), DENSE),
        (Record("a", [0, 0]), DENSE),
        (Record("a", [1e39, 0]), DENSE),
        (Record("a", [1, 1], SparseVector([1], [1])), DENSE),
        (Record("a", [1, 1], SparseVector([], [])), HYBRID),
        (Record("a", [1, 1], SparseVector([1, 1], [1, 1])), HYBRID),
        (Record("a", [1, 1], SparseVector([1, 2], [1])), HYBRID),
        (Record("a", [1, 1], SparseVector([-1], [1])), HYBRID),
        (Record("a", [1, 1], SparseVector([2**32], [1])), HYBRID),
        (Record("a", [1, 1], SparseVector([1], [-1e39])), HYBRID),
        (Record("a", [1, 1], SparseVector(list(range(1_001)), [1.0] * 1_001)), HYBRID),
        (Record("a", [1, 1], None, {"m": "x" * 40_953}), DENSE),
        (Record("a", [1, 1], None, {"$m": 1}), DENSE),
        (Record("a", [1, 1], None, {"m": 2**63}), DENSE),
        (Record("a", [1, 1]), SPARSE),
        (Record("a", []), SPARSE),
    ],
)
def test_a_record_beyond_a_limit_is_refused(record: Record, shape: VectorShape) -> None:
    with pytest.raises(BadRecord):
        check_record(record, shape)


@pytest.mark.parametrize(
    "query",
    [
        Query(0, [1, 1]),
        Query(10_001, [1, 1]),
        Query(1),
        Query(1, [1, 1], id="a"),
        Query(1, [1, 1, 1]),
        Query(1, None, SparseVector([1], [1])),
    ],
)
def test_a_query_that_cannot_be_asked_is_refused(query: Query) -> None:
    with pytest.raises(BadRecord):
        check_query(query, DENSE)


def test_numbers_of_records_and_ids_are_bounded() -> None:
    for refused in ([], [Record(str(n), [1, 1]) for n in range(1_001)]):
        with pytest.raises(BadRecord):
            check_records(refused, DENSE)
    for ids in ([], ["a"] * 11, [""]):
        with pytest.raises(BadRecord):
            check_ids(ids, 10)


@pytest.mark.parametrize(
    "parts", [{"values": [1.0]}, {"sparse_values": SparseVector([1], [1])}, {"set_metadata": {"$a": 1}}]
)
def test_each_part_of_an_update_is_checked(parts: dict[str, Any]) -> None:
    with pytest.raises(BadRecord):
        check_update(Update("a", **parts), DENSE)
