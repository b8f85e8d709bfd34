"""Text in, text found: the records API of the gateway with the real local embedder."""

from typing import Any

import pytest
from pinecone.errors import exceptions as sdk_errors

from tests.compat.conftest import Place
from tests.compat.sdk import Flavour, open_sdk
from tests.compat.servers import INDEX, KEY, Servers
from tests.compat.test_pinecone_data import axis

pytestmark = pytest.mark.compat

RECORDS: list[dict[str, Any]] = [
    {"_id": "carmen", "text": "Georges Bizet composed the opera Carmen.", "topic": "music", "year": 1875},
    {"_id": "iron", "text": "Iron rusts when it meets water and oxygen.", "topic": "chemistry"},
    {"_id": "python", "text": "Guido van Rossum created the language Python.", "topic": "code"},
]


async def search(place: Place, text: str, **more: Any) -> list[Any]:
    found = await place.index.search(
        namespace=place.namespace, **{"top_k": 3, "inputs": {"text": text}, **more}
    )
    hits: list[Any] = found.result.hits
    return hits


async def test_text_records_are_found_by_what_they_say(alice: Place) -> None:
    written = await alice.index.upsert_records(records=RECORDS, namespace=alice.namespace)
    assert written.record_count == 3
    assert written.response_info.lsn_committed is not None
    hits = await search(alice, "who wrote Carmen?")
    assert hits[0].id == "carmen"
    assert hits[0].fields == {"text": RECORDS[0]["text"], "topic": "music", "year": 1875}
    assert hits[0].score > hits[1].score


async def test_a_search_tells_what_it_cost_and_how_far_it_saw(alice: Place) -> None:
    written = await alice.index.upsert_records(records=RECORDS, namespace=alice.namespace)
    found = await alice.index.search(namespace=alice.namespace, top_k=1, inputs={"text": "rust"})
    assert found.usage.read_units >= 1
    assert found.usage.embed_total_tokens > 0
    assert found.response_info.is_reconciled(written.response_info.lsn_committed)


async def test_fields_and_filters_are_honoured(alice: Place) -> None:
    await alice.index.upsert_records(records=RECORDS, namespace=alice.namespace)
    hits = await search(alice, "a language", filter={"topic": {"$ne": "code"}}, fields=["topic"])
    assert {hit.id for hit in hits} == {"carmen", "iron"}
    assert all(set(hit.fields) == {"topic"} for hit in hits)


async def test_a_search_goes_by_id_and_by_vector_too(alice: Place) -> None:
    await alice.index.upsert_records(records=RECORDS, namespace=alice.namespace)
    by_id = await alice.index.search(namespace=alice.namespace, top_k=1, id="iron")
    assert by_id.result.hits[0].id == "iron"
    values = (await alice.index.fetch(ids=["python"], namespace=alice.namespace)).vectors["python"].values
    by_vector = await alice.index.search(namespace=alice.namespace, top_k=1, vector=values)
    assert by_vector.result.hits[0].id == "python"


async def unchanged(place: Place, *records: dict[str, Any]) -> str:
    written = await place.index.upsert_records(records=list(records), namespace=place.namespace)
    told: str = written.response_info.raw_headers["x-meridian-unchanged"]
    return told


async def test_the_same_text_again_is_not_embedded_again(alice: Place) -> None:
    assert await unchanged(alice, *RECORDS) == "0"
    assert await unchanged(alice, *RECORDS) == "3"
    changed = {**RECORDS[0], "text": "Carmen is an opera by Bizet."}
    moved = {**RECORDS[1], "topic": "metal"}
    assert await unchanged(alice, changed, moved, RECORDS[2]) == "1"


async def test_a_record_changed_behind_its_text_is_written_again(alice: Place) -> None:
    await unchanged(alice, *RECORDS)
    await alice.index.update(id="iron", values=axis(0), namespace=alice.namespace)
    await alice.index.update(id="python", set_metadata={"topic": "snakes"}, namespace=alice.namespace)
    assert await unchanged(alice, *RECORDS) == "1"


async def test_the_vectors_api_shows_the_text_and_hides_what_is_reserved(alice: Place) -> None:
    await alice.index.upsert_records(records=RECORDS, namespace=alice.namespace)
    fetched = (await alice.index.fetch(ids=["iron"], namespace=alice.namespace)).vectors["iron"]
    assert fetched.metadata == {"text": RECORDS[1]["text"], "topic": "chemistry"}
    assert fetched.sparse_values.indices
    found = await alice.index.query(id="iron", top_k=1, namespace=alice.namespace, include_metadata=True)
    assert found.matches[0].metadata == fetched.metadata


async def test_a_search_in_an_empty_namespace_finds_nothing(alice: Place) -> None:
    assert await search(alice, "anything") == []


async def test_reranking_is_said_to_be_missing(alice: Place) -> None:
    with pytest.raises(sdk_errors.ApiError, match="rerank") as caught:
        await search(alice, "x", rerank={"model": "bge", "rank_fields": ["text"]})
    assert caught.value.status_code == 501


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"_id": "a"}, "text"),
        ({"_id": "a", "text": "x", "nested": {"a": 1}}, "nested"),
        ({"_id": "a", "text": "x" * 41_000}, "40960"),
    ],
)
async def test_a_record_that_cannot_be_kept_is_a_400(alice: Place, record: dict[str, Any], told: str) -> None:
    with pytest.raises(sdk_errors.ApiError, match=told) as caught:
        await alice.index.upsert_records(records=[record], namespace=alice.namespace)
    assert caught.value.status_code == 400


async def test_a_node_embeds_nothing_and_says_so(servers: Servers, flavour: Flavour) -> None:
    async with open_sdk(flavour, KEY, servers.node_url) as sdk:
        index = await sdk.index(INDEX)
        with pytest.raises(sdk_errors.ApiError) as caught:
            await index.upsert_records(records=RECORDS, namespace="records")
        assert caught.value.status_code == 501
        await index.close()
