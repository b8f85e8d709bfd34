"""One node, one gateway and one scripted LLM for the whole session; every test uses names of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pinecone import Pinecone

from regions.runtime import lifecycle
from tests.compat import scripted
from tests.compat.sdk import Awaitable, Flavour, Sdk, Target, open_sdk
from tests.compat.servers import (
    DIMENSION,
    INDEX,
    KEY,
    OTHER_KEY,
    Process,
    Servers,
    node_argv,
    running,
    serving,
    write_gateway_config,
)
from tests.fakes.provider import ScriptedProvider, Step, answer

_PROCESSES: pytest.StashKey[list[Process]] = pytest.StashKey()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Servers]:
    """The processes, started once and gone at the end of the session."""
    directory: Path = tmp_path_factory.mktemp("compat")
    (directory / "node").mkdir()
    node_port, gateway_port, operators_port = (lifecycle.free_port() for _ in range(3))
    node_url, gateway_url = f"http://127.0.0.1:{node_port}", f"http://127.0.0.1:{gateway_port}"
    provider = ScriptedProvider(good=answer_about_bizet)
    provider.words = scripted.WORDS
    processes = request.session.stash.setdefault(_PROCESSES, [])
    with (
        serving(provider) as llm_url,
        running(node_argv(directory, node_port), directory / "node.log", f"{node_url}/indexes") as node,
    ):
        processes.append(node)
        index_url = create_index(node_url)
        config = write_gateway_config(directory, index_url, llm_url, gateway_port, operators_port)
        argv = ["-m", "gateway", "serve", "--config", str(config)]
        ready = f"http://127.0.0.1:{operators_port}/readyz"
        with running(argv, directory / "gateway.log", ready) as gateway:
            processes.append(gateway)
            yield Servers(node_url, gateway_url, index_url, provider)


def answer_about_bizet(text: str = "Georges Bizet composed it [1].") -> Step:
    """A good answer of the scripted LLM, in pieces that cut its marker in two."""
    return Step(answer(text[: len(text) // 2], text[len(text) // 2 : -2], text[-2:]))


@pytest.fixture(scope="session")
def library(servers: Servers) -> str:
    """A namespace of the first tenant with a few passages; gives its name."""
    records = [
        {
            "_id": "carmen",
            "title": "Carmen",
            "text": "Carmen is an opera in four acts composed by Georges Bizet.",
            "source": "https://example.org/carmen",
        },
        {"_id": "iron", "title": "Rust", "text": "Iron rusts when it meets water and oxygen."},
        {"_id": "python", "title": "Python", "text": "Guido van Rossum created the language Python."},
    ]
    control, host = servers.of("gateway")
    with (
        Pinecone(api_key=KEY, host=control, ssl_verify=False) as client,
        client.index(host=host) as index,
    ):
        index.upsert_records(records=records, namespace="library")
    return "library"


def create_index(node_url: str) -> str:
    """The index every test works in: dot product, dense and sparse; gives its host."""
    fields = {
        "_values": {"type": "dense_vector", "dimension": DIMENSION, "metric": "dotproduct"},
        "_sparse_values": {"type": "sparse_vector"},
    }
    deployment = {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}
    with Pinecone(api_key=KEY, host=node_url) as client:
        made: Any = client.indexes.create(name=INDEX, schema={"fields": fields}, deployment=deployment)
        host = str(made.host)
    return host if "://" in host else f"http://{host}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows what the servers said last."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for process in item.session.stash.get(_PROCESSES, []):
            report.sections.append((process.log.name, process.tail()))


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    chosen: Flavour = request.param
    return chosen


@pytest.fixture(params=["node", "gateway"])
def target(request: pytest.FixtureRequest) -> Target:
    chosen: Target = request.param
    return chosen


@dataclass
class Place:
    """An SDK at one of the targets: its control plane, the index, and a namespace nobody else uses."""

    sdk: Sdk
    index: Awaitable
    namespace: str
    target: Target


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """A name of the test's own, without the characters that only a path would need quoted."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[:200]


@pytest.fixture
async def place(servers: Servers, target: Target, flavour: Flavour, namespace: str) -> AsyncIterator[Place]:
    """The SDK at the node or at the gateway."""
    async with open_sdk(flavour, KEY, servers.of(target)[0]) as sdk:
        index = await sdk.index(INDEX)
        yield Place(sdk, index, namespace, target)
        await index.close()


@dataclass
class Two:
    """Two tenants of one gateway, each with the index open."""

    alice: Awaitable
    mallory: Awaitable
    namespace: str
    servers: Servers


@pytest.fixture
async def two(servers: Servers, namespace: str) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        opened = []
        for key in (KEY, OTHER_KEY):
            sdk = await stack.enter_async_context(open_sdk("async", key, servers.gateway_url))
            index = await sdk.index(INDEX)
            stack.push_async_callback(index.close)
            opened.append(index)
        yield Two(opened[0], opened[1], namespace, servers)


@pytest.fixture
async def alice(servers: Servers, flavour: Flavour, namespace: str) -> AsyncIterator[Place]:
    """The SDK at the gateway, for what a node does not do: records."""
    async with open_sdk(flavour, KEY, servers.gateway_url) as sdk:
        index = await sdk.index(INDEX)
        yield Place(sdk, index, namespace, "gateway")
        await index.close()
