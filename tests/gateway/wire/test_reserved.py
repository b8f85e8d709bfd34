from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.wire.reserved import check_filter, visible, visible_record
from regions.records import META_EMBEDDING, META_HASH, META_TEXT, Metadata, Record

KEYS = st.one_of(
    st.text(max_size=8), st.sampled_from([META_TEXT, META_HASH, META_EMBEDDING, "_m.", "_m", "text"])
)


@pytest.mark.parametrize(
    "raw",
    [
        {"_m.text": "x"},
        {"a": 1, "_m.hash": {"$exists": True}},
        {"$and": [{"a": 1}, {"$or": [{"_m.embedding": {"$in": ["x"]}}]}]},
    ],
)
def test_a_filter_that_looks_at_a_reserved_field_is_refused_at_any_depth(raw: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="reserved"):
        check_filter(raw)


def test_a_filter_outside_the_language_is_the_callers_mistake() -> None:
    with pytest.raises(BadRequest, match=r"\$like"):
        check_filter({"a": {"$like": "b"}})


def test_a_filter_may_compare_with_text_that_looks_reserved() -> None:
    check_filter({"a": "_m.text", "b": {"$in": ["_m.hash"]}})


@given(st.dictionaries(KEYS, st.text(max_size=5)))
def test_nothing_reserved_is_ever_visible(metadata: dict[str, str]) -> None:
    shown = visible(dict(metadata), "text")
    assert not any(key.startswith("_m.") for key in shown or {})
    own = {k: v for k, v in metadata.items() if not k.startswith("_m.")}
    assert own.items() <= (shown or {}).items()


def test_the_text_of_a_text_record_is_shown_under_the_index_s_field() -> None:
    assert visible({META_TEXT: "hello", META_HASH: "h", "n": 1}, "body") == {"body": "hello", "n": 1}


def test_a_field_the_tenant_set_itself_stands_before_the_embedded_text() -> None:
    assert visible({META_TEXT: "old", "text": "new"}, "text") == {"text": "new"}


def test_metadata_with_nothing_of_the_tenants_is_none() -> None:
    assert visible({META_HASH: ""}, "text") is None


def test_a_record_without_reserved_fields_is_passed_on_as_it_is() -> None:
    metadata: Metadata = {"a": 1}
    record = Record("id", [1.0], metadata=metadata)
    assert visible_record(record, "text") is record
