from typing import Any

import msgspec
import pytest

from gateway.errors import BadRequest
from gateway.wire import pinecone as wire
from regions.changes import CreateNamespace, Delete, DeleteAll, DeleteByFilter, Update, UpdateByFilter, Upsert
from regions.record_checks import VectorShape
from regions.records import META_HASH, Match, Record
from regions.replicas.base import Fetched, IdPage, NamespaceInfo, QueryResult

SHAPE = VectorShape(3, "dotproduct")
COSINE = VectorShape(3, "cosine")


def body(value: Any) -> bytes:
    return msgspec.json.encode(value)


def vector(**fields: Any) -> dict[str, Any]:
    return {"id": "a", "values": [1.0, 0.0, 0.0], **fields}


# --- Upsert --------------------------------------------------------------------------------------


def test_an_upsert_is_its_records_and_the_tenants_own_namespace_name() -> None:
    sparse = {"indices": [7], "values": [0.5]}
    sent = {"vectors": [vector(sparseValues=sparse, metadata={"tag": ["x"]})], "namespace": "n"}
    name, change = wire.decode_upsert(body(sent), SHAPE)
    assert name == "n"
    assert isinstance(change, Upsert)
    assert change.records[0].metadata == {"tag": ["x"]}
    assert change.records[0].sparse_values is not None
    assert wire.encode_upserted(change) == b'{"upsertedCount":1}'


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"vectors": []}, "number of vectors"),
        ({"vectors": [vector()] * 1001}, "1000"),
        ({"vectors": [vector(values=[1.0])]}, "dimension 1 does not match the dimension of the index 3"),
        ({"vectors": [vector(values=[0, 0, 0])]}, "non-zero"),
        ({"vectors": [vector(values=[1e39, 0, 0])]}, "32-bit"),
        ({"vectors": [vector(id="")]}, "ID"),
        ({"vectors": [vector(id="é")]}, "ASCII"),
        ({"vectors": [vector(id="x" * 513)]}, "512"),
        ({"vectors": [vector(metadata={"a": None})]}, "metadata"),
        ({"vectors": [vector(metadata={"a": {"b": 1}})]}, "metadata"),
        ({"vectors": [vector(metadata={"a": [1]})]}, "metadata"),
        ({"vectors": [vector(metadata={"a": "x" * 41_000})]}, "40960"),
        ({"vectors": [vector(metadata={"_m.text": "mine"})]}, "reserved"),
        ({"vectors": [vector(sparseValues={"indices": [1, 1], "values": [1, 2]})]}, "repeat"),
        ({"vectors": [vector(sparseValues={"indices": [1], "values": [1, 2]})]}, "same length"),
        ({"vectors": [vector(nonsense=1)]}, "nonsense"),
        ({"vectors": [vector()], "namespace": 5}, "namespace"),
    ],
)
def test_an_upsert_outside_the_limits_is_refused_with_its_reason(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        wire.decode_upsert(body(wrong), SHAPE)


def test_sparse_values_need_dotproduct() -> None:
    sent = {"vectors": [vector(sparseValues={"indices": [1], "values": [1.0]})]}
    with pytest.raises(BadRequest, match="dotproduct"):
        wire.decode_upsert(body(sent), COSINE)


def test_a_body_over_two_mebibytes_is_refused() -> None:
    with pytest.raises(BadRequest, match="2097152"):
        wire.decode_upsert(b" " * (2 * 1024 * 1024 + 1), SHAPE)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"vectors":[{"id":"a","values":[1,0,0]}],"namespace":"mine","namespace":"theirs"}',
        b'{"vectors":[{"id":"a","values":[1,0,0]}],"namespace":"mine","names\\u0070ace":"theirs"}',
        b'{"vectors":[{"id":"a","values":[1,0,0],"metadata":{"a":1,"a":2}}]}',
        b"",
        b"[]",
        b"not json",
        b'{"vectors":[{"id":"a\xff","values":[1,0,0]}]}',
    ],
)
def test_a_body_two_readers_could_disagree_about_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        wire.decode_upsert(raw, SHAPE)


# --- Update, delete ------------------------------------------------------------------------------


def test_an_update_of_metadata_alone_is_passed_on() -> None:
    _, change = wire.decode_update(body({"id": "a", "setMetadata": {"n": 1}}), SHAPE)
    assert change == Update("a", None, None, {"n": 1})


def test_an_update_of_the_vector_forgets_which_text_it_was_made_from() -> None:
    _, change = wire.decode_update(body({"id": "a", "values": [0, 1, 0]}), SHAPE)
    assert isinstance(change, Update)
    assert change.set_metadata == {META_HASH: ""}


def test_an_update_by_filter_sets_metadata_or_counts() -> None:
    by_filter = {"filter": {"a": 1}, "setMetadata": {"n": 1}, "namespace": "x"}
    assert wire.decode_update(body(by_filter), SHAPE) == ("x", UpdateByFilter({"a": 1}, {"n": 1}))
    assert wire.decode_update(body(by_filter | {"dryRun": True}), SHAPE) == ("x", wire.DryRun({"a": 1}))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"id": "a"},
        {"id": "a", "filter": {"x": 1}, "setMetadata": {"n": 1}},
        {"filter": {}, "setMetadata": {"n": 1}},
        {"filter": {"x": 1}},
        {"filter": {"x": 1}, "values": [1, 0, 0]},
        {"filter": {"_m.hash": ""}, "setMetadata": {"n": 1}},
        {"id": "a", "setMetadata": {"_m.text": "forged"}},
        {"id": "a", "setMetadata": {"n": 1}, "dryRun": True},
        {"id": "a", "values": [1, 0]},
    ],
)
def test_an_update_that_means_nothing_or_too_much_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        wire.decode_update(body(wrong), SHAPE)


