"""Two tenants of one gateway and one index: nothing that one of them says reaches the other's records."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from pinecone.errors import exceptions as sdk_errors

from tests.compat.conftest import Two
from tests.compat.servers import INDEX, KEY, OTHER_KEY, OTHER_TENANT, TENANT, Servers, request
from tests.compat.test_pinecone_data import axis

pytestmark = pytest.mark.compat

HOSTS = ("", f"/i/{INDEX}")


def post(servers: Servers, path: str, body: bytes, key: str = OTHER_KEY) -> tuple[int, bytes]:
    return request("POST", servers.gateway_url + path, body, {"Api-Key": key})


def get(servers: Servers, path: str, key: str = OTHER_KEY) -> tuple[int, bytes]:
    return request("GET", servers.gateway_url + path, None, {"Api-Key": key})


async def give_alice_a_secret(two: Two) -> str:
    """A record of Alice's; its id."""
    secret = f"secret-of-{two.namespace}"
    metadata = {"card": "4242", "kind": two.namespace}
    await two.alice.upsert(vectors=[(secret, axis(0), metadata)], namespace=two.namespace)
    return secret


async def alice_has(two: Two, secret: str) -> bool:
    found = await two.alice.fetch(ids=[secret], namespace=two.namespace)
    return secret in found.vectors and found.vectors[secret].metadata["card"] == "4242"


def spellings(name: str) -> list[str]:
    """How an attacker might spell another tenant's namespace."""
    stored = f"{TENANT}.{name}"
    return [
        name,
        stored,
        f".{name}",
        f"../{TENANT}.{name}",
        f"/{stored}",
        f"{TENANT}/{name}",
        f"{OTHER_TENANT}.{stored}",
        f"x.{stored}",
        f"%2e{name}",
        f"{name} ",
        f"{stored}%00",
        "%",
        "_",
        "*",
        "",
        "__default__",
    ]


async def test_no_spelling_of_a_namespace_reads_another_tenants_records(two: Two) -> None:
    secret = await give_alice_a_secret(two)
    for name in spellings(two.namespace):
        found = await two.mallory.fetch(ids=[secret], namespace=name)
        assert (name, found.vectors) == (name, {})
        matches = await two.mallory.query(vector=axis(0), top_k=100, namespace=name)
        assert secret not in [match.id for match in matches.matches]
        by_metadata = await two.mallory.fetch_by_metadata(filter={"card": "4242"}, namespace=name)
        assert secret not in by_metadata.vectors
        listed = await two.mallory.all("list", namespace=name)
        assert secret not in [item.id for page in listed for item in page.vectors]


async def test_no_spelling_of_a_namespace_changes_another_tenants_records(two: Two) -> None:
    secret = await give_alice_a_secret(two)
    for name in spellings(two.namespace):
        await two.mallory.upsert(vectors=[(secret, axis(1), {"card": "mine"})], namespace=name)
        await two.mallory.update(id=secret, set_metadata={"card": "mine"}, namespace=name)
        await two.mallory.update(filter={"card": "4242"}, set_metadata={"card": "mine"}, namespace=name)
        await two.mallory.delete(ids=[secret], namespace=name)
        await two.mallory.delete(filter={"card": "4242"}, namespace=name)
        await two.mallory.delete(delete_all=True, namespace=name)
    assert await alice_has(two, secret)


@pytest.mark.parametrize(
    "name", ["tést", "ａ", "a\u200b", "a\u0000b", "a\nb", "\u202e", "x" * 496, "é" * 300]
)
async def test_a_name_outside_printable_ascii_is_refused_and_never_folded(two: Two, name: str) -> None:
    body = json.dumps({"vectors": [{"id": "a", "values": axis(0)}], "namespace": name}).encode()
    status, said = post(two.servers, "/vectors/upsert", body)
    assert (status, json.loads(said)["code"]) == (400, 3)
    for path in (
        f"/vectors/fetch?ids=a&namespace={quote(name, safe='')}",
        f"/namespaces/{quote(name, safe='')}",
    ):
        assert get(two.servers, path)[0] == 400


async def test_a_namespace_of_the_longest_name_works(two: Two) -> None:
    name = "x" * 495
    await two.mallory.upsert(vectors=[("a", axis(0))], namespace=name)
    assert (await two.mallory.describe_namespace(name=name)).record_count == 1
    await two.mallory.delete_namespace(name=name)


