"""Text ingestion where the embedder is full or dies: what was acknowledged is there, the rest is told."""

import asyncio
import ctypes
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import msgspec
import pytest

from gateway.embedders import local
from regions.node.config import NodeConfig
from regions.node.main import run_node
from regions.runtime import lifecycle
from tests.gateway.running import KEY, Running, running_gateway, tenants_file

TEXT = "The Suez Canal connects the Mediterranean Sea to the Red Sea through the Isthmus of Suez. " * 6
API_KEY = {"Api-Key": KEY}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    """One with the embedded model, whose queue is full with eight passages."""
    tenants_file(tmp_path, index="docs")
    port, stop_node = lifecycle.free_port(), asyncio.Event()
    replica = {"region": "us-east", "kind": "pinecone", "url": f"http://127.0.0.1:{port}/i/docs"}
    config = {
        "indexes": {"docs": {"dimension": local.DIMENSION, "embedder": "it", "replicas": [replica]}},
        "embedders": {"it": {"kind": "local", "max_waiting_passages": 8}},
    }
    async with asyncio.TaskGroup() as group:
        group.create_task(run_node(NodeConfig(data_dir=tmp_path / "node", port=port), stop_node))
        try:
            async with running_gateway(tmp_path, config) as running:
                await make_index(running.session, f"http://127.0.0.1:{port}/indexes")
                yield running
        finally:
            stop_node.set()


async def make_index(session: aiohttp.ClientSession, url: str) -> None:
    spec = {"name": "docs", "dimension": local.DIMENSION, "metric": "dotproduct", "spec": {"serverless": {}}}
    async with asyncio.timeout(10):
        while True:
            try:
                async with session.post(url, json=spec) as response:
                    assert response.status == 201, await response.text()
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)


async def upsert(gateway: Running, ids: Sequence[str], text: str = TEXT) -> aiohttp.ClientResponse:
    lines = b"\n".join(msgspec.json.encode({"_id": id_, "text": f"{id_}: {text}"}) for id_ in ids)
    url = f"{gateway.url}/i/docs/records/namespaces/n/upsert"
    async with gateway.session.post(url, data=lines, headers=API_KEY) as response:
        await response.read()
        return response


async def there(gateway: Running, ids: Sequence[str]) -> set[str]:
    params = [("namespace", "n"), *(("ids", id_) for id_ in ids)]
    url = f"{gateway.url}/i/docs/vectors/fetch"
    async with gateway.session.get(url, params=params, headers=API_KEY) as response:
        return set((await response.json())["vectors"])


async def test_a_full_embedder_pushes_ingestion_back_at_once_and_still_answers_questions(
    gateway: Running,
) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        large = tasks.create_task(upsert(gateway, [f"large-{n}" for n in range(40)]))
        for number in range(100):  # until the large one is there
            refused = await upsert(gateway, [f"small-{number}"], "a")
            if refused.status != 201:
                break
        began_s = loop.time()
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        question = {"query": {"inputs": {"text": "Which sea?"}, "top_k": 3}}
        url = f"{gateway.url}/i/docs/records/namespaces/n/search"
        async with gateway.session.post(url, json=question, headers=API_KEY) as response:
            assert response.status == 200
            assert "x-meridian-degraded" not in response.headers
        assert not large.done(), "the question overtook what was there before it"
        assert loop.time() - began_s < 1.0
    assert large.result().status == 201
    assert len(await there(gateway, [f"large-{n}" for n in range(40)])) == 40


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_no_acknowledged_record_is_lost_when_the_embedders_thread_is_killed(gateway: Running) -> None:
    batches = [[f"{number}-{each}" for each in range(4)] for number in range(8)]
    statuses: list[int] = []

    async def ingest(ids: Sequence[str]) -> None:
        """Until it is taken, as a client that obeys refusals does; only sooner."""
        async with asyncio.timeout(15):
            while (response := await upsert(gateway, ids)).status != 201:
                assert response.status == 503
                statuses.append(response.status)
                await asyncio.sleep(0.02)
        assert await there(gateway, ids) == set(ids)

    async with asyncio.TaskGroup() as tasks:
        for ids in batches:
            tasks.create_task(ingest(ids))
        for _ in range(2):
            await asyncio.sleep(0.15)  # it is at work
            kill("embed-it")
    assert statuses, "something was refused meanwhile"


def kill(name: str) -> None:
    """End the thread of that name as nothing in it expects."""
    thread = next(each for each in threading.enumerate() if each.name == name and each.is_alive())
    ident = ctypes.c_ulong(thread.ident or 0)
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit)) == 1
