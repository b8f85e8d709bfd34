"""One tenant against another, through all that a caller can say: nothing of the other's is seen or changed.

The first tenant has records, answers and pages whose every part holds the word SECRET. The second tries to
get at them, with its own key; no byte of what it gets, headers included, may hold that word, and afterwards
the first finds all of its own as it was.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
import pytest
import pytest_asyncio
import yaml
from aiohttp.test_utils import TestServer
from yarl import URL

from gateway.tenants import digest_key
from tests.fakes.provider import ScriptedProvider, Step, answer
from tests.gateway.edge.test_grants import every_route
from tests.gateway.running import (
    KEY,
    OTHER_KEY,
    OTHER_TENANT,
    PEPPER,
    TENANT,
    Running,
    running_gateway,
    tenants_file,
)
from tests.regions.node.running import make_index, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET: Final = "xyzzy"
OWN_NAME: Final = f"{SECRET}-space"
QUESTION: Final = "What is the word of the day?"
ADMIN: Final = {"Authorization": "Bearer key-of-the-operators"}

VECTOR: Final = {"vector": [0.1] * 384, "topK": 100, "includeMetadata": True}

SPELLINGS: Final = [
    OWN_NAME,
    f"{TENANT}.{OWN_NAME}",
    f"../{TENANT}.{OWN_NAME}",
    f"..%2F{TENANT}.{OWN_NAME}",
    f"{OTHER_TENANT}/../{TENANT}.{OWN_NAME}",
    f"{OTHER_TENANT}.{TENANT}.{OWN_NAME}",
    f".{TENANT}.{OWN_NAME}",
    f" {TENANT}.{OWN_NAME}",
    f"{TENANT}.{OWN_NAME} ",
    f"{TENANT}.{OWN_NAME}".upper(),
    f"{TENANT}\u3002{OWN_NAME}",
    f"\uff54enant0000000001.{OWN_NAME}",
    f"x\0{TENANT}.{OWN_NAME}",
    f"\b{TENANT}.{OWN_NAME}",
    "",
    "*",
    "__default__",
    ".",
    "..",
    TENANT,
    f"{TENANT}.",
    f"{TENANT}.*",
]
"""Of the first tenant's namespace, by one who knows all there is to know of how it is stored."""


@dataclass(frozen=True)
class Answer:
    """Whatever came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found

    def tells_nothing(self, *but: str) -> None:
        """No word of the first tenant's; what the caller said itself may be repeated to it."""
        seen = self.body.decode(errors="replace") + repr(dict(self.headers))
        for own in sorted(but, key=len, reverse=True):
            seen = seen.replace(own, "")
        assert SECRET not in seen, seen
        assert self.status < 500 or self.status in (501, 503), seen


class Two:
    """Both tenants at one gateway."""

    def __init__(self, gateway: Running, provider: ScriptedProvider) -> None:
        self.gateway, self.provider = gateway, provider

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str = OTHER_KEY,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        shown = {"Authorization": f"Bearer {key}", **(headers or {})}
        url = URL(f"{self.gateway.url}{path}", encoded=True)
        async with self.gateway.session.request(method, url, data=data, headers=shown) as response:
            return Answer(response.status, response.headers.copy(), await response.read())

    async def ask(self, key: str, **fields: Any) -> Answer:
        body = {"model": "big", "messages": [{"role": "user", "content": QUESTION}], **fields}
        return await self.call("POST", "/v1/chat/completions", body, key=key)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Two]:
    directory: Path = tmp_path_factory.mktemp("isolation")
    tenants_file(directory)
    file = yaml.safe_load((directory / "tenants.yaml").read_text())
    for tenant in file["tenants"]:
        tenant |= {"cache": {"max_staleness_s": 60}, "defaults": {"index": "docs"}}
    narrow = {"digest": digest_key("key-of-less", PEPPER.encode()), "grants": {"namespaces": ["public"]}}
    file["tenants"][0]["keys"].append(narrow)
    (directory / "tenants.yaml").write_text(yaml.safe_dump(file))
    (directory / "admin.key").write_text("key-of-the-operators")
    (directory / "node").mkdir()
    provider = ScriptedProvider()
    async with (
        running_node(directory / "node") as node,
        TestServer(provider.application(), handler_cancellation=True) as server,
    ):
        await make_index(node, "docs", 384)
        upstream = {"kind": "openai", "base_url": str(server.make_url("/v1")), "model": "gpt-4o"}
        replica = {"region": "us-east", "kind": "pinecone", "url": f"{node.url}/i/docs"}
        config = {
            "server": {"admin_key": "file:admin.key"},
            "indexes": {"docs": {"dimension": 384, "embedder": "minilm", "replicas": [replica]}},
            "embedders": {"minilm": {"kind": "local"}},
            "models": {"big": {"upstreams": [upstream]}},
        }
        async with running_gateway(directory, config) as gateway:
            made = Two(gateway, provider)
            await _ingest(made)
            yield made


