"""The prompt cache on a real node and a scripted model: what costs no call, and what must."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from aiohttp.test_utils import TestServer

from tests.contracts.valkey_process import ValkeyProcess
from tests.fakes.provider import DONE, ScriptedProvider, Step, answer
from tests.gateway.running import KEY, OTHER_KEY, Running, running_gateway, tenants_file
from tests.regions.node.running import make_index, running_node

QUESTION = "Who won the Nobel Prize in Physics in 1903?"


@dataclass(frozen=True)
class Answer:
    """One that came whole."""

    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found


class Cached:
    """A gateway in front of a node with one record, and its model."""

    def __init__(self, gateway: Running, provider: ScriptedProvider, config: dict[str, Any]) -> None:
        self.gateway, self.provider, self.config = gateway, provider, config

    async def ask(
        self, text: str = QUESTION, key: str = KEY, headers: dict[str, str] | None = None, **fields: Any
    ) -> Answer:
        body = {"model": "big", "messages": [{"role": "user", "content": text}], **fields}
        url = f"{self.gateway.url}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {key}", **(headers or {})}
        async with self.gateway.session.post(url, json=body, headers=headers) as response:
            content = await response.read()
            assert response.status == 200, content
            return Answer(response.headers, content)

    async def did(self, *arguments: Any, **options: Any) -> str:
        """What the cache did with a question."""
        return (await self.ask(*arguments, **options)).headers["x-meridian-cache"]

    @property
    def calls(self) -> int:
        return len(self.provider.seen)


@asynccontextmanager
async def caching(
    directory: Path,
    provider: ScriptedProvider,
    config: dict[str, Any] | None = None,
    **rules: Any,
) -> AsyncIterator[Cached]:
    """`rules`: of both tenants' caches."""
    tenants_file(directory, index="docs")
    file = yaml.safe_load((directory / "tenants.yaml").read_text())
    for tenant in file["tenants"]:
        tenant |= {"cache": rules, "defaults": {"index": "docs"}}
    (directory / "tenants.yaml").write_text(yaml.safe_dump(file))
    (directory / "node").mkdir(exist_ok=True)
    async with (
        running_node(directory / "node") as node,
        TestServer(provider.application(), handler_cancellation=True) as server,
    ):
        await make_index(node, "docs", 384)
        upstream = {"kind": "openai", "base_url": str(server.make_url("/v1")), "model": "gpt-4o"}
        whole: dict[str, Any] = {
            "indexes": {
                "docs": {
                    "dimension": 384,
                    "embedder": "minilm",
                    "replicas": [{"region": "us-east", "kind": "pinecone", "url": f"{node.url}/i/docs"}],
                }
            },
            "embedders": {"minilm": {"kind": "local"}},
            "models": {"big": {"upstreams": [upstream]}, "small": {"upstreams": [upstream]}},
            **(config or {}),
        }
        async with running_gateway(directory, whole) as gateway:
            made = Cached(gateway, provider, whole)
            for key in (KEY, OTHER_KEY):
                await ingest(gateway, key, "curie", "Marie Curie won the Nobel Prize in Physics in 1903.")
            yield made


async def ingest(gateway: Running, key: str, id_: str, text: str) -> None:
    line = msgspec.json.encode({"_id": id_, "text": text})
    shown = {"Authorization": f"Bearer {key}"}
    async with gateway.session.post(
        f"{gateway.url}/records/namespaces/__default__/upsert", data=line, headers=shown
    ) as response:
        assert response.status == 201, await response.text()


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider(good=lambda: Step(answer("Curie", " [1].")))


@pytest.fixture
async def cached(tmp_path: Path, provider: ScriptedProvider) -> AsyncIterator[Cached]:
    async with caching(tmp_path, provider) as made:
        yield made