async def test_another_tenants_namespace_can_be_neither_described_nor_dropped(two: Two) -> None:
    secret = await give_alice_a_secret(two)
    for name in (two.namespace, f"{TENANT}.{two.namespace}"):
        with pytest.raises(sdk_errors.NotFoundError) as caught:
            await two.mallory.describe_namespace(name=name)
        assert TENANT not in str(caught.value).replace(name, "")
        with pytest.raises(sdk_errors.NotFoundError):
            await two.mallory.delete_namespace(name=name)
    assert await alice_has(two, secret)


async def test_a_namespace_with_path_characters_is_one_name_and_not_a_path(two: Two) -> None:
    for name in ("a/b", "a%2Fb", "../x", "a?b=c", "a#b", "a b", "..", "documents", "."):
        own = f"{name}-{two.namespace}"
        await two.mallory.upsert(vectors=[("a", axis(0))], namespace=own)
        assert (await two.mallory.describe_namespace(name=own)).name == own
        await two.mallory.delete_namespace(name=own)


async def test_stats_and_lists_are_the_tenants_own(two: Two) -> None:
    await give_alice_a_secret(two)
    await two.mallory.upsert(vectors=[("a", axis(0))], namespace=f"own-{two.namespace}")
    stats = await two.mallory.describe_index_stats()
    listed = [n for page in await two.mallory.all("list_namespaces") for n in page.namespaces]
    assert two.namespace not in stats.namespaces
    assert stats.total_vector_count == sum(n.vector_count for n in stats.namespaces.values())
    assert {n.name for n in listed} == set(stats.namespaces)
    page = await two.mallory.list_namespaces_paginated()
    assert page.total_count == len(listed)
    assert f"{OTHER_TENANT}.own-{two.namespace}" not in stats.namespaces


async def test_a_prefix_finds_nobody_elses_namespaces(two: Two) -> None:
    await give_alice_a_secret(two)
    for prefix in (
        two.namespace,
        f"{TENANT}.{two.namespace}",
        f".{two.namespace}",
        "t",
        "../",
        "%",
        "_",
        "\x7f",
    ):
        page = await two.mallory.list_namespaces_paginated(prefix=prefix)
        names = [n.name for n in page.namespaces]
        assert all(name.startswith(prefix) for name in names)
        assert two.namespace not in names
        assert page.total_count == len(names)


async def tokens_of_alice(two: Two) -> dict[str, str]:
    """A token of each call that has pages."""
    for n in range(2):
        records = [(f"{i}", axis(i), {"all": True}) for i in range(2)]
        await two.alice.upsert(vectors=records, namespace=f"{two.namespace}-{n}")
    name = f"{two.namespace}-0"
    ids = await two.alice.list_paginated(limit=1, namespace=name)
    records_ = await two.alice.fetch_by_metadata(filter={"all": True}, limit=1, namespace=name)
    namespaces = await two.alice.list_namespaces_paginated(prefix=two.namespace, limit=1)
    pages = {"list": ids, "fetch_by_metadata": records_, "list_namespaces": namespaces}
    return {call: page.pagination.next for call, page in pages.items()}


async def turn_page(index: Any, call: str, namespace: str, prefix: str, token: str) -> Any:
    match call:
        case "list":
            return await index.list_paginated(limit=1, namespace=namespace, pagination_token=token)
        case "fetch_by_metadata":
            return await index.fetch_by_metadata(
                filter={"all": True}, limit=1, namespace=namespace, pagination_token=token
            )
        case _:
            return await index.list_namespaces_paginated(prefix=prefix, limit=1, pagination_token=token)


async def test_a_page_token_is_no_good_for_another_tenant_namespace_or_call(two: Two) -> None:
    tokens = await tokens_of_alice(two)
    first, second = f"{two.namespace}-0", f"{two.namespace}-1"
    for call, token in tokens.items():
        assert await turn_page(two.alice, call, first, two.namespace, token)
        attempts = [(two.mallory, call, first)]
        attempts += [(two.alice, other, first) for other in tokens if other != call]
        attempts += [(two.alice, call, second)] if call != "list_namespaces" else []
        for index, other, name in attempts:
            with pytest.raises(sdk_errors.ApiError, match="pagination token") as caught:
                await turn_page(index, other, name, two.namespace, token)
            assert caught.value.status_code == 400


