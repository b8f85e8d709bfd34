"""The fingerprint changes with the content, and with nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest.content import content_hash, passage_text

METADATA = st.dictionaries(
    st.text(max_size=8),
    st.one_of(st.text(max_size=8), st.booleans(), st.integers(), st.lists(st.text(max_size=4))),
)


@given(st.text(), METADATA)
def test_the_order_of_fields_does_not_count(text: str, metadata: dict[str, object]) -> None:
    turned = dict(reversed(metadata.items()))
    assert content_hash(text, metadata) == content_hash(text, turned)


@given(st.text(), st.text(), METADATA, METADATA)
def test_different_content_has_a_different_hash(
    text: str, other: str, metadata: dict[str, object], others: dict[str, object]
) -> None:
    if text != other:
        assert content_hash(text, metadata) != content_hash(other, metadata)
    if repr(sorted(metadata.items(), key=repr)) != repr(sorted(others.items(), key=repr)):
        assert content_hash(text, metadata) != content_hash(text, others)


def test_a_hash_never_changes_because_stored_records_carry_it() -> None:
    assert content_hash("text", {"a": 1, "b": ["x"]}) == "1b7bcfd609b36e77842e2b4b08d82b10"


def test_the_title_is_embedded_above_the_text() -> None:
    assert passage_text("text", {"title": "Title"}) == "Title\ntext"
    assert passage_text("text", {"title": " "}) == passage_text("text", {"title": 3}) == "text"