def told(body: bytes) -> str:
    chunks = [msgspec.json.decode(e[6:]) for e in body.split(b"\n\n") if e and e + b"\n\n" != DONE]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def test_a_repeated_question_costs_nothing_and_says_so(cached: Cached) -> None:
    first = (await cached.ask()).json()
    response = await cached.ask(f"{QUESTION}  ")
    again = response.json()
    assert cached.calls == 1
    assert response.headers["x-meridian-cache"] == "hit"
    assert int(response.headers["age"]) < 5
    assert response.headers["x-meridian-cost-usd"] == "0.00000000"
    assert again["choices"] == first["choices"]
    assert again["choices"][0]["message"]["annotations"]
    assert again["usage"] == first["usage"]
    assert again["meridian"]["cost_usd"] == 0
    assert again["meridian"]["saved_usd"] == pytest.approx(first["meridian"]["cost_usd"])
    assert again["id"] != first["id"]
    async with cached.gateway.session.get(f"{cached.gateway.operators_url}/metrics") as metrics:
        text = await metrics.text()
    assert 'meridian_cache_answers_total{model="big",result="hit"} 1.0' in text
    assert 'meridian_cache_answers_total{model="big",result="miss"} 1.0' in text
    assert "meridian_cache_entries 1.0" in text


@pytest.mark.parametrize("first_streams", [True, False])
async def test_an_answer_is_given_again_as_a_stream_or_in_one_piece(
    cached: Cached, first_streams: bool
) -> None:
    await cached.ask(stream=first_streams)
    streamed = await cached.ask(stream=True, stream_options={"include_usage": True})
    whole = await cached.ask()
    assert cached.calls == 1
    assert [r.headers["x-meridian-cache"] for r in (streamed, whole)] == ["hit", "hit"]
    body = streamed.body
    assert body.endswith(DONE)
    assert told(body) == whole.json()["choices"][0]["message"]["content"] == "Curie [1]."
    assert b'"usage":{' in body


@pytest.mark.parametrize("streams", [True, False])
async def test_a_stampede_costs_one_call_and_all_get_all_of_it(cached: Cached, streams: bool) -> None:
    cached.provider.steps = [Step(answer("Curie", " [1]."), first_s=0.3, gap_s=0.02)]
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(cached.ask(stream=streams)) for _ in range(500)]
    assert cached.calls == 1
    answers = [task.result().body for task in asked]
    did = [task.result().headers["x-meridian-cache"] for task in asked]
    assert did.count("miss") == 1
    assert set(did) <= {"miss", "coalesced", "hit"}
    if streams:
        assert {told(body) for body in answers} == {"Curie [1]."}
    else:
        costs = [msgspec.json.decode(body)["meridian"]["cost_usd"] for body in answers]
        assert sum(cost > 0 for cost in costs) == 1


async def test_who_began_may_leave_and_the_others_get_the_answer(cached: Cached) -> None:
    cached.provider.steps = [Step(answer("Curie", " [1]."), first_s=0.5)]
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(cached.ask(stream=True))
        await until(lambda: cached.calls == 1)
        other = tasks.create_task(cached.ask(stream=True))
        await asyncio.sleep(0.1)
        first.cancel()
    assert told(other.result().body) == "Curie [1]."
    assert cached.calls == 1


async def test_the_last_one_to_leave_ends_the_call(cached: Cached) -> None:
    cached.provider.steps = [Step(answer("Curie"), first_s=30)]
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(cached.ask(stream=True)) for _ in range(3)]
        await until(lambda: cached.calls == 1)
        for task in asked:
            task.cancel()
    assert await asyncio.wait_for(cached.provider.left.wait(), 2)
    assert cached.calls == 1


async def test_the_others_do_not_fail_by_the_firsts_deadline(cached: Cached) -> None:
    cached.provider.steps = [Step(answer("too late"), first_s=30)]
    hasty = {"x-meridian-deadline-ms": "1200"}
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(cached.ask(stream=True, headers=hasty, rag={"degrade": "allow"}))
        await until(lambda: cached.calls == 1)
        other = tasks.create_task(cached.ask(stream=True, rag={"degrade": "allow"}))
    assert "reason=deadline" in first.result().headers["x-meridian-degraded"]
    assert "Curie" in told(other.result().body)


async def test_a_write_to_the_namespace_ends_an_answer_and_a_write_elsewhere_does_not(cached: Cached) -> None:
    assert [await cached.did(), await cached.did()] == ["miss", "hit"]
    await ingest(cached.gateway, OTHER_KEY, "other", "Somebody else's.")
    assert await cached.did() == "hit"
    await ingest(cached.gateway, KEY, "news", "The prize of 1903 was shared with Becquerel.")
    assert [await cached.did(), await cached.did()] == ["miss", "hit"]
    assert "Becquerel" in cached.provider.seen[-1].body["messages"][0]["content"]


