"""`rag.mode: off`: a plain proxy that adds nothing to the answer and loses nothing of the request."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestServer

from tests.fakes.provider import DONE, ROLE, ScriptedProvider, Step, answer, chunk, usage_chunk
from tests.gateway.running import Running, running_gateway, tenants_file

TIMERS = {"first_content_s": 0.5, "gap_s": 0.5}
MESSAGES = [{"role": "user", "content": "Who won?"}]


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture
async def upstream(provider: ScriptedProvider) -> AsyncIterator[str]:
    async with TestServer(provider.application(), handler_cancellation=True) as server:
        yield str(server.make_url("/v1"))


@pytest.fixture
async def gateway(tmp_path: Path, upstream: str) -> AsyncIterator[Running]:
    tenants_file(tmp_path)
    section = {"kind": "openai", "base_url": upstream, "model": "gpt-4o"}
    dead = {**section, "base_url": "http://127.0.0.1:1/v1"}
    config = {
        "models": {
            "big": {"upstreams": [section], "timers": TIMERS, "max_attempts": 1},
            "dead": {"upstreams": [dead]},
        },
        "server": {"body_limit_bytes": 100_000, "deadline_s": 5},
    }
    async with running_gateway(tmp_path, config) as running:
        yield running


async def post(gateway: Running, body: dict[str, Any], **headers: str) -> aiohttp.ClientResponse:
    body = {"model": "big", "messages": MESSAGES, **body}
    return await gateway.session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)


async def until_counted(gateway: Running, outcome: str) -> None:
    """Return once a request has ended so. Raises: TimeoutError: none does."""
    line = f'meridian_requests_total{{call="/v1/chat/completions",dialect="openai",outcome="{outcome}"}} 1.0'
    async with asyncio.timeout(2):
        while True:
            async with gateway.session.get(f"{gateway.operators_url}/metrics") as response:
                if line in await response.text():
                    return
            await asyncio.sleep(0.02)


async def events(response: aiohttp.ClientResponse) -> list[bytes]:
    return [event + b"\n\n" for event in (await response.read()).split(b"\n\n") if event]


async def test_a_stream_is_relayed_in_the_bytes_it_came_in(
    gateway: Running, provider: ScriptedProvider
) -> None:
    sent = [ROLE, chunk({"content": "Odd  spacing"}, x_own={"a": 1.50}), chunk({}, "stop")]
    provider.steps = [Step([*sent, usage_chunk(), DONE])]
    response = await post(gateway, {"stream": True, "seed": 7})
    assert response.headers["Content-Type"] == "text/event-stream"
    assert await events(response) == [*sent, DONE]
    assert provider.seen[0].body["seed"] == 7
    assert provider.seen[0].body["model"] == "gpt-4o"
    assert provider.seen[0].body["stream_options"] == {"include_usage": True}


async def test_usage_is_sent_on_to_those_who_asked(gateway: Running) -> None:
    response = await post(gateway, {"stream": True, "stream_options": {"include_usage": True}})
    last = (await events(response))[-2]
    assert msgspec.json.decode(last[6:])["usage"]["total_tokens"] == 110


async def test_a_whole_answer_keeps_fields_we_do_not_know_and_is_priced(gateway: Running) -> None:
    response = await post(gateway, {})
    body = await response.json()
    assert body["choices"][0]["message"]["content"] == "Answered well."
    assert body["x_unknown_field"] == {"kept": True}
    assert "meridian" not in body
    assert float(response.headers["x-meridian-cost-usd"]) == pytest.approx((100 * 2.5 + 10 * 10) / 1e6)


@pytest.mark.parametrize(
    ("steps", "status", "code"),
    [
        ([Step(status=500)], 503, "upstream_unavailable"),
        ([Step(status=429, headers={"Retry-After": "7"})], 503, "upstream_throttled"),
        ([Step([b'{"error":{"message":"bad seed"}}'], status=400)], 400, None),
        ([Step(status=401)], 502, "upstream_rejected"),
        ([Step([b"<html>oops"], headers={"Content-Type": "text/html"})], 502, "upstream_protocol_error"),
        ([Step([b'data: {"error":{"message":"busy"}}\n\n'])], 502, "upstream_protocol_error"),
        ([Step([ROLE, DONE])], 502, "upstream_protocol_error"),
        ([Step([b"data: {\n\n"])], 502, "upstream_protocol_error"),
        ([Step([ROLE], hold=True)], 504, "upstream_timeout"),
        ([Step([ROLE], cut=True)], 503, "upstream_unavailable"),
    ],
)
async def test_what_fails_before_content_is_a_clean_error(
    gateway: Running, provider: ScriptedProvider, steps: Sequence[Step], status: int, code: str | None
) -> None:
    provider.steps = list(steps)
    response = await post(gateway, {"stream": True})
    body = await response.json(content_type=None)
    assert response.status == status
    assert code is None or body["error"]["code"] == code
    if steps[0].headers.get("Retry-After"):
        assert response.headers["Retry-After"] == "7"


async def test_the_providers_own_words_reach_the_caller_of_a_bad_request(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step([b'{"error":{"message":"bad seed"}}'], status=400)]
    response = await post(gateway, {"stream": True})
    assert await response.json() == {"error": {"message": "bad seed"}}


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (Step([ROLE, chunk({"content": "Half"})], cut=True), "upstream_unavailable"),
        (Step([ROLE, chunk({"content": "Half"}), DONE]), "upstream_protocol_error"),
        (Step([ROLE, chunk({"content": "Half"})], hold=True), "upstream_timeout"),
    ],
)
async def test_a_stream_that_breaks_after_content_ends_with_an_error_and_no_done(
    gateway: Running, provider: ScriptedProvider, step: Step, code: str
) -> None:
    provider.steps = [step]
    received = await events(await post(gateway, {"stream": True}))
    assert DONE not in received
    assert msgspec.json.decode(received[-1][6:])["error"]["code"] == code


async def test_a_missing_done_after_the_finish_is_no_loss(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step(answer("All of it.")[:-2], cut=True)]
    received = await events(await post(gateway, {"stream": True}))
    assert received[-1] == DONE


async def test_the_deadline_of_a_stream_under_way_is_said_inside_it(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step([ROLE, *[chunk({"content": "."})] * 100], gap_s=0.05)]
    received = await events(await post(gateway, {"stream": True}, **{"x-meridian-deadline-ms": "400"}))
    assert msgspec.json.decode(received[-1][6:])["error"]["code"] == "deadline_exceeded"


async def test_a_caller_that_leaves_takes_the_upstream_call_with_it(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step([ROLE, chunk({"content": "Begun"})], hold=True)]
    response = await post(gateway, {"stream": True})
    await response.content.readuntil(b"Begun")
    response.close()
    # Less than the timers, which would end the call too.
    assert await asyncio.wait_for(provider.left.wait(), 0.4)
    await until_counted(gateway, "client_gone")


async def test_a_caller_that_leaves_before_content_does_so_too(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step([ROLE], hold=True)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await post(gateway, {"stream": True})
    async with asyncio.timeout(0.25):  # less than what is left of the timers, which would end it too
        await provider.left.wait()
    await until_counted(gateway, "client_gone")
    assert len(provider.seen) == 1


async def test_a_dead_upstream_is_said_at_once(gateway: Running) -> None:
    response = await post(gateway, {"model": "dead"})
    assert response.status == 503
    assert response.headers["x-should-retry"] == "true"
