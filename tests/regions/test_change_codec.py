"""The bytes of a change: what goes in comes out, and nothing else does."""

import random
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regions.change_codec import MAX_ENTRY_BYTES, VERSION, Decoded, decode, encode, split
from regions.changes import (
    Body,
    CreateNamespace,
    Delete,
    DeleteAll,
    DeleteByFilter,
    DropNamespace,
    EpochOpened,
    Heartbeat,
    Resolved,
    Update,
    UpdateByFilter,
    Upsert,
)
from regions.errors import LogCorrupt
from regions.logs.base import Entry
from regions.names import IndexName
from regions.positions import Epoch
from regions.promotion import tail_line
from regions.records import Metadata, Record, SparseVector
from tests.regions.strategies import listed

float32 = st.floats(width=32, allow_nan=False)
ids = st.text(st.characters(codec="ascii"), min_size=1, max_size=12)
vectors = st.lists(float32, max_size=8)
integers = st.integers(-(1 << 63), (1 << 64) - 1)
scalars = st.text(max_size=8) | integers | st.floats(allow_nan=False) | st.booleans()
metadata: st.SearchStrategy[Metadata] = st.dictionaries(
    st.text(max_size=8), scalars | st.lists(st.text(max_size=4), max_size=3), max_size=4
)
filters: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.text(max_size=6),
    st.recursive(scalars | st.none(), lambda each: st.lists(each, max_size=3), max_leaves=4),
    max_size=3,
)


@st.composite
def sparse_vectors(draw: st.DrawFn) -> SparseVector:
    indices = draw(st.lists(st.integers(0, (1 << 32) - 1), max_size=6))
    return SparseVector(indices, draw(st.lists(float32, min_size=len(indices), max_size=len(indices))))


records = st.builds(
    Record, id=ids, values=vectors, sparse_values=st.none() | sparse_vectors(), metadata=st.none() | metadata
)
bodies: st.SearchStrategy[Body] = st.one_of(
    st.builds(Upsert, st.lists(records, max_size=5)),
    st.builds(
        Update, ids, st.none() | vectors, st.none() | sparse_vectors(), set_metadata=st.none() | metadata
    ),
    st.builds(UpdateByFilter, filters, metadata),
    st.builds(Delete, st.lists(ids, max_size=5)),
    st.builds(DeleteByFilter, filters),
    st.builds(CreateNamespace, st.none() | filters),
    st.builds(Resolved, st.integers(0, (1 << 53) - 1), st.lists(ids, max_size=5), last=st.booleans()),
    st.sampled_from([DeleteAll(), DropNamespace(), Heartbeat(), EpochOpened()]),
)
epochs = st.integers(0, 8_191).map(Epoch)

SAMPLE: Final = Upsert(
    [
        Record("a", [0.5, -1.0], SparseVector([7, 4_000_000_000], [1.5, 2.0]), {"_m.text": "é", "n": 1}),
        Record("b", [], None, None),
    ]
)
GOLDEN: Final = bytes.fromhex(
    "4d430101000003008fa1e40592a474312e6e9792a161a162c4080200000000000000c4080000003f"
    "000080bfc40802000000ffffffffc4080700000000286beec4080000c03f000000409282a75f6d2e"
    "74657874a2c3a9a16e01c0"
)


@given(epochs, st.text(st.characters(codec="ascii"), max_size=20), bodies)
def test_what_is_encoded_is_decoded(epoch: Epoch, namespace: str, body: Body) -> None:
    decoded = decode(encode(epoch, namespace, body))
    assert decoded._replace(body=listed(decoded.body)) == Decoded(epoch, namespace, body)


@given(bodies)
def test_what_is_decoded_can_be_a_line_of_a_tail(body: Body) -> None:
    decoded = decode(encode(Epoch(1), "n", body)).body
    line = msgspec.json.decode(tail_line(Entry(0, 1, Epoch(1), 0.0, IndexName("docs"), "n", decoded)))
    assert line["change"] == msgspec.json.decode(msgspec.json.encode(body))