async def test_no_tenant_gets_anothers_answer(cached: Cached) -> None:
    assert await cached.did() == "miss"
    assert await cached.did(key=OTHER_KEY) == "miss"
    cached.provider.steps = [Step(answer("Curie"), first_s=0.3) for _ in range(2)]
    async with asyncio.TaskGroup() as tasks:
        both = [tasks.create_task(cached.did("And now?", key=key)) for key in (KEY, OTHER_KEY)]
    assert [task.result() for task in both] == ["miss", "miss"]


@pytest.mark.parametrize(
    "other",
    [
        {"model": "small"},
        {"temperature": 0.5},
        {"rag": {"top_k": 3}},
        {"rag": {"filter": {"a": 1}}},
        {"rag": {"include_context": True}},
        {"rag": {"namespace": "elsewhere"}},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]},
        {"headers": {"x-meridian-complexity": "economy"}},
    ],
    ids=str,
)
async def test_what_changes_the_answer_is_another_question(cached: Cached, other: dict[str, Any]) -> None:
    await cached.ask()
    assert await cached.did(**other) != "hit"
    assert cached.calls == 2


@pytest.mark.parametrize(
    "other",
    [{"user": "somebody"}, {"stream": True}, {"metadata": {"a": "b"}}, {"temperature": None}],
    ids=str,
)
async def test_what_does_not_is_the_same(cached: Cached, other: dict[str, Any]) -> None:
    await cached.ask()
    assert await cached.did(**other) == "hit"


async def test_cache_control_is_obeyed(cached: Cached) -> None:
    await cached.ask()
    no_store = {"cache-control": "no-store"}
    assert await cached.did(headers=no_store) == "off"
    assert await cached.did("Another?", headers=no_store) == "off"
    assert await cached.did("Another?") == "miss"
    cached.provider.steps = [Step(answer("Anew."))]
    assert await cached.did(headers={"cache-control": "no-cache"}) == "miss"
    assert told((await cached.ask(stream=True)).body) == "Anew."
    assert await cached.did(headers={"cache-control": "max-age=0"}) == "miss"
    assert await cached.did(headers={"cache-control": "max-age=60"}) == "hit"


@pytest.mark.parametrize(
    "step",
    [Step(status=500), Step([b'data: {"error":{}}\n\n']), Step(answer("half")[:2], cut=True)],
    ids=["failed", "broken", "cut"],
)
async def test_an_answer_that_fell_short_is_not_kept(cached: Cached, step: Step) -> None:
    cached.provider.steps = [step] * 6
    url = f"{cached.gateway.url}/v1/chat/completions"
    body = {"model": "big", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    async with cached.gateway.session.post(url, json=body) as response:
        await response.read()
    cached.provider.steps.clear()
    again = await cached.ask()
    assert again.headers["x-meridian-cache"] == "miss"
    assert again.json()["choices"][0]["message"]["content"] == "Curie [1]."


async def test_a_hit_asks_no_model_and_says_so_in_its_receipt(cached: Cached) -> None:
    await cached.ask()
    told_ = [((await cached.ask()).json())["meridian"] for _ in range(3)]
    assert [(each["attempts"], each["cost_usd"]) for each in told_] == [(0, 0)] * 3


async def test_a_changed_namespace_is_answered_stale_at_once_and_anew_behind_it(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    async with caching(tmp_path, provider, max_staleness_s=60) as cached:
        await cached.ask()
        await ingest(cached.gateway, KEY, "news", "News of 1903.")
        assert await cached.did() == "stale"
        await until(lambda: cached.calls == 2)
        async with asyncio.timeout(5):
            while await cached.did() != "hit":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert cached.calls == 2


async def test_gateways_of_a_region_share_answers_and_go_on_without_the_store(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    valkey = ValkeyProcess(tmp_path)
    valkey.start()
    config = {"redis": {"url": valkey.url}}
    try:
        async with caching(tmp_path, provider, config) as one:
            assert await one.did() == "miss"
            async with running_gateway(tmp_path, one.config) as gateway:
                other = Cached(gateway, provider, one.config)
                assert await other.did() == "hit"
                valkey.kill()
                assert [await one.did(), await other.did()] == ["hit", "hit"]
                began_s = asyncio.get_running_loop().time()
                assert await other.did("Another?") == "miss"
                assert asyncio.get_running_loop().time() - began_s < 2
    finally:
        valkey.kill()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