def test_a_delete_goes_one_of_three_ways() -> None:
    assert wire.decode_delete(body({"ids": ["a"]}))[1] == Delete(["a"])
    assert wire.decode_delete(body({"deleteAll": True}))[1] == DeleteAll()
    assert wire.decode_delete(body({"filter": {"a": 1}}))[1] == DeleteByFilter({"a": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"ids": []},
        {"ids": ["a"], "deleteAll": True},
        {"filter": {}},
        {"filter": {"_m.text": "x"}},
        {"ids": ["x"] * 1001},
    ],
)
def test_a_delete_that_goes_no_way_or_two_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        wire.decode_delete(body(wrong))


# --- Reads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"topK": 0, "vector": [1, 0, 0]},
        {"topK": 10_001, "vector": [1, 0, 0]},
        {"topK": 1},
        {"topK": 1, "id": "a", "vector": [1, 0, 0]},
        {"topK": 1, "vector": [1, 0]},
        {"topK": 1, "vector": [1, 0, 0], "filter": {"_m.text": "x"}},
        {"topK": 1, "vector": [1, 0, 0], "filter": {"a": {"$near": 1}}},
        {"vector": [1, 0, 0]},
    ],
)
def test_a_query_outside_the_limits_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        wire.decode_query(body(wrong), SHAPE)


def test_matches_carry_the_tenants_name_and_nothing_reserved() -> None:
    found = QueryResult([Match("a", 0.5, metadata={"_m.text": "t", "_m.hash": "h", "n": 1})], None, 3)
    answer = msgspec.json.decode(wire.encode_matches(found, "mine", "text"))
    assert answer == {
        "matches": [{"id": "a", "score": 0.5, "metadata": {"n": 1, "text": "t"}}],
        "namespace": "mine",
        "usage": {"readUnits": 3},
    }


def test_a_fetch_repeats_ids_and_nothing_else() -> None:
    assert wire.decode_fetch([("ids", "a"), ("ids", "b"), ("namespace", "n")]) == ("n", ["a", "b"])
    for wrong in (
        [],
        [("ids", "a"), ("namespace", "n"), ("namespace", "m")],
        [("ids", "a"), ("nonsense", "")],
    ):
        with pytest.raises(BadRequest):
            wire.decode_fetch(wrong)


def test_fetched_records_hide_what_is_reserved() -> None:
    fetched = Fetched({"a": Record("a", [1.0], metadata={"_m.hash": "h"})}, None, 1)
    answer = msgspec.json.decode(wire.encode_fetched_page(fetched, "n", "text", "tok"))
    assert answer["vectors"] == {"a": {"id": "a", "values": [1.0]}}
    assert answer["pagination"] == {"next": "tok"}


@pytest.mark.parametrize("limit", ["0", "101", "-1", "٣", "1e2", ""])
def test_a_list_limit_is_a_number_from_1_to_100(limit: str) -> None:
    with pytest.raises(BadRequest):
        wire.decode_list([("limit", limit)])


def test_the_last_page_of_a_list_has_no_pagination() -> None:
    answer = msgspec.json.decode(wire.encode_ids(IdPage(["a"], None, 1), "n", None))
    assert answer == {"vectors": [{"id": "a"}], "namespace": "n", "usage": {"readUnits": 1}}


def test_a_namespace_tells_its_count_as_text() -> None:
    info = NamespaceInfo("tenant0000000001.n", 12, indexed_fields=["a"])
    answer = msgspec.json.decode(wire.encode_namespaces([("n", info)], None, 1))
    assert answer["namespaces"] == [{"name": "n", "record_count": "12", "indexed_fields": {"fields": ["a"]}}]
    assert answer["total_count"] == 1


def test_a_namespaces_schema_names_no_reserved_field() -> None:
    schema = {"fields": {"a": {"filterable": True}}}
    assert wire.decode_create_namespace(body({"name": "n", "schema": schema}))[1] == CreateNamespace(schema)
    with pytest.raises(BadRequest, match="reserved"):
        wire.decode_create_namespace(body({"name": "n", "schema": {"fields": {"_m.text": {}}}}))


def test_stats_take_no_filter() -> None:
    wire.check_stats(b"")
    wire.check_stats(b"{}")
    with pytest.raises(BadRequest, match="filter"):
        wire.check_stats(body({"filter": {"a": 1}}))


def test_stats_total_what_they_list() -> None:
    answer = msgspec.json.decode(wire.encode_stats({"a": 2, "b": 3}, 3, "dotproduct"))
    assert answer["totalVectorCount"] == 5
    assert answer["namespaces"] == {"a": {"vectorCount": 2}, "b": {"vectorCount": 3}}
