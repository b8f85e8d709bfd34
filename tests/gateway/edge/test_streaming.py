"""A stream as its caller sees it: silence is filled, failures are told where they can be, leaving ends it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestServer

from tests.fakes.provider import DONE, ROLE, ScriptedProvider, Step, answer, chunk, usage_chunk
from tests.gateway.running import Running, running_gateway, tenants_file

KEEPALIVE_S = 0.1
COMMENT = b": keep-alive\n\n"
BODY: dict[str, Any] = {"model": "big", "messages": [{"role": "user", "content": "Who won?"}], "stream": True}
WHOLE = {"x-meridian-stream": "whole"}


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
            "server": {"deadline_s": 5, "keepalive_s": KEEPALIVE_S},
        }
        async with running_gateway(tmp_path, config) as running:
            yield running


async def post(gateway: Running, **headers: str) -> aiohttp.ClientResponse:
    return await gateway.session.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers=headers)


def events(body: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in body.split(b"\n\n") if event and event + b"\n\n" != COMMENT]


def decoded(event: bytes) -> dict[str, Any]:
    return msgspec.json.decode(event.removeprefix(b"data: "), type=dict[str, Any])


async def metric(gateway: Running, name: str) -> float:
    async with gateway.session.get(f"{gateway.operators_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


async def until_metric(gateway: Running, name: str, value: float) -> None:
    async with asyncio.timeout(3):
        while await metric(gateway, name) != value:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("headers", [{}, WHOLE], ids=["live", "whole"])
async def test_a_silent_wait_is_filled_with_comments_and_the_answer_is_whole(
    gateway: Running, provider: ScriptedProvider, headers: dict[str, str]
) -> None:
    provider.steps = [Step(answer("Slow", " but sure."), first_s=4.5 * KEEPALIVE_S)]
    response = await post(gateway, **headers)
    assert response.headers["x-request-id"]
    assert "x-meridian-model" not in response.headers  # it was not known when the headers went out
    body = await response.read()
    assert 1 <= body.count(COMMENT) <= 4
    assert body.startswith(COMMENT)
    assert events(body)[-1] == DONE
    assert b"sure." in body


async def test_an_answer_in_time_has_no_comments_and_its_facts_in_the_headers(gateway: Running) -> None:
    response = await post(gateway)
    assert response.headers["x-meridian-model"] == "gpt-4o"
    assert COMMENT not in await response.read()


async def test_a_gap_between_events_is_filled_between_them(
    gateway: Running, provider: ScriptedProvider
) -> None:
    sent = [ROLE, chunk({"content": "One"}), chunk({"content": "two"}), chunk({}, "stop")]
    provider.steps = [Step([*sent, usage_chunk(), DONE], gap_s=2.5 * KEEPALIVE_S)]
    body = await (await post(gateway)).read()
    assert events(body) == [*sent, DONE]
    between = body[body.index(b"One") : body.index(b"two")]
    assert 1 <= between.count(COMMENT) <= 2


@pytest.mark.parametrize("headers", [{}, WHOLE], ids=["live", "whole"])
async def test_a_failure_after_the_first_comment_is_an_event_and_no_second_response(
    gateway: Running, provider: ScriptedProvider, headers: dict[str, str]
) -> None:
    provider.steps = [Step(status=500, first_s=2.5 * KEEPALIVE_S)] * 20
    response = await post(gateway, **headers)
    assert response.status == 200
    [told] = events(await response.read())
    assert decoded(told)["error"]["type"] == "server_error"
    facts = decoded(told)["meridian"]
    assert facts["request_id"] == response.headers["x-request-id"]
    assert facts["region"] == "us-east"
    assert facts["should_retry"] is True
    assert facts["attempts"] == len(provider.seen) >= 1


async def test_a_failure_before_the_first_comment_is_a_response_of_its_own(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step([b'{"error": {"message": "bad seed"}}'], status=400)]
    response = await post(gateway)
    assert response.status == 400
    assert response.content_type == "application/json"


async def test_a_callers_mistake_found_late_is_told_in_the_upstreams_words(
    gateway: Running, provider: ScriptedProvider
) -> None:
    refusal = b'{"error": {"message": "bad seed", "type": "invalid_request_error"}}'
    provider.steps = [Step([refusal], status=400, first_s=2.5 * KEEPALIVE_S)]
    response = await post(gateway)
    [told] = events(await response.read())
    assert response.status == 200
    assert decoded(told)["error"] == {"message": "bad seed", "type": "invalid_request_error"}
    assert decoded(told)["meridian"]["should_retry"] is False


async def test_a_stream_that_breaks_says_which_request_it_was(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step([ROLE, chunk({"content": "Half"})], cut=True)]
    response = await post(gateway, **{"x-request-id": "mine-7"})
    *_, told = events(await response.read())
    assert decoded(told)["error"]["code"] == "upstream_unavailable"
    assert decoded(told)["meridian"] == {
        "request_id": "mine-7",
        "region": "us-east",
        "attempts": 1,
        "should_retry": True,
    }


async def test_no_upstream_is_named_in_an_error(gateway: Running, provider: ScriptedProvider) -> None:
    provider.steps = [Step([ROLE, chunk({"content": "Half"})], cut=True), Step(status=500)]
    body = await (await post(gateway)).read()
    assert b"127.0.0.1" not in body


STREAMS = {
    "silent": Step(first_s=60),
    "silent after its headers": Step(hold=True),
    "silent after its role": Step([ROLE], hold=True),
    "silent after content": Step([ROLE, chunk({"content": "Begun"})], hold=True),
}


@pytest.mark.parametrize("headers", [{}, WHOLE], ids=["live", "whole"])
@pytest.mark.parametrize("step", STREAMS.values(), ids=STREAMS)
async def test_a_caller_that_leaves_takes_the_upstream_call_with_it_within_a_second(
    gateway: Running, provider: ScriptedProvider, step: Step, headers: dict[str, str]
) -> None:
    provider.steps = [step]
    response = await post(gateway, **headers)  # returns with the first comment or the first content
    await response.content.readany()
    response.close()
    async with asyncio.timeout(1):
        await provider.left.wait()
    await until_metric(gateway, "meridian_in_flight", 0)
    assert len(provider.seen) == 1


async def test_a_caller_that_leaves_before_the_first_comment_does_so_too(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step(first_s=60)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(KEEPALIVE_S / 2):
            await post(gateway)
    async with asyncio.timeout(1):
        await provider.left.wait()


@pytest.mark.parametrize("headers", [{}, WHOLE], ids=["live", "whole"])
async def test_what_was_used_before_the_caller_left_is_billed(
    gateway: Running, provider: ScriptedProvider, headers: dict[str, str]
) -> None:
    provider.steps = [Step([ROLE, chunk({"content": "Four words of answer"})], hold=True)]
    response = await post(gateway, **headers)
    await response.content.readany()
    response.close()
    async with asyncio.timeout(1):
        await provider.left.wait()
    await until_metric(gateway, 'meridian_tokens_total{direction="output",model="big"}', 4)
    assert await metric(gateway, 'meridian_cost_usd_total{model="big"}') > 0