async def _ingest(two: Two) -> None:
    lines = [
        {"_id": f"{SECRET}-{n}", "text": f"The word of the day is {SECRET} {n}.", "kind": SECRET, "n": n}
        for n in range(5)
    ]
    body = b"\n".join(msgspec.json.encode(line) for line in lines)
    for namespace in (OWN_NAME, "__default__"):
        path = f"/records/namespaces/{namespace}/upsert"
        assert (await two.call("POST", path, body, key=KEY)).status == 201
    mine = msgspec.json.encode({"_id": "mine", "text": "The word of the day is hello."})
    assert (await two.call("POST", "/records/namespaces/__default__/upsert", mine)).status == 201


async def _owned(two: Two) -> list[Any]:
    """Everything the first tenant has, as it sees it."""
    found = []
    for namespace in (OWN_NAME, "__default__"):
        body = {"namespace": namespace, "filter": {"kind": SECRET}, "limit": 100}
        told = await two.call("POST", "/vectors/fetch_by_metadata", body, key=KEY)
        found.append(told.json()["vectors"])
    return found


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def unchanged(two: Two) -> AsyncIterator[None]:
    before = await _owned(two)
    assert [len(each) for each in before] == [5, 5]
    yield
    assert await _owned(two) == before


async def test_lists_and_totals_hold_only_ones_own(two: Two) -> None:
    """Before the others, which make namespaces of the second tenant's own."""
    stats = (await two.call("POST", "/describe_index_stats", {})).json()
    assert stats["totalVectorCount"] == 1
    listed = await two.call("GET", "/namespaces")
    listed.tells_nothing()
    assert [each["name"] for each in listed.json()["namespaces"]] == ["__default__"]


@pytest.mark.parametrize("name", SPELLINGS, ids=[f"spelling-{n}" for n in range(len(SPELLINGS))])
async def test_no_spelling_of_a_namespace_leads_to_anothers(two: Two, name: str) -> None:
    named, safe = {"namespace": name}, quote(name, safe="")
    search = {"query": {"inputs": {"text": QUESTION}, "top_k": 10}}
    told = [
        await two.call("POST", "/query", {**VECTOR, **named}),
        await two.call("GET", f"/vectors/list?namespace={safe}"),
        await two.call("GET", f"/vectors/fetch?ids={SECRET}-0&namespace={safe}"),
        await two.call("POST", "/vectors/fetch_by_metadata", {**named, "filter": {"n": {"$gte": 0}}}),
        await two.call("GET", f"/namespaces/{safe}"),
        await two.call("GET", f"/namespaces/{quote(name, safe='/%.*')}"),
        await two.call("GET", f"/namespaces?prefix={safe}"),
        await two.call("POST", f"/records/namespaces/{safe}/search", search),
        await two.ask(OTHER_KEY, rag={**named, "include_context": True, "include_receipt": True}),
        await two.ask(OTHER_KEY, model="snippets", rag=named),
        await two.call("POST", "/vectors/delete", {"deleteAll": True, **named}),
        await two.call("POST", "/vectors/delete", {"ids": [f"{SECRET}-0"], **named}),
        await two.call("POST", "/vectors/delete", {"filter": {"kind": SECRET}, **named}),
        await two.call("POST", "/vectors/update", {"id": f"{SECRET}-0", "setMetadata": {"n": 9}, **named}),
        await two.call("DELETE", f"/namespaces/{safe}"),
    ]
    for each in told:
        each.tells_nothing(name, f"{SECRET}-0", OWN_NAME)
    # What the second tenant had in its own default namespace may be gone: that was its own to delete.
    mine = msgspec.json.encode({"_id": "mine", "text": "The word of the day is hello."})
    assert (await two.call("POST", "/records/namespaces/__default__/upsert", mine)).status == 201


@pytest.mark.parametrize(("method", "path"), every_route(), ids=str)
async def test_no_route_tells_of_another(two: Two, method: str, path: str) -> None:
    for name in (OWN_NAME, f"{TENANT}.{OWN_NAME}", "__default__"):
        filled = path
        for part, value in {
            "{index}": "docs",
            "{name}": "docs",
            "{id}": f"{SECRET}-0",
            "{namespace}": quote(name),
            "{call}": "search",
            "{model}": "big",
        }.items():
            filled = filled.replace(part, value)
        body = {**VECTOR, "namespace": name, "id": f"{SECRET}-0", "ids": [f"{SECRET}-0"]}
        (await two.call(method, filled, body)).tells_nothing(name, f"{SECRET}-0", OWN_NAME)


