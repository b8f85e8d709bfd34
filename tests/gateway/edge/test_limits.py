"""Tenants' limits at the edge: refusals in both dialects, headers on every answer, charges for use alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp.test_utils import TestServer

from tests.contracts.valkey_process import ValkeyProcess
from tests.fakes.provider import ROLE, ScriptedProvider, Step, answer
from tests.gateway.running import KEY, OTHER_KEY, Running, running_gateway, tenants_file

CHAT: dict[str, Any] = {
    "model": "big",
    "messages": [{"role": "user", "content": "Who won?"}],
    "max_tokens": 100,
}
USED = 110
"""Tokens of the scripted provider's answers."""


@asynccontextmanager
async def limited(
    directory: Path, provider: ScriptedProvider, config: dict[str, Any] | None = None, **own: Any
) -> AsyncIterator[Running]:
    """A gateway whose first tenant has these fields too; under `key`: the fields of its key."""
    tenants_file(directory)
    path = directory / "tenants.yaml"
    file = yaml.safe_load(path.read_text())
    file["tenants"][0]["keys"][0] |= own.pop("key", {})
    file["tenants"][0] |= own
    path.write_text(yaml.safe_dump(file))
    async with TestServer(provider.application(), handler_cancellation=True) as server:
        upstream = {"kind": "openai", "base_url": str(server.make_url("/v1")), "model": "gpt-4o"}
        models = {"big": {"upstreams": [upstream]}, "small": {"upstreams": [{**upstream, "account": "s"}]}}
        async with running_gateway(directory, {"models": models, **(config or {})}) as running:
            yield running


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


async def ask(gateway: Running, key: str = KEY, **fields: Any) -> aiohttp.ClientResponse:
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{gateway.url}/v1/chat/completions"
    async with gateway.session.post(url, json={**CHAT, **fields}, headers=headers) as response:
        await response.read()
        return response


