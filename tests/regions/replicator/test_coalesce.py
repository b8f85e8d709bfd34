"""A batch leaves a namespace as its changes would have, one after the other."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from regions.changes import Change, CreateNamespace, Delete, DeleteAll, DeleteByFilter, Update, Upsert
from regions.logs.base import Entry
from regions.records import Metadata, Record, SparseVector, patched
from regions.replicator.coalesce import BatchLimits, fold, ids_of, is_barrier, prefix, size_of
from tests.regions.replicator.entries import drop, entry, lsn, patch, put

LIMITS = BatchLimits()
Contents = dict[str, Record]

ids = st.sampled_from("abcd")
metadata: st.SearchStrategy[Metadata] = st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9), max_size=3)
vectors = st.lists(st.integers(0, 9).map(float), min_size=2, max_size=2)
sparse = st.none() | vectors.map(lambda values: SparseVector([1, 2], values))
records = st.builds(Record, id=ids, values=vectors, sparse_values=sparse, metadata=st.none() | metadata)
changes: st.SearchStrategy[Change] = st.one_of(
    st.lists(records, max_size=4).map(Upsert),
    st.lists(ids, max_size=3).map(Delete),
    st.builds(
        Update,
        id=ids,
        values=st.none() | vectors,
        sparse_values=sparse,
        set_metadata=st.none() | metadata,
    ),
    st.just(DeleteAll()),
    st.just(CreateNamespace()),
)


def apply(contents: Contents, change: Change) -> Contents:
    """What an index does, one change at a time."""
    match change:
        case Upsert():
            return contents | {record.id: record for record in change.records}
        case Delete():
            return {id_: record for id_, record in contents.items() if id_ not in change.ids}
        case Update() if change.id in contents:
            merged = patched(contents[change.id], change.values, change.sparse_values, change.set_metadata)
            return contents | {change.id: merged}
        case DeleteAll():
            return {}
    return contents


def batches(entries: list[Entry], limits: BatchLimits) -> list[list[Entry]]:
    made = []
    while entries:
        made.append(prefix(entries, limits))
        entries = entries[len(made[-1]) :]
    return made


@given(st.lists(records, max_size=4), st.lists(changes, max_size=12), st.integers(1, 6))
def test_batches_amount_to_their_changes(start: list[Record], todo: list[Change], room: int) -> None:
    expected = found = {record.id: record for record in start}
    for change in todo:
        expected = apply(expected, change)
    entries = [entry(at, change) for at, change in enumerate(todo, 1)]
    for batch in batches(entries, BatchLimits(records=room)):
        for call in fold(batch):
            found = apply(found, call.change)
    assert found == expected


@given(st.lists(changes, min_size=1, max_size=12))
def test_calls_of_a_batch_touch_disjoint_ids_and_only_the_last_moves_it(todo: list[Change]) -> None:
    entries = [entry(at, change) for at, change in enumerate(todo, 10)]
    for batch in batches(entries, LIMITS):
        calls = fold(batch)
        touched = [id_ for call in calls for id_ in dict.fromkeys(ids_of(call.change))]
        assert len(touched) == len(set(touched))
        assert [call.position for call in calls[:-1]] == [batch[0].lsn - 1] * (len(calls) - 1)
        assert all(call.position == batch[-1].lsn for call in calls[-1:])


@given(st.lists(changes, max_size=12), st.integers(1, 5), st.integers(1, 2_000))
def test_a_batch_keeps_to_its_limits_unless_it_is_one_change(
    todo: list[Change], room: int, size: int
) -> None:
    entries = [entry(at, change) for at, change in enumerate(todo, 1)]
    for batch in batches(entries, BatchLimits(room, size)):
        if len(batch) > 1:
            assert len({id_ for each in batch for id_ in ids_of(each.body)}) <= room
            assert sum(size_of(call.change) for call in fold(batch)) <= size
            assert not any(is_barrier(each.body) for each in batch)


def test_a_backlog_that_writes_few_ids_again_and_again_is_one_batch() -> None:
    entries = [entry(at, put("ab"[at % 2], n=at)) for at in range(1, 101)]
    assert prefix(entries, BatchLimits(size_bytes=2 * size_of(put("a", n=100)))) == entries


def test_the_last_write_of_an_id_wins() -> None:
    (call,) = fold([entry(1, put("a", n=1)), entry(2, drop("a")), entry(3, put("a", n=3))])
    assert call.change == put("a", n=3)
    assert call.position == lsn(3)


def test_an_update_of_what_was_deleted_in_the_batch_does_nothing() -> None:
    assert [call.change for call in fold([entry(1, drop("a")), entry(2, patch("a", 1))])] == [drop("a")]


def test_an_intent_is_never_in_a_batch() -> None:
    intent = entry(2, DeleteByFilter({"n": 1}))
    assert prefix([entry(1, put("a")), intent], LIMITS) == [entry(1, put("a"))]
    assert prefix([intent], LIMITS) == []


def test_what_touches_an_unsettled_id_waits_and_so_does_what_comes_after() -> None:
    entries = [entry(1, put("a")), entry(2, put("b")), entry(3, put("c"))]
    assert prefix(entries, LIMITS, {"b"}) == entries[:1]
    assert prefix(entries, LIMITS, {"a"}) == []


def test_a_barrier_waits_for_every_unsettled_id() -> None:
    assert prefix([entry(1, DeleteAll())], LIMITS, {"a"}) == []
    assert prefix([entry(1, DeleteAll()), entry(2, put("a"))], LIMITS) == [entry(1, DeleteAll())]


def test_no_estimate_is_below_the_encoded_size() -> None:
    record = Record(
        "x" * 40, [-1.2345678806304932e-05] * 50, SparseVector([1] * 9, [-3.3e-38] * 9), {"t": "é" * 99}
    )
    for change in (Upsert([record] * 3), Delete(["i" * 30] * 5), Update("i", record.values, None, {"k": 1})):
        assert size_of(change) >= len(msgspec.json.encode(change)) - 40
