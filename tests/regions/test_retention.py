"""What is kept: by age, by size, and for whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.errors import LogCorrupt
from regions.retention import (
    FORCED_RATIO,
    Lease,
    Retention,
    decode_lease,
    encode_lease,
    held_after,
    new_first,
)

KEEP = Retention(age_s=60, soft_bytes=1_000, hard_bytes=2_000)
FULL = int(KEEP.hard_bytes * FORCED_RATIO)
sequences = st.integers(1, 1_000)


@given(sequences, sequences, sequences, sequences, st.none() | sequences, st.integers(0, 3_000))
def test_trimming_stays_within_the_stream_and_before_leases(
    first: int, count: int, young: int, fitting: int, held: int | None, stored_bytes: int
) -> None:
    last = first + count - 1
    found = new_first(
        first, last, young=young, fitting=fitting, held=held, stored_bytes=stored_bytes, keep=KEEP
    )
    assert first <= found <= last + 1
    if held is not None and stored_bytes < FULL:
        assert found <= max(first, held + 1)
    if stored_bytes >= FULL:
        assert found >= min(fitting, last + 1)


def test_the_shortest_of_the_living_leases_holds() -> None:
    leases = [Lease([10, 5], 100.0), Lease([7, 9], 100.0), Lease([1, 1], 50.0), Lease([2], 100.0)]
    assert held_after(leases, 0, 50.0) == 2
    assert held_after(leases, 1, 50.0) == 5
    assert held_after(leases, 1, 49.0) == 1
    assert held_after(leases, 0, 100.0) is None


@given(st.lists(sequences), st.floats(0, 1e10))
def test_a_lease_is_read_as_it_was_written(held: list[int], until_s: float) -> None:
    assert decode_lease(encode_lease(Lease(held, until_s))) == Lease(held, until_s)


def test_a_register_that_holds_no_lease_is_told() -> None:
    with pytest.raises(LogCorrupt):
        decode_lease(b"{}")


def test_a_hard_limit_below_the_soft_one_is_refused() -> None:
    with pytest.raises(ValueError, match="hard_bytes"):
        Retention(soft_bytes=2, hard_bytes=1)
