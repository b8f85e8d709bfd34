"""What callers get while no endpoint of the embedder answers: real node, scripted embeddings endpoints."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestServer

from gateway.config import GatewayConfig
from gateway.config_checks import cross_check
from regions.node.config import NodeConfig
from regions.node.main import run_node
from regions.runtime import lifecycle
from tests.fakes.embeddings import DIMENSION, ScriptedEmbeddings
from tests.fakes.provider import ScriptedProvider, Step, answer
from tests.gateway.running import KEY, Running, running_gateway, tenants_file

RECORDS = [
    {"_id": "curie", "text": "Marie Curie won the Nobel Prize in Physics in 1903."},
    {"_id": "hills", "text": "The Karst hills are made of limestone."},
]
QUESTION = [{"role": "user", "content": "What are the Karst hills made of?"}]
SPARSE_ONLY = "sparse_only; reason=embedder_unavailable"


@dataclass
class Rig:
    gateway: Running
    first: ScriptedEmbeddings
    second: ScriptedEmbeddings
    provider: ScriptedProvider

    async def search(self, text: str, index: str = "docs") -> tuple[aiohttp.ClientResponse, list[str]]:
        """The answer, and the ids found."""
        response = await self.gateway.session.post(
            f"{self.gateway.url}/i/{index}/records/namespaces/facts/search",
            json={"query": {"inputs": {"text": text}, "top_k": 5}},
            headers={"Api-Key": KEY},
        )
        body = await response.json()
        return response, [hit["_id"] for hit in body.get("result", {}).get("hits", [])]

    async def ask(self, model: str = "snippets", **rag: Any) -> aiohttp.ClientResponse:
        body = {"model": model, "messages": QUESTION, "rag": rag}
        return await self.gateway.session.post(f"{self.gateway.url}/v1/chat/completions", json=body)


def config(node_url: str, model_url: str, *endpoints: str) -> dict[str, Any]:
    def index(**more: Any) -> dict[str, Any]:
        replica = {"region": "us-east", "kind": "pinecone", "url": f"{node_url}/i/docs"}
        return {"dimension": DIMENSION, "embedder": "it", "replicas": [replica], **more}

    meant, *others = [
        {"kind": "openai", "base_url": url, "model": "m", "dimension": DIMENSION} for url in endpoints
    ]
    return {
        "indexes": {"docs": index(), "dense": index(sparse=False)},
        "embedders": {"it": {**meant, "query_s": 0.2, "fallbacks": others}},
        "models": {"big": {"upstreams": [{"kind": "openai", "base_url": model_url, "model": "gpt-4o"}]}},
        "server": {"deadline_s": 5},
    }


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Rig]:
    tenants_file(tmp_path, index="docs", namespace="facts")
    port, stop_node = lifecycle.free_port(), asyncio.Event()
    first, second, provider = ScriptedEmbeddings(), ScriptedEmbeddings(), ScriptedProvider()
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        group.create_task(run_node(NodeConfig(data_dir=tmp_path / "node", port=port), stop_node))
        stack.callback(stop_node.set)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await make_index(session, f"http://127.0.0.1:{port}")
        urls = []
        for script in (provider, first, second):
            server = TestServer(script.application(), handler_cancellation=True, shutdown_timeout=0.1)
            await stack.enter_async_context(server)
            urls.append(str(server.make_url("/v1")))
        gateway = await stack.enter_async_context(
            running_gateway(tmp_path, config(f"http://127.0.0.1:{port}", *urls))
        )
        lines = b"\n".join(msgspec.json.encode(record) for record in RECORDS)
        async with gateway.session.post(
            f"{gateway.url}/i/docs/records/namespaces/facts/upsert", data=lines, headers={"Api-Key": KEY}
        ) as response:
            assert response.status == 201, await response.text()
        yield Rig(gateway, first, second, provider)


async def make_index(session: aiohttp.ClientSession, url: str) -> None:
    spec = {
        "name": "docs",
        "dimension": DIMENSION,
        "metric": "dotproduct",
        "spec": {"serverless": {"cloud": "aws", "region": "us-east-1"}},
    }
    async with asyncio.timeout(10):
        while True:
            try:
                async with session.post(f"{url}/indexes", json=spec) as response:
                    assert response.status == 201, await response.text()
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)


async def test_another_endpoint_of_the_version_answers_and_nothing_is_missing(it: Rig) -> None:
    it.first.status = 500
    response, found = await it.search("What are the Karst hills made of?")
    assert "x-meridian-degraded" not in response.headers
    assert set(found) == {"curie", "hills"}
    assert it.second.asked


@pytest.mark.parametrize("is_silent", [True, False])
async def test_with_no_endpoint_left_records_are_found_by_their_words_and_the_answer_says_so(
    it: Rig, is_silent: bool
) -> None:
    for script in (it.first, it.second):
        script.status, script.is_silent = 500, is_silent
    response, found = await it.search("What are the Karst hills made of?")
    assert response.headers["x-meridian-degraded"] == SPARSE_ONLY
    assert found == ["hills"], "what shares no word with the question is not found"


async def test_a_models_answer_over_passages_that_were_found_by_words_is_marked(it: Rig) -> None:
    it.first.status = it.second.status = 500
    it.provider.steps = [Step(answer("Of limestone [1]."))]
    response = await it.ask("big")
    body = await response.json()
    assert body["choices"][0]["message"]["annotations"]
    assert response.headers["x-meridian-degraded"] == SPARSE_ONLY
    assert body["degraded"] == {"kind": "sparse_only", "reason": "embedder_unavailable"}


async def test_excerpts_can_be_made_of_passages_that_were_found_by_words(it: Rig) -> None:
    it.first.status = it.second.status = 500
    body = await (await it.ask()).json()
    assert "limestone" in body["choices"][0]["message"]["content"]


async def test_without_words_to_go_by_the_caller_is_told_that_retrieval_is_down(it: Rig) -> None:
    it.first.status = it.second.status = 500
    response = await it.ask(index="dense")
    assert response.status == 503, await response.text()
    assert (await response.json())["error"]["code"] == "retrieval_unavailable"
    response, _ = await it.search("to be or not to be")  # stop words only
    assert response.status == 503


async def test_operators_see_the_breakers_of_the_endpoints(it: Rig) -> None:
    it.first.status = 500
    for _ in range(6):
        await it.search("limestone")
    async with it.gateway.session.get(f"{it.gateway.operators_url}/readyz") as response:
        breakers = (await response.json())["breakers"]
    assert breakers["embedder/it"] == "open"
    assert breakers["embedder/it/1"] == "closed"
    assert breakers["replica/docs/us-east"] == "closed"
    async with it.gateway.session.get(f"{it.gateway.operators_url}/metrics") as response:
        assert 'meridian_breaker{name="embedder/it",state="open"} 1.0' in await response.text()


def test_a_fallback_whose_vectors_cannot_be_compared_is_a_configuration_error() -> None:
    sections = config(*(f"http://127.0.0.1:{port}/v1" for port in range(1, 5)))
    sections["embedders"]["it"]["fallbacks"][0]["model"] = "other"
    loaded = GatewayConfig.model_validate(
        {"region": "us-east", "tenants": {"pepper": "file:pepper"}, **sections}
    )
    (problem,) = cross_check(loaded)
    assert problem.path == "embedders.it.fallbacks.0"
    assert "cannot be compared" in problem.problem
