"""The tenants' port and the operators': what holds for every route."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from tests.fakes.provider import ROLE, ScriptedProvider, Step, answer, chunk
from tests.gateway.running import Running, running_gateway, tenants_file

CHAT = {"model": "big", "messages": [{"role": "user", "content": "Who won?"}]}


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture
async def gateway(tmp_path: Path, provider: ScriptedProvider) -> AsyncIterator[Running]:
    tenants_file(tmp_path)
    async with TestServer(provider.application(), handler_cancellation=True) as server:
        section = {"kind": "openai", "base_url": str(server.make_url("/v1")), "model": "gpt-4o"}
        config = {
            "models": {"big": {"upstreams": [section]}},
            "server": {
                "body_limit_bytes": 10_000,
                "max_in_flight": 2,
                "queue": {"max_waiting": 2, "max_waiting_per_tenant": 1},
                "deadline_s": 5,
                "drain_s": 5,
            },
        }
        async with running_gateway(tmp_path, config) as running:
            yield running


async def error_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    body = await response.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    "authorization", ["", "Bearer wrong", "Bearer ", "Basic abc", "Bearer " + "x" * 5000]
)
async def test_no_key_or_a_wrong_one_is_401_in_the_callers_dialect(
    gateway: Running, authorization: str
) -> None:
    headers = {"Authorization": authorization}
    async with gateway.session.post(
        f"{gateway.url}/v1/chat/completions", json=CHAT, headers=headers
    ) as response:
        assert response.status == 401
        assert (await error_of(response))["code"] == "invalid_api_key"
    async with gateway.session.post(f"{gateway.url}/query", json={}, headers=headers) as response:
        assert response.status == 401
        assert "API key" in await response.text()


async def test_a_body_over_the_limit_is_413_however_it_is_sent(gateway: Running) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    bomb = gzip.compress(b"x" * 1_000_000)
    for body, headers in ((b"x" * 20_000, {}), (chunks(), {}), (bomb, {"Content-Encoding": "gzip"})):
        async with gateway.session.post(
            f"{gateway.url}/v1/chat/completions", data=body, headers=headers
        ) as response:
            assert response.status == 413
            assert (await error_of(response))["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b'{"model": "nope", "messages": [{"role": "user", "content": "x"}]}', "model_not_found", "model"),
        (b'{"model": 7, "messages": []}', "invalid_type", "model"),
        (b'{"model": "big"}', "missing_required_parameter", "messages"),
    ],
)
async def test_a_body_that_cannot_be_served_names_what_is_wrong(
    gateway: Running, body: bytes, code: str, param: str | None
) -> None:
    async with gateway.session.post(f"{gateway.url}/v1/chat/completions", data=body) as response:
        error = await error_of(response)
        assert (error["code"], error["param"]) == (code, param)
        assert response.status == (404 if code == "model_not_found" else 400)


async def test_paths_and_methods_that_do_not_exist_say_so_in_the_dialect(gateway: Running) -> None:
    async with gateway.session.get(f"{gateway.url}/v1/nothing") as response:
        assert response.status == 404
        assert (await error_of(response))["code"] == "unknown_url"
    async with gateway.session.get(f"{gateway.url}/v1/chat/completions") as response:
        assert response.status == 405
        assert (await error_of(response))["code"] == "method_not_allowed"
    async with gateway.session.get(f"{gateway.url}/nothing") as response:
        assert response.status == 404
        assert (await response.json())["code"] == 5


async def test_every_answer_carries_a_request_id_and_the_callers_own_if_it_is_plain(gateway: Running) -> None:
    url = f"{gateway.url}/v1/models"
    async with gateway.session.get(url, headers={"x-request-id": "mine-42"}) as response:
        assert response.headers["x-request-id"] == "mine-42"
        assert response.headers["x-meridian-region"] == "us-east"
    async with gateway.session.get(url, headers={"x-request-id": "a b\tc"}) as response:
        assert len(response.headers["x-request-id"]) == 32


async def test_models_are_listed_and_found_one_by_one(gateway: Running) -> None:
    async with gateway.session.get(f"{gateway.url}/v1/models") as response:
        assert [m["id"] for m in (await response.json())["data"]] == ["big", "snippets"]
    async with gateway.session.get(f"{gateway.url}/v1/models/big") as response:
        assert (await response.json())["object"] == "model"
    async with gateway.session.get(f"{gateway.url}/v1/models/huge") as response:
        assert response.status == 404


@pytest.mark.parametrize("deadline", ["0", "-5", "soon", "1e3", "99999999"])
async def test_a_deadline_that_is_no_deadline_is_refused(gateway: Running, deadline: str) -> None:
    async with gateway.session.post(
        f"{gateway.url}/v1/chat/completions", json=CHAT, headers={"x-meridian-deadline-ms": deadline}
    ) as response:
        assert response.status == 400


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-meridian-stream", "later"), ("x-meridian-complexity", "simple"), ("x-meridian-stream", "Whole")],
)
async def test_a_wish_that_we_do_not_know_is_refused_in_the_callers_dialect(
    gateway: Running, name: str, value: str
) -> None:
    async with gateway.session.post(
        f"{gateway.url}/v1/chat/completions", json=CHAT, headers={name: value}
    ) as response:
        assert response.status == 400
        assert name in (await error_of(response))["message"]
    async with gateway.session.post(f"{gateway.url}/query", json={}, headers={name: value}) as response:
        assert response.status == 400
        assert (await response.json())["code"] == 3


@pytest.mark.parametrize("value", ["economy", "standard", "long_context", "auto"])
async def test_a_complexity_is_taken_from_the_header_and_from_the_body(gateway: Running, value: str) -> None:
    url = f"{gateway.url}/v1/chat/completions"
    async with gateway.session.post(url, json=CHAT, headers={"x-meridian-complexity": value}) as response:
        assert response.status == 200
    async with gateway.session.post(url, json={**CHAT, "rag": {"complexity": value}}) as response:
        assert response.status == 200
    async with gateway.session.post(url, json={**CHAT, "rag": {"complexity": "simple"}}) as response:
        assert response.status == 400
        assert "complexity" in (await error_of(response))["message"]


async def test_a_tenants_own_deadline_bounds_its_calls_and_a_call_may_ask_for_more(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    tenants_file(tmp_path, deadline_s=0.3)
    async with TestServer(provider.application(), handler_cancellation=True) as server:
        section = {"kind": "openai", "base_url": str(server.make_url("/v1")), "model": "gpt-4o"}
        config = {"models": {"big": {"upstreams": [section]}}, "server": {"deadline_s": 5}}
        async with running_gateway(tmp_path, config) as running:
            url = f"{running.url}/v1/chat/completions"
            provider.steps = [Step([*answer("Late.")], first_s=1.0) for _ in range(2)]
            async with running.session.post(url, json=CHAT) as response:
                assert response.status == 504
            longer = {"x-meridian-deadline-ms": "4000"}
            async with running.session.post(url, json=CHAT, headers=longer) as response:
                assert response.status == 200


async def metric(gateway: Running, name: str) -> float:
    async with gateway.session.get(f"{gateway.operators_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def until_metric(gateway: Running, name: str, value: float) -> None:
    async with asyncio.timeout(5):
        while await metric(gateway, name) != value:  # noqa: ASYNC110 - it tells nobody when it changes
            await asyncio.sleep(0.005)


async def test_requests_beyond_the_slots_wait_and_beyond_the_queue_are_shed_at_once(
    gateway: Running, provider: ScriptedProvider
) -> None:
    """A slot is held by a stream until its last byte; the body of who is shed is never read."""
    provider.steps = [Step([ROLE, chunk({"content": "x"})], hold=True)] * 2
    body = {**CHAT, "stream": True}
    url = f"{gateway.url}/v1/chat/completions"
    async with asyncio.TaskGroup() as tasks:
        async with gateway.session.post(url, json=body), gateway.session.post(url, json=body):
            waiting = tasks.create_task(gateway.session.post(url, json=CHAT))
            await until_metric(gateway, 'meridian_queue_waiting{class="interactive"}', 1)
            async with gateway.session.post(url, data=b"{" * 9_000) as response:
                assert response.status == 503
                assert response.headers["Retry-After"] == "1"
                assert (await error_of(response))["code"] == "overloaded"
            async with gateway.session.post(f"{gateway.url}/query", json={}) as response:
                assert response.status == 503
                assert (await response.json())["code"] == 14
            assert await metric(gateway, "meridian_in_flight ") == 2
            assert not waiting.done()
        # The streams' callers are gone: their slots are free within a moment, and the next has begun.
        async with await waiting as response:
            assert response.status == 200
    await until_metric(gateway, "meridian_in_flight ", 0)
    assert await metric(gateway, 'meridian_shed_total{class="interactive",why="queue_full"}') == 2
    assert await metric(gateway, 'meridian_stage_seconds_count{stage="queue"}') == 1


async def test_a_caller_that_leaves_the_queue_leaves_its_place_too(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step([ROLE, chunk({"content": "x"})], hold=True)] * 2
    body = {**CHAT, "stream": True}
    url, waits = f"{gateway.url}/v1/chat/completions", 'meridian_queue_waiting{class="interactive"}'
    async with gateway.session.post(url, json=body), gateway.session.post(url, json=body):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await gateway.session.post(url, json=CHAT)
            await until_metric(gateway, waits, 0)
    assert len(provider.seen) == 2


async def test_a_drain_finishes_what_is_under_way_and_takes_nothing_new(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step([ROLE, *[chunk({"content": "."})] * 20, chunk({}, "stop")], gap_s=0.03)]
    url = f"{gateway.url}/v1/chat/completions"
    async with gateway.session.post(url, json={**CHAT, "stream": True}) as response:
        await response.content.readuntil(b"content")
        gateway.stop.set()
        await asyncio.sleep(0)
        async with gateway.session.post(url, json=CHAT) as refused:
            assert (await error_of(refused))["code"] == "draining"
        async with gateway.session.get(f"{gateway.operators_url}/readyz") as ready:
            assert ready.status == 503
        assert (await response.read()).endswith(b"data: [DONE]\n\n")


async def test_operators_see_health_and_metrics_on_their_own_port_only(gateway: Running) -> None:
    async with gateway.session.post(f"{gateway.url}/v1/chat/completions", json=CHAT) as response:
        assert response.status == 200
    async with gateway.session.get(f"{gateway.operators_url}/livez") as response:
        assert response.status == 200
    async with gateway.session.get(f"{gateway.operators_url}/metrics") as response:
        text = await response.text()
    assert 'meridian_requests_total{call="/v1/chat/completions",dialect="openai",outcome="ok"} 1.0' in text
    assert 'meridian_tokens_total{direction="output",model="big"} 10.0' in text
    assert 'meridian_ttft_seconds_count{model="big"} 1.0' in text
    for path in ("/metrics", "/readyz", "/livez"):
        async with gateway.session.get(f"{gateway.url}{path}") as response:
            assert response.status == 404