async def test_a_page_token_tells_nothing_in_plain_words(two: Two) -> None:
    import base64

    for token in (await tokens_of_alice(two)).values():
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        assert TENANT.encode() not in raw


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    "body",
    [
        '{"topK":1,"vector":V,"namespace":"mine","namespace":"THEIRS"}',
        '{"topK":1,"vector":V,"namespace":"mine","\\u006eamespace":"THEIRS"}',
        '{"namespace":"THEIRS","topK":1,"vector":V,"namespace":"mine"}',
        '{"topK":1,"vector":V,"Namespace":"THEIRS"}',
        '{"topK":1,"vector":V,"filter":{"a":1,"a":2}}',
        '{"topK":1,"vector":V}{"namespace":"THEIRS"}',
        '{"topK":1,"vector":V,"namespace":["THEIRS"]}',
        '{"topK":1,"vector":V,"namespace":null}',
    ],
)
async def test_a_body_that_two_readers_read_differently_is_refused(two: Two, host: str, body: str) -> None:
    raw = body.replace("V", json.dumps(axis(0))).replace("THEIRS", f"{TENANT}.{two.namespace}")
    assert post(two.servers, f"{host}/query", raw.encode())[0] == 400


async def test_a_repeated_parameter_is_refused(two: Two) -> None:
    for path in ("/vectors/fetch?ids=a&namespace=x&namespace=y", "/vectors/list?namespace=x&namespace=y"):
        assert get(two.servers, path)[0] == 400


async def test_reserved_metadata_can_be_neither_written_nor_asked_for_nor_seen(two: Two) -> None:
    await two.alice.upsert_records(records=[{"_id": "t", "text": "a text"}], namespace=two.namespace)
    forged = {"_m.text": "forged"}
    for call in (
        two.alice.upsert(vectors=[("t", axis(0), forged)], namespace=two.namespace),
        two.alice.update(id="t", set_metadata=forged, namespace=two.namespace),
        two.alice.update(filter={"a": 1}, set_metadata=forged, namespace=two.namespace),
        two.alice.upsert_records(records=[{"_id": "t", "text": "x", **forged}], namespace=two.namespace),
        two.alice.query(vector=axis(0), top_k=1, filter={"_m.text": "a text"}, namespace=two.namespace),
        two.alice.delete(filter={"_m.hash": {"$exists": True}}, namespace=two.namespace),
        two.alice.search(namespace=two.namespace, top_k=1, id="t", fields=["_m.embedding"]),
        two.alice.create_namespace(name="r", schema={"fields": {"_m.text": {"filterable": True}}}),
    ):
        with pytest.raises(sdk_errors.ApiError, match="reserved") as caught:
            await call
        assert caught.value.status_code == 400
    for path, body in (
        (f"/vectors/fetch?ids=t&namespace={two.namespace}", None),
        (
            "/query",
            {
                "topK": 1,
                "id": "t",
                "namespace": two.namespace,
                "includeMetadata": True,
                "includeValues": True,
            },
        ),
        ("/vectors/fetch_by_metadata", {"filter": {"nope": {"$exists": False}}, "namespace": two.namespace}),
        (f"/records/namespaces/{two.namespace}/search", {"query": {"top_k": 1, "inputs": {"text": "text"}}}),
    ):
        status, said = (
            get(two.servers, path, KEY)
            if body is None
            else post(two.servers, path, json.dumps(body).encode(), KEY)
        )
        assert (path, status) == (path, 200)
        assert b"a text" in said
        assert b"_m." not in said


async def test_no_answer_names_a_stored_namespace(two: Two) -> None:
    await give_alice_a_secret(two)
    name = quote(two.namespace)
    for path in (
        f"/vectors/fetch?ids=a&namespace={name}",
        f"/vectors/list?namespace={name}",
        "/namespaces",
        f"/namespaces/{name}",
        "/namespaces/nobody",
        "/describe_index_stats",
    ):
        assert f"{TENANT}.".encode() not in get(two.servers, path, KEY)[1]
