"""Equal contents, equal digests; and a digest that follows changes is the digest of the outcome."""

from hypothesis import given
from hypothesis import strategies as st

from regions.records import Record, SparseVector
from regions.replicator.digest import Digest, hash_of

numbers = st.floats(-100, 100, width=32)
records = st.builds(
    Record,
    id=st.text(st.characters(codec="ascii"), min_size=1, max_size=4),
    values=st.lists(numbers, max_size=3),
    metadata=st.none() | st.dictionaries(st.text(max_size=3), st.integers(0, 9) | st.booleans(), max_size=3),
)
contents = st.lists(records, max_size=6, unique_by=lambda record: record.id)


def digest_of(found: list[Record]) -> Digest:
    digest = Digest()
    for record in found:
        digest = digest.plus(record)
    return digest


@given(contents, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(found: list[Record], rng: object) -> None:
    shuffled = [*found]
    rng.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' own Random
    assert digest_of(shuffled) == digest_of(found)


@given(contents, contents)
def test_it_follows_changes_and_adds_up(kept: list[Record], gone: list[Record]) -> None:
    whole = digest_of(kept) + digest_of(gone)
    for record in gone:
        whole = whole.minus(record)
    assert whole == digest_of(kept)


@given(records, records)
def test_different_records_differ(one: Record, other: Record) -> None:
    same = (one.id, one.values, one.metadata or {}) == (other.id, other.values, other.metadata or {})
    if same and str(one) == str(other):
        assert hash_of(one) == hash_of(other)
    elif not same:
        assert hash_of(one) != hash_of(other)


def test_what_an_index_gives_back_hashes_as_what_it_was_given() -> None:
    """Numbers come back as floats, vectors as float32, empty metadata or none, sparse pairs in any order."""
    given_ = Record("a", [0.1], SparseVector([7, 2], [0.5, 0.25]), {"n": 1, "m": [("x")]})
    back = Record("a", [0.10000000149011612], SparseVector([2, 7], [0.25, 0.5]), {"m": ["x"], "n": 1.0})
    assert hash_of(given_) == hash_of(back)
    assert hash_of(Record("a", [1.0], None, {})) == hash_of(Record("a", [1.0]))
    assert hash_of(Record("a", metadata={"n": True})) != hash_of(Record("a", metadata={"n": 1}))


def test_parts_do_not_run_together() -> None:
    assert hash_of(Record("ab", metadata={"c": "d"})) != hash_of(Record("a", metadata={"bc": "d"}))
