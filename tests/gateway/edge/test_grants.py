"""Grants: every route asks for one, and what a key may name is what it was granted."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.edge.openai import OpenAIFace
from gateway.edge.pinecone import PineconeFace
from gateway.tenants import digest_key
from tests.fakes.provider import ScriptedProvider
from tests.gateway.running import PEPPER, Running, running_gateway, tenants_file
from tests.regions.node.running import make_index, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

GRANTS: Final[dict[str, dict[str, list[str]]]] = {
    "chat": {"operations": ["chat"]},
    "read": {"operations": ["read"]},
    "write": {"operations": ["write"]},
    "admin": {"operations": ["admin"]},
    "one-index": {"indexes": ["docs"]},
    "some-namespaces": {"namespaces": ["open", "team-*"]},
    "one-model": {"models": ["big"]},
    "all": {},
}
FREE: Final = {"/v1/models", "/v1/models/{model}", "/indexes", "/indexes/{name}"}
"""GET of these tells what a key may use, whatever that is."""


def every_route() -> list[tuple[str, str]]:
    """Method and path of each route there is, read from the faces themselves."""
    app = web.Application()
    app.add_routes(OpenAIFace.__new__(OpenAIFace).routes())
    app.add_routes(PineconeFace.__new__(PineconeFace).routes())
    return sorted(
        {
            (route.method if route.method != "*" else "POST", route.resource.canonical)
            for route in app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    directory: Path = tmp_path_factory.mktemp("grants")
    tenants_file(directory, index="docs")
    file = yaml.safe_load((directory / "tenants.yaml").read_text())
    file["tenants"][0]["keys"] = [
        {"digest": digest_key(f"key-{name}", PEPPER.encode()), "label": name, "grants": grants}
        for name, grants in GRANTS.items()
    ]
    (directory / "tenants.yaml").write_text(yaml.safe_dump(file))
    provider = ScriptedProvider()
    (directory / "node").mkdir()
    async with (
        running_node(directory / "node") as node,
        TestServer(provider.application(), handler_cancellation=True) as server,
    ):
        for name in ("docs", "other"):
            await make_index(node, name, 4)
        upstream = {"kind": "openai", "base_url": str(server.make_url("/v1")), "model": "gpt-4o"}
        config: dict[str, Any] = {
            "indexes": {
                name: {
                    "dimension": 4,
                    "embedder": "none",
                    "sparse": False,
                    "replicas": [{"region": "us-east", "kind": "pinecone", "url": f"{node.url}/i/{name}"}],
                }
                for name in ("docs", "other")
            },
            "embedders": {
                "none": {
                    "kind": "openai",
                    "base_url": "http://127.0.0.1:1/v1",
                    "model": "none",
                    "dimension": 4,
                }
            },
            "models": {name: {"upstreams": [upstream]} for name in ("big", "small")},
        }
        async with running_gateway(directory, config) as running:
            yield running


async def call(
    gateway: Running, key: str, method: str, path: str, body: object = None
) -> tuple[int, dict[str, Any] | str]:
    filled = re.sub(r"\{index\}|\{name\}", "docs", path)
    filled = re.sub(r"\{[a-z:.+]+\}", "open", filled)
    headers = {"Authorization": f"Bearer key-{key}"}
    async with gateway.session.request(method, gateway.url + filled, json=body, headers=headers) as response:
        is_json = response.content_type == "application/json"
        return response.status, (await response.json() if is_json else await response.text())


@pytest.mark.parametrize(("method", "path"), every_route(), ids=lambda each: str(each))
async def test_no_route_is_open_to_a_key_without_its_operation(
    gateway: Running, method: str, path: str
) -> None:
    told = {
        name: (await call(gateway, name, method, path, {}))[0] for name in ("chat", "read", "write", "admin")
    }
    if method == "GET" and path in FREE:
        assert 403 not in told.values()
        return
    allowed = [name for name, status in told.items() if status != 403]
    assert len(allowed) == 1, told
    assert (await call(gateway, "all", method, path, {}))[0] != 403


async def test_an_operation_that_is_not_granted_is_said_in_the_dialects_shape(gateway: Running) -> None:
    _, openai = await call(gateway, "read", "POST", "/v1/chat/completions", {})
    assert isinstance(openai, dict)
    assert (openai["error"]["code"], openai["error"]["type"]) == ("forbidden", "permission_error")
    _, pinecone = await call(gateway, "chat", "POST", "/query", {})
    assert isinstance(pinecone, dict)
    assert (pinecone["code"], pinecone["details"]) == (7, [])
    assert "grant 'read'" in pinecone["message"]
    _, control = await call(gateway, "read", "POST", "/indexes", {})
    assert isinstance(control, dict)
    assert control["error"]["code"] == "FORBIDDEN"


async def test_an_index_that_is_not_granted_is_neither_used_nor_listed(gateway: Running) -> None:
    query = {"vector": [1, 0, 0, 0], "topK": 1}
    assert (await call(gateway, "one-index", "POST", "/i/docs/query", query))[0] == 200
    assert (await call(gateway, "one-index", "POST", "/i/other/query", query))[0] == 403
    assert (await call(gateway, "one-index", "GET", "/indexes/other"))[0] == 404
    _, listed = await call(gateway, "one-index", "GET", "/indexes")
    assert isinstance(listed, dict)
    assert [each["name"] for each in listed["indexes"]] == ["docs"]
    chat = {"model": "big", "messages": [{"role": "user", "content": "?"}], "rag": {"index": "other"}}
    assert (await call(gateway, "one-index", "POST", "/v1/chat/completions", chat))[0] == 403


async def test_a_namespace_that_is_not_granted_is_neither_used_nor_listed(gateway: Running) -> None:
    for namespace in ("open", "team-a", "closed"):
        vectors = [{"id": "x", "values": [1, 0, 0, 0]}]
        body = {"vectors": vectors, "namespace": namespace}
        assert (await call(gateway, "all", "POST", "/vectors/upsert", body))[0] == 200
        told = (await call(gateway, "some-namespaces", "POST", "/vectors/upsert", body))[0]
        assert told == (403 if namespace == "closed" else 200)
        query = {"vector": [1, 0, 0, 0], "topK": 1, "namespace": namespace}
        assert (await call(gateway, "some-namespaces", "POST", "/query", query))[0] == told
    assert (await call(gateway, "some-namespaces", "POST", "/query", {"vector": [1, 0, 0, 0], "topK": 1}))[
        0
    ] == 403
    _, listed = await call(gateway, "some-namespaces", "GET", "/namespaces")
    assert isinstance(listed, dict)
    assert [each["name"] for each in listed["namespaces"]] == ["open", "team-a"]
    assert "total_count" not in listed
    _, stats = await call(gateway, "some-namespaces", "POST", "/describe_index_stats", {})
    assert isinstance(stats, dict)
    assert (set(stats["namespaces"]), stats["totalVectorCount"]) == ({"open", "team-a"}, 2)
    chat = {"model": "big", "messages": [{"role": "user", "content": "?"}], "rag": {"namespace": "closed"}}
    assert (await call(gateway, "some-namespaces", "POST", "/v1/chat/completions", chat))[0] == 403


async def test_a_model_that_is_not_granted_is_neither_asked_nor_listed(gateway: Running) -> None:
    chat = {"messages": [{"role": "user", "content": "?"}], "rag": {"mode": "off"}}
    assert (await call(gateway, "one-model", "POST", "/v1/chat/completions", {**chat, "model": "big"}))[
        0
    ] == 200
    assert (await call(gateway, "one-model", "POST", "/v1/chat/completions", {**chat, "model": "small"}))[
        0
    ] == 403
    assert (await call(gateway, "one-model", "POST", "/v1/embeddings", {"model": "none", "input": "x"}))[
        0
    ] == 403
    _, listed = await call(gateway, "one-model", "GET", "/v1/models")
    assert isinstance(listed, dict)
    assert [each["id"] for each in listed["data"]] == ["big", "snippets"]
    assert (await call(gateway, "one-model", "GET", "/v1/models/small"))[0] == 404
