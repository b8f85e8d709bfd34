"""What goes wrong reaches the caller as the SDK's own exception classes, in Pinecone's words."""

from typing import Any

import pytest
from pinecone.errors import exceptions as sdk_errors

from tests.compat.conftest import Place
from tests.compat.sdk import Flavour, Target, open_sdk
from tests.compat.servers import DIMENSION, INDEX, KEY, NARROW_KEY, Servers, request
from tests.compat.test_pinecone_data import axis

pytestmark = pytest.mark.compat


@pytest.mark.parametrize(
    ("method", "arguments", "told"),
    [
        ("upsert", {"vectors": [("a", [1.0])]}, "dimension"),
        ("upsert", {"vectors": [("a", axis(0), {"long": "x" * 41_000})]}, "40960"),
        ("upsert", {"vectors": [("a", axis(0, 0.0))]}, "non-zero"),
        ("query", {"vector": [1.0, 2.0], "top_k": 1}, "dimension"),
        ("query", {"vector": axis(0), "top_k": 1, "filter": {"a": {"$near": 1}}}, r"\$near"),
        ("delete", {"filter": {"a": {"$near": 1}}}, r"\$near"),
        ("update", {"id": "a", "values": [1.0]}, "dimension"),
    ],
)
async def test_a_call_outside_the_limits_is_a_400_with_its_reason(
    place: Place, method: str, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(sdk_errors.ApiError, match=told) as caught:
        await getattr(place.index, method)(namespace=place.namespace, **arguments)
    assert caught.value.status_code == 400


async def test_a_namespace_that_does_not_exist_is_a_404(place: Place) -> None:
    with pytest.raises(sdk_errors.NotFoundError):
        await place.index.describe_namespace(name=place.namespace)
    with pytest.raises(sdk_errors.NotFoundError):
        await place.index.delete_namespace(name=place.namespace)


async def test_a_namespace_that_exists_already_is_a_conflict(place: Place) -> None:
    await place.index.create_namespace(name=place.namespace)
    with pytest.raises(sdk_errors.ConflictError):
        await place.index.create_namespace(name=place.namespace)


async def test_an_index_that_does_not_exist_is_a_404(place: Place) -> None:
    with pytest.raises(sdk_errors.NotFoundError, match=r"not found|does not exist"):
        await place.sdk.indexes.describe("no-such-index")
    assert await place.sdk.indexes.exists("no-such-index") is False


async def test_the_control_plane_describes_and_lists(place: Place) -> None:
    described = await place.sdk.indexes.describe(INDEX)
    assert (described.name, described.status.ready) == (INDEX, True)
    assert (described.dimension, described.metric) == (DIMENSION, "dotproduct")
    listed = await place.sdk.indexes.all("list")
    assert INDEX in [index.name for index in listed]
    assert await place.sdk.indexes.exists(INDEX) is True


async def test_imports_and_documents_say_that_they_are_missing(place: Place) -> None:
    with pytest.raises(sdk_errors.ApiError) as caught:
        await place.index.start_import(uri="s3://bucket/path")
    assert caught.value.status_code == 501
    with pytest.raises(sdk_errors.ApiError) as caught:
        await place.index.all("list_imports")
    assert caught.value.status_code == 501


async def test_documents_say_that_they_are_missing(servers: Servers) -> None:
    headers = {"Api-Key": KEY, "Content-Type": "application/json"}
    for host in (servers.index_url, f"{servers.gateway_url}/i/{INDEX}", servers.gateway_url):
        for call in ("upsert", "search", "fetch", "delete", "update", "list"):
            status, _ = request("POST", f"{host}/namespaces/a/documents/{call}", b"{}", headers)
            assert (host, call, status) == (host, call, 501)


async def test_the_gateway_answers_with_its_own_host(servers: Servers, flavour: Flavour) -> None:
    async with open_sdk(flavour, KEY, servers.gateway_url) as sdk:
        described = await sdk.indexes.describe(INDEX)
    assert described.host.removeprefix("http://") == f"{servers.gateway_url}/i/{INDEX}".removeprefix(
        "http://"
    )


async def test_a_bare_host_means_the_tenants_default_index(servers: Servers, flavour: Flavour) -> None:
    async with open_sdk(flavour, KEY, servers.gateway_url) as sdk:
        index = await sdk.index(host=servers.gateway_url)
        await index.upsert(vectors=[("bare", axis(0))], namespace="bare-host")
        named = await sdk.index(INDEX)
        assert set((await named.fetch(ids=["bare"], namespace="bare-host")).vectors) == {"bare"}
        await index.close()
        await named.close()


async def test_a_wrong_key_is_unauthorized(servers: Servers, target: Target, flavour: Flavour) -> None:
    control, host = servers.of(target)
    async with open_sdk(flavour, "nobody's key", control) as sdk:
        index = await sdk.index(host=host)
        with pytest.raises(sdk_errors.UnauthorizedError):
            await index.query(vector=axis(0), top_k=1)
        with pytest.raises(sdk_errors.UnauthorizedError):
            await sdk.indexes.describe(INDEX)
        await index.close()


async def test_an_index_outside_the_tenants_grants_is_forbidden_and_unseen(
    servers: Servers, flavour: Flavour
) -> None:
    async with open_sdk(flavour, NARROW_KEY, servers.gateway_url) as sdk:
        index = await sdk.index(host=f"{servers.gateway_url}/i/{INDEX}")
        with pytest.raises(sdk_errors.ForbiddenError):
            await index.query(vector=axis(0), top_k=1)
        with pytest.raises(sdk_errors.NotFoundError):
            await sdk.indexes.describe(INDEX)
        assert INDEX not in [found.name for found in await sdk.indexes.all("list")]
        await index.close()


async def test_indexes_are_not_changed_through_the_gateway(servers: Servers, flavour: Flavour) -> None:
    async with open_sdk(flavour, KEY, servers.gateway_url) as sdk:
        with pytest.raises(sdk_errors.ApiError, match="operators") as caught:
            await sdk.indexes.delete(INDEX, timeout=-1)
        assert caught.value.status_code == 501


async def test_a_path_that_is_none_and_a_wrong_method_keep_the_dialect(servers: Servers) -> None:
    headers = {"Api-Key": KEY}
    assert request("GET", f"{servers.gateway_url}/nothing", None, headers)[0] == 404
    status, body = request("GET", f"{servers.gateway_url}/query", None, headers)
    assert status in (405, 501)
    assert b'"code":' in body


async def test_every_answer_of_the_gateway_says_who_gave_it(servers: Servers) -> None:
    async with open_sdk("async", KEY, servers.gateway_url) as sdk:
        index = await sdk.index(INDEX)
        written = await index.upsert(vectors=[("a", axis(0))], namespace="headers")
        read = await index.query(vector=axis(0), top_k=1, namespace="headers")
        await index.close()
    wrote, seen = written.response_info.raw_headers, read.response_info.raw_headers
    assert wrote["x-request-id"] != seen["x-request-id"]
    assert wrote["x-meridian-region"] == seen["x-meridian-region"] == seen["x-meridian-replica"] == "us-east"
    assert wrote["x-meridian-lsn"] == wrote["x-pinecone-request-lsn"]
    assert seen["x-meridian-lsn"] == seen["x-pinecone-max-indexed-lsn"]


async def test_a_key_may_come_as_a_bearer_token(servers: Servers) -> None:
    assert (
        request("GET", f"{servers.gateway_url}/indexes", None, {"Authorization": f"Bearer {KEY}"})[0] == 200
    )
    status, body = request("GET", f"{servers.gateway_url}/indexes")
    assert status == 401
    assert not body.startswith(b"{")  # a bare string, as on Pinecone


async def test_a_body_over_the_gateways_limit_is_a_413(servers: Servers) -> None:
    body = b" " * (9 * 1024 * 1024)
    status, _ = request("POST", f"{servers.gateway_url}/query", body, {"Api-Key": KEY})
    assert status == 413
