"""Columns answer filters exactly as the language says, however they came about."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as hyp

from regions.filters import compile_filter
from regions.node.columns import Column, Columns
from tests.regions import strategies as st


def columns_of(rows: list[dict[str, Any]]) -> Columns:
    columns = Columns()
    columns.adopt({field: Column(0) for field in st.FIELDS})
    for slot, row in enumerate(rows):
        columns.put(slot, row)
    return columns


@given(st.filters, hyp.lists(st.metadata, max_size=8))
def test_a_mask_holds_what_matches(raw: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    mask = columns_of(rows).mask(compile_filter(raw), len(rows))
    assert mask.tolist() == [st.is_match(raw, row) for row in rows]


@given(st.filters, hyp.lists(hyp.tuples(st.metadata, st.metadata), max_size=6))
def test_a_slot_that_is_written_again_has_only_the_new_values(
    raw: dict[str, Any], rows: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    columns = columns_of([before for before, _ in rows])
    for slot, (_, after) in enumerate(rows):
        columns.put(slot, after)
    mask = columns.mask(compile_filter(raw), len(rows))
    assert mask.tolist() == [st.is_match(raw, after) for _, after in rows]


@given(st.filters, hyp.lists(hyp.tuples(st.metadata, hyp.booleans()), max_size=8), st.metadata)
def test_compaction_keeps_the_values_of_the_kept_slots(
    raw: dict[str, Any], rows: list[tuple[dict[str, Any], bool]], late: dict[str, Any]
) -> None:
    keep = np.array([slot for slot, (_, is_kept) in enumerate(rows) if is_kept], np.int64)
    columns = columns_of([row for row, _ in rows]).take(keep)
    columns.put(len(keep), late)
    kept = [rows[slot][0] for slot in keep.tolist()] + [late]
    mask = columns.mask(compile_filter(raw), len(kept))
    assert mask.tolist() == [st.is_match(raw, row) for row in kept]