async def test_anothers_page_token_opens_nothing(two: Two) -> None:
    pages = {
        "/vectors/list": f"/vectors/list?limit=2&namespace={OWN_NAME}",
        "/namespaces": "/namespaces?limit=1",
    }
    for path, first in pages.items():
        token = (await two.call("GET", first, key=KEY)).json()["pagination"]["next"]
        for stolen in (token, token[:-2] + "AA", token.swapcase()):
            for namespace in (OWN_NAME, "__default__", f"{TENANT}.{OWN_NAME}"):
                query = f"?paginationToken={quote(stolen)}&namespace={quote(namespace)}"
                told = await two.call("GET", path + query)
                assert told.status == 400
                told.tells_nothing(namespace)
    body = {"namespace": OWN_NAME, "filter": {"n": {"$gte": 0}}, "limit": 2}
    told = await two.call("POST", "/vectors/fetch_by_metadata", body, key=KEY)
    stolen = {**body, "paginationToken": told.json()["pagination"]["next"]}
    assert (await two.call("POST", "/vectors/fetch_by_metadata", stolen)).status == 400


async def test_no_header_makes_one_tenant_another(two: Two) -> None:
    tries: list[dict[str, str]] = [
        {"Host": f"{TENANT}.example"},
        {"X-Forwarded-Host": "docs", "X-Forwarded-For": "127.0.0.1"},
        {"X-Tenant": TENANT, "x-meridian-tenant": TENANT, "x-meridian-namespace": OWN_NAME},
        {"x-request-id": TENANT, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
        {"x-meridian-min-lsn": "1", "x-meridian-max-staleness-s": "1"},
        {"x-project-id": TENANT, "OpenAI-Organization": TENANT},
    ]
    query = {**VECTOR, "namespace": OWN_NAME}
    for headers in tries:
        (await two.call("POST", "/query", query, headers=headers)).tells_nothing(OWN_NAME)
    both = await two.call("POST", "/query", query, headers={"Api-Key": KEY})
    assert both.status == 401
    both.tells_nothing()


async def test_a_filter_finds_nothing_of_anothers(two: Two) -> None:
    filters: list[dict[str, Any]] = [
        {"kind": SECRET},
        {"n": {"$gte": 0}},
        {"$or": [{"kind": {"$exists": True}}, {"_id": f"{SECRET}-0"}]},
        {"_m.text": {"$exists": True}},
        {"namespace": OWN_NAME},
    ]
    for filter_ in filters:
        found = await two.call("POST", "/query", {**VECTOR, "filter": filter_})
        assert found.status in (200, 400)
        cited = await two.ask(OTHER_KEY, rag={"filter": filter_, "include_context": True})
        for told in (found, cited):
            assert f"{SECRET}-" not in told.body.decode().replace(OWN_NAME, "").replace(f"{SECRET}-0", "")
            assert f"is {SECRET}" not in told.body.decode()


@pytest.mark.parametrize("streams", [True, False])
async def test_an_answer_that_is_kept_or_under_way_is_its_tenants_alone(two: Two, streams: bool) -> None:
    question = f"{QUESTION} ({streams})"
    messages = [{"role": "user", "content": question}]
    two.provider.words[question] = Step(answer(f"It is {SECRET} [1]."), first_s=0.2)
    kept = await two.ask(KEY, messages=messages, stream=streams, rag={"namespace": OWN_NAME})
    assert SECRET in kept.body.decode()
    again = await two.ask(KEY, messages=messages, stream=streams, rag={"namespace": OWN_NAME})
    assert again.headers["x-meridian-cache"] == "hit"
    two.provider.words[question] = Step(answer("It is hello [1]."), first_s=0.2)
    async with asyncio.TaskGroup() as tasks:
        theirs = tasks.create_task(
            two.ask(OTHER_KEY, messages=messages, stream=streams, rag={"namespace": OWN_NAME})
        )
        less = tasks.create_task(
            two.ask("key-of-less", messages=messages, stream=streams, rag={"namespace": OWN_NAME})
        )
    theirs.result().tells_nothing(OWN_NAME)
    assert theirs.result().headers["x-meridian-cache"] != "hit"
    assert less.result().status == 403
    less.result().tells_nothing(OWN_NAME)


async def test_nobody_pays_for_another(two: Two) -> None:
    two.provider.words.clear()
    asked = await two.ask(OTHER_KEY, messages=[{"role": "user", "content": "Mine to pay."}])
    request_id = asked.headers["x-request-id"]
    async with two.gateway.session.get(
        f"{two.gateway.operators_url}/admin/receipts?limit=500", headers=ADMIN
    ) as response:
        receipts = (await response.json())["receipts"]
    (mine,) = [each for each in receipts if each["request_id"] == request_id]
    assert (mine["tenant"], mine["answer"]["cost_usd"] > 0) == (OTHER_TENANT, True)
    for path in ("/admin/receipts", f"/admin/receipts/{request_id}", "/metrics", "/readyz"):
        (await two.call("GET", path)).tells_nothing()
        assert (await two.call("GET", path)).status == 404
