from typing import Any

import msgspec
import pytest

from gateway.errors import BadRequest, Unsupported
from gateway.wire import records
from gateway.wire.records import TextRecord
from regions.records import Match, SparseVector


def lines(*values: Any) -> bytes:
    return b"\n".join(msgspec.json.encode(value) for value in values)


def test_each_line_is_a_record_whose_other_fields_are_its_metadata() -> None:
    sent = lines({"_id": "a", "text": "hello", "n": 1}, {"id": "b", "text": "there"}) + b"\n"
    assert records.decode_records(sent, "text") == [
        TextRecord("a", "hello", {"n": 1}),
        TextRecord("b", "there", {}),
    ]


def test_the_last_record_of_an_id_counts() -> None:
    sent = lines({"_id": "a", "text": "first"}, {"_id": "b", "text": "b"}, {"_id": "a", "text": "second"})
    assert [(r.id, r.text) for r in records.decode_records(sent, "text")] == [("b", "b"), ("a", "second")]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"text": "x"}, "_id"),
        ({"_id": 5, "text": "x"}, "_id"),
        ({"_id": "é", "text": "x"}, "ASCII"),
        ({"_id": "a"}, "text"),
        ({"_id": "a", "text": "  "}, "text"),
        ({"_id": "a", "text": 5}, "text"),
        ({"_id": "a", "text": "x", "n": None}, "'n' must be"),
        ({"_id": "a", "text": "x", "n": {"a": 1}}, "'n' must be"),
        ({"_id": "a", "text": "x", "n": ["a", 1]}, "'n' must be"),
        ({"_id": "a", "text": "x", "_m.hash": "forged"}, "reserved"),
    ],
)
def test_a_line_that_is_no_text_record_is_named_by_its_number(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest, match=f"line 2: .*{told}"):
        records.decode_records(lines({"_id": "ok", "text": "ok"}, wrong), "text")


def test_a_request_holds_1_to_96_records() -> None:
    many = [{"_id": str(n), "text": "x"} for n in range(97)]
    assert len(records.decode_records(lines(*many[:96]), "text")) == 96
    for wrong in (b"", b"\n \n", lines(*many)):
        with pytest.raises(BadRequest, match="96"):
            records.decode_records(wrong, "text")


def test_a_repeated_key_in_a_record_is_refused() -> None:
    with pytest.raises(BadRequest, match="repeated"):
        records.decode_records(b'{"_id":"a","text":"x","text":"y"}', "text")


def search(**query: Any) -> dict[str, Any]:
    return {"query": {"top_k": 3, **query}}


def test_a_search_goes_by_text_vector_or_id() -> None:
    by_text = records.decode_search(msgspec.json.encode(search(inputs={"text": "hi"})))
    assert by_text.query.inputs is not None
    vector = {"values": [1.0], "sparse_indices": [4], "sparse_values": [0.5]}
    by_vector = records.decode_search(msgspec.json.encode(search(vector=vector))).vector_query()
    assert by_vector.vector == [1.0]
    assert by_vector.sparse_vector == SparseVector([4], [0.5])
    assert records.decode_search(msgspec.json.encode(search(id="a"))).vector_query().id == "a"


@pytest.mark.parametrize(
    "wrong",
    [
        search(),
        search(id="a", inputs={"text": "hi"}),
        search(inputs={"text": " "}),
        search(inputs={"text": "hi", "model": "x"}),
        search(id="a") | {"fields": ["_m.text"]},
        search(id="a", filter={"_m.text": "x"}),
        {"query": {"top_k": 0, "id": "a"}},
        {"query": {"id": "a"}},
    ],
)
def test_a_search_that_is_unclear_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        records.decode_search(msgspec.json.encode(wrong))


def test_reranking_and_required_terms_are_said_to_be_missing() -> None:
    for wanted in (
        search(id="a") | {"rerank": {"model": "m", "rank_fields": ["text"]}},
        search(id="a", match_terms={"terms": ["x"]}),
    ):
        with pytest.raises(Unsupported):
            records.decode_search(msgspec.json.encode(wanted))


MATCH = Match("a", 0.5, metadata={"_m.text": "hello", "_m.embedding": "e", "n": 1, "tag": ["x"]})


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        (None, {"text": "hello", "n": 1, "tag": ["x"]}),
        (["text"], {"text": "hello"}),
        (["n", "absent"], {"n": 1}),
        ([], {}),
    ],
)
def test_hits_carry_the_fields_asked_for(fields: list[str] | None, shown: dict[str, Any]) -> None:
    answer = msgspec.json.decode(records.encode_hits([MATCH], "text", fields, read_units=2, tokens=7))
    assert answer == {
        "result": {"hits": [{"_id": "a", "_score": 0.5, "fields": shown}]},
        "usage": {"read_units": 2, "embed_total_tokens": 7},
    }