@given(st.lists(st.floats(-1e30, 1e30), max_size=20))
def test_vectors_come_back_as_the_nearest_float32(values: list[float]) -> None:
    _, _, body = decode(encode(Epoch(1), "n", Upsert([Record("a", values)])))
    assert isinstance(body, Upsert)
    assert list(body.records[0].values) == [float(np.float32(value)) for value in values]


@settings(max_examples=40)
@given(bodies)
def test_every_truncated_entry_is_refused(body: Body) -> None:
    data = encode(Epoch(3), "t1.n", body)
    for length in range(len(data)):
        with pytest.raises(LogCorrupt):
            decode(data[:length])


@settings(max_examples=20)
@given(bodies)
def test_every_flipped_bit_is_refused(body: Body) -> None:
    data = bytearray(encode(Epoch(3), "t1.n", body))
    for place in range(len(data) * 8):
        data[place // 8] ^= 1 << place % 8
        with pytest.raises(LogCorrupt):
            decode(bytes(data))
        data[place // 8] ^= 1 << place % 8


@given(st.binary(max_size=200))
def test_bytes_from_elsewhere_are_refused(data: bytes) -> None:
    with pytest.raises(LogCorrupt):
        decode(data)


def test_an_unknown_version_is_named() -> None:
    data = bytearray(encode(Epoch(1), "n", Heartbeat()))
    data[2] = VERSION + 8
    with pytest.raises(LogCorrupt, match=f"version {VERSION + 8}"):
        decode(bytes(data))


def test_version_1_is_these_bytes() -> None:
    assert encode(Epoch(3), "t1.n", SAMPLE).hex() == GOLDEN.hex()
    decoded = decode(GOLDEN)
    assert decoded._replace(body=listed(decoded.body)) == Decoded(Epoch(3), "t1.n", SAMPLE)


@pytest.mark.parametrize(
    "body",
    [
        Upsert([Record("a", [1e300])]),
        Upsert([Record("a", [1.0], SparseVector([1 << 32], [1.0]))]),
        Upsert([Record("a", [1.0], None, {"n": 1 << 64})]),
        Update("a", set_metadata={"t": "\ud800"}),
    ],
)
def test_what_has_no_bytes_is_refused(body: Body) -> None:
    with pytest.raises(ValueError, match="no bytes"):
        encode(Epoch(1), "n", body)


def full_batch(rng: random.Random) -> Upsert:
    """1,000 records and just under 2 MB of JSON, as large as Pinecone takes."""
    return Upsert(
        [
            Record(f"record-{n}", [round(rng.random(), 8) for _ in range(140)], None, {"_m.text": "x" * 350})
            for n in range(1_000)
        ]
    )


def test_a_full_pinecone_batch_fits_one_entry() -> None:
    batch = full_batch(random.Random(1))
    assert 1_900_000 < len(msgspec.json.encode(batch)) < 2_000_000
    assert split(batch) == [batch]
    assert len(encode(Epoch(1), "n" * 512, batch)) < MAX_ENTRY_BYTES


@settings(max_examples=30)
@given(st.lists(ids, min_size=1, max_size=200), st.integers(1_100, 3_000))
def test_a_split_delete_deletes_the_same(gone: list[str], max_bytes: int) -> None:
    parts = split(Delete(gone), max_bytes)
    assert [id_ for part in parts if isinstance(part, Delete) for id_ in part.ids] == gone
    assert all(len(encode(Epoch(1), "n" * 512, part)) <= max_bytes for part in parts)


def test_a_split_upsert_keeps_the_order_of_its_records() -> None:
    batch = full_batch(random.Random(2))
    parts = split(batch, 100_000)
    assert [record for part in parts if isinstance(part, Upsert) for record in part.records] == batch.records
    assert all(len(encode(Epoch(1), "n" * 512, part)) <= 100_000 for part in parts)


def test_only_the_last_part_of_resolved_ids_is_the_last() -> None:
    parts = split(Resolved(5, [f"{n:0>100}" for n in range(100)], last=True), 3_000)
    assert len(parts) > 3
    assert [part.last for part in parts if isinstance(part, Resolved)] == [False] * (len(parts) - 1) + [True]


def test_a_change_without_parts_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="has no parts"):
        split(Upsert([Record("a", [0.5] * 2_000)]), 4_000)