async def seen(provider: ScriptedProvider, count: int) -> None:
    """Return once so many requests have come to it."""
    async with asyncio.timeout(5):
        while len(provider.seen) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_refusal_names_the_limit_and_when_to_come_again(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    async with limited(tmp_path, provider, limits={"requests_per_min": 2}) as gateway:
        first, second, third = [await ask(gateway) for _ in range(3)]
        assert (first.status, second.status, third.status) == (200, 200, 429)
        error = (await third.json())["error"]
        assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
        assert "requests per minute of the tenant" in error["message"]
        assert 1 <= int(third.headers["Retry-After"]) <= 30
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert [r.headers["x-ratelimit-remaining-requests"] for r in (first, second, third)] == [
            "1",
            "0",
            "0",
        ]
        assert third.headers["x-ratelimit-reset-requests"].endswith("s")
        assert len(provider.seen) == 2
        async with gateway.session.post(f"{gateway.url}/query", json={"topK": 1}) as response:
            assert response.status == 429
            body = await response.json()
            assert (body["code"], body["details"]) == (8, [])
            assert "x-ratelimit-remaining-requests" in response.headers
        async with gateway.session.get(f"{gateway.operators_url}/metrics") as response:
            text = await response.text()
        assert 'meridian_limited_total{limit="requests",tenant="tenant0000000001"} 2.0' in text
        assert (await ask(gateway, OTHER_KEY)).status == 200
        assert "x-ratelimit-limit-requests" not in (await ask(gateway, OTHER_KEY)).headers


async def test_a_refused_body_is_not_read(tmp_path: Path, provider: ScriptedProvider) -> None:
    async with limited(tmp_path, provider, limits={"requests_per_min": 1}) as gateway:
        await ask(gateway)

        async def endless() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

        async with (
            asyncio.timeout(5),
            gateway.session.post(f"{gateway.url}/v1/chat/completions", data=endless()) as response,
        ):
            assert response.status == 429


async def test_a_keys_own_limit_and_a_models_hold_beside_the_tenants(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    own: dict[str, Any] = {
        "limits": {"requests_per_min": 100},
        "key": {"limits": {"requests_per_min": 5}},
        "model_limits": {"small": {"requests_per_min": 1}},
    }
    async with limited(tmp_path, provider, **own) as gateway:
        assert [(await ask(gateway, model="small")).status for _ in range(2)] == [200, 429]
        refused = await ask(gateway, model="small")
        assert "requests per minute of the model small" in (await refused.json())["error"]["message"]
        assert [(await ask(gateway)).status for _ in range(3)] == [200, 200, 429]
        message = (await (await ask(gateway)).json())["error"]["message"]
        assert "requests per minute of this key" in message


async def test_tokens_are_settled_by_what_was_used(tmp_path: Path, provider: ScriptedProvider) -> None:
    limits = {"tokens_per_min": 60_000, "requests_per_min": 1000}
    async with limited(tmp_path, provider, limits=limits) as gateway:
        told = await ask(gateway, max_tokens=10_000)
        assert int(told.headers["x-ratelimit-remaining-tokens"]) < 50_001  # reserved while it ran
        again = await ask(gateway, max_tokens=10_000)
        # A thousand tokens a second come back; what was reserved and not used came back at once.
        assert int(again.headers["x-ratelimit-remaining-tokens"]) >= 60_000 - USED - 10_100


async def test_a_failure_and_a_caller_that_left_cost_no_tokens(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    limits = {"tokens_per_min": 600}
    async with limited(tmp_path, provider, limits=limits) as gateway:
        provider.steps = [Step(status=400)]
        assert (await ask(gateway, max_tokens=590)).status == 400
        provider.steps = [Step([ROLE], hold=True)]
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(ask(gateway, max_tokens=580, stream=True))
            await seen(provider, 2)
            leaving.cancel()
        async with asyncio.timeout(5):
            await provider.left.wait()
        assert (await ask(gateway, max_tokens=400)).status == 200


async def test_a_stream_carries_the_headers_and_settles_at_its_end(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    async with limited(tmp_path, provider, limits={"tokens_per_min": 500}) as gateway:
        provider.steps = [Step(answer("Answered"))]
        told = await ask(gateway, stream=True, max_tokens=300)
        assert told.headers["x-ratelimit-limit-tokens"] == "500"
        assert int(told.headers["x-ratelimit-remaining-tokens"]) < 200
        assert (await ask(gateway, max_tokens=300)).status == 200
        assert (await ask(gateway, max_tokens=300)).status == 429


async def test_no_more_requests_are_under_way_than_allowed(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    async with limited(tmp_path, provider, limits={"concurrent": 2}) as gateway:
        provider.steps = [Step(answer("slow"), first_s=0.5) for _ in range(2)]
        async with asyncio.TaskGroup() as tasks:
            slow = [tasks.create_task(ask(gateway, stream=True)) for _ in range(2)]
            await seen(provider, 2)
            refused = await ask(gateway)
            other = await ask(gateway, OTHER_KEY)
        assert (refused.status, other.status) == (429, 200)
        assert "concurrent requests of the tenant" in (await refused.json())["error"]["message"]
        assert [task.result().status for task in slow] == [200, 200]
        assert (await ask(gateway)).status == 200


async def test_two_gateways_count_together_and_go_on_without_the_store(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    valkey = ValkeyProcess(tmp_path)
    valkey.start()
    config = {"redis": {"url": valkey.url}}
    own: dict[str, Any] = {"limits": {"requests_per_min": 4}}
    try:
        async with (
            limited(tmp_path, provider, config, **own) as one,
            limited(tmp_path, provider, config, **own) as other,
        ):
            told = [(await ask(gateway)).status for gateway in (one, other, one, other, one, other)]
            assert told == [200] * 4 + [429] * 2
            valkey.kill()
            assert (await ask(one)).status == 429
            for _ in range(4):
                await ask(one)
            async with one.session.get(f"{one.operators_url}/metrics") as response:
                assert "meridian_limits_shared 0.0" in await response.text()
    finally:
        valkey.kill()


@pytest.mark.parametrize("value", ["now", "", "INTERACTIVE", "batch, ingestion"])
async def test_a_priority_that_is_none_is_refused(
    tmp_path: Path, provider: ScriptedProvider, value: str
) -> None:
    async with (
        limited(tmp_path, provider) as gateway,
        gateway.session.get(f"{gateway.url}/v1/models", headers={"x-meridian-priority": value}) as response,
    ):
        assert response.status == 400
        assert "interactive, batch, ingestion" in (await response.json())["error"]["message"]
