"""Callers and upstreams that mean harm or are broken: each gets a clean answer, and nobody else waits."""

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from gateway.logs import quiet_libraries
from tests.fakes.provider import DONE, ROLE, ScriptedProvider, Step, answer, chunk, usage_chunk
from tests.gateway.running import KEY, Running, running_gateway, tenants_file

TIMERS = {"first_content_s": 4, "gap_s": 0.5}
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "big", "messages": [{"role": "user", "content": "Who won?"}]}
GOOD = msgspec.json.encode(BODY)
AUTH = f"Authorization: Bearer {KEY}".encode()


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


@asynccontextmanager
async def gateway_before(url: str, directory: Path) -> AsyncIterator[Running]:
    tenants_file(directory)
    section = {"kind": "openai", "base_url": url, "model": "gpt-4o"}
    big = {"upstreams": [section], "timers": TIMERS, "max_attempts": 1}
    config = {"models": {"big": big}, "server": {"deadline_s": 5}}
    async with running_gateway(directory, config) as running:
        yield running


@pytest.fixture
async def gateway(tmp_path: Path, provider: ScriptedProvider) -> AsyncIterator[Running]:
    async with (
        TestServer(provider.application(), handler_cancellation=True) as server,
        gateway_before(str(server.make_url("/v1")), tmp_path) as running,
    ):
        yield running


async def exchange(gateway: Running, line: bytes, headers: Sequence[bytes], body: bytes) -> tuple[int, bytes]:
    """Status and body of a request in exactly these bytes."""
    parts = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        length = b"Content-Length: %d" % len(body)
        head = [line, b"Host: x", b"Connection: close", *headers, length]
        writer.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
        async with asyncio.timeout(10):
            answer_head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
        return int(answer_head.split()[1]), rest
    finally:
        writer.close()


BODIES = {
    "empty": b"",
    "null": b"null",
    "NUL": b"\0",
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "lone surrogate": b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
    "raw surrogate": b'{"model": "\xed\xa0\x80", "messages": [{"role": "user", "content": "x"}]}',
    "repeated key": b'{"model": "big", "mod\\u0065l": "x", "messages": [{"role": "user", "content": "x"}]}',
    "deep": b'{"model": "big", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "huge integer": GOOD[:-1] + b', "n": ' + b"9" * 5000 + b"}",
    "n that is a float": GOOD[:-1] + b', "n": 1.0}',
    "n that is true": GOOD[:-1] + b', "n": true}',
    "top_k that is true": GOOD[:-1] + b', "rag": {"top_k": true}}',
    "content that is a number": b'{"model": "big", "messages": [{"role": "user", "content": 7}]}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_body_that_is_no_request_is_a_400(gateway: Running, body: bytes) -> None:
    status, told = await exchange(gateway, f"POST {CHAT} HTTP/1.1".encode(), [AUTH], body)
    assert status == 400
    assert set(msgspec.json.decode(told)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Authorization: Bearer \xff\xfe", 401),
        (b"Api-Key: \xe9", 401),
        (b"Api-Key: " + b"k" * 8000, 401),
        (b"Authorization: Bearer a\0b", 400),
    ],
)
async def test_a_key_of_odd_bytes_is_no_key(gateway: Running, header: bytes, status: int) -> None:
    assert (await exchange(gateway, f"POST {CHAT} HTTP/1.1".encode(), [header], GOOD))[0] == status


@pytest.mark.parametrize(
    "path", ["/i/..%2f", "/i/../indexes", "/%ED%A0%80", "/v1/%ff", "/v1/models/..%2f..", "/indexes/docs%2f"]
)
async def test_odd_paths_lead_nowhere(gateway: Running, path: str) -> None:
    assert (await exchange(gateway, f"GET {path} HTTP/1.1".encode(), [AUTH], b""))[0] == 404


async def test_fields_that_are_null_mean_what_they_mean_when_left_out(gateway: Running) -> None:
    names = ("n", "max_tokens", "tools", "tool_choice", "response_format", "stop", "rag", "stream_options")
    body = {**BODY, **dict.fromkeys(names), "stream": True}
    async with gateway.session.post(gateway.url + CHAT, json=body) as response:
        assert (await response.read()).endswith(DONE)
    body["stream_options"] = {"include_usage": None}
    async with gateway.session.post(gateway.url + CHAT, json=body) as response:
        assert response.status == 200


async def test_a_body_that_takes_long_to_check_holds_nobody_up(gateway: Running) -> None:
    body = GOOD[:-1] + b', "x": [' + b"[]," * 200_000 + b"1]}"
    loop = asyncio.get_running_loop()
    slow = loop.create_task(exchange(gateway, f"POST {CHAT} HTTP/1.1".encode(), [AUTH], body))
    others = 0
    while not slow.done():
        async with gateway.session.get(f"{gateway.url}/v1/models") as response:
            others += response.status == 200
    assert (await slow)[0] == 200
    assert others > 10


def test_what_a_stranger_sends_is_not_logged_by_the_server() -> None:
    quiet_libraries()
    assert not logging.getLogger("aiohttp.server").isEnabledFor(logging.CRITICAL)


# ---- upstreams


def whole(**more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Four words of answer"}}
    return msgspec.json.encode({"choices": [{**choice, "finish_reason": "stop"}], **more})


async def ask(gateway: Running, **more: Any) -> tuple[int, bytes, dict[str, str]]:
    async with gateway.session.post(gateway.url + CHAT, json={**BODY, **more}) as response:
        return response.status, await response.read(), dict(response.headers)


@pytest.mark.parametrize("wait", ["nan", "inf", "-inf", "1e300", "-5", "soon", "9" * 400])
async def test_a_retry_after_that_is_no_wait_is_not_passed_on(
    gateway: Running, provider: ScriptedProvider, wait: str
) -> None:
    provider.steps = [Step(status=429, headers={"Retry-After": wait})]
    status, _, headers = await ask(gateway)
    assert status == 503
    assert 1 <= int(headers.get("Retry-After", "1")) <= 3600


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": -7},
        {"prompt_tokens": 10**30, "completion_tokens": 1},
        {"prompt_tokens": 1e300, "completion_tokens": 1},
        {"prompt_tokens": "many", "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": None, "completion_tokens": None},
        [],
        7,
    ],
)
async def test_a_usage_that_is_none_is_counted_by_ourselves(
    gateway: Running, provider: ScriptedProvider, usage: Any
) -> None:
    last = chunk({}, "stop", usage=usage)
    provider.steps = [Step([ROLE, chunk({"content": "Four words of answer"}), last, DONE])]
    status, told, _ = await ask(gateway, stream=True)
    assert (status, told[-len(DONE) :]) == (200, DONE)
    async with gateway.session.get(f"{gateway.operators_url}/metrics") as response:
        assert 'meridian_tokens_total{direction="output",model="big"} 4.0' in await response.text()


@pytest.mark.parametrize("body", [b"<html>No", b"[1]", b'{"error": "cut', b'{"detail": "fields"}', b""])
async def test_a_refusal_outside_the_dialect_is_told_in_it(
    gateway: Running, provider: ScriptedProvider, body: bytes
) -> None:
    provider.steps = [Step([body], status=400)]
    status, told, _ = await ask(gateway, stream=True)
    assert status == 400
    assert set(msgspec.json.decode(told)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_what_an_upstream_says_of_our_account_stays_with_us(
    gateway: Running, provider: ScriptedProvider, status: int
) -> None:
    provider.steps = [Step([b'{"error": {"message": "bad key sk-123 of org-9"}}'], status=status)]
    _, told, _ = await ask(gateway, stream=True)
    assert b"sk-123" not in told


async def test_a_model_that_thinks_long_before_it_answers_is_heard(
    gateway: Running, provider: ScriptedProvider
) -> None:
    thoughts = [chunk({"reasoning_content": "hm"})] * 200
    provider.steps = [Step([ROLE, *thoughts, *answer("So.")[1:]])]
    status, told, _ = await ask(gateway, stream=True)
    assert status == 200
    assert told.count(b"reasoning_content") == 200


BROKEN = {
    "an index of another kind": chunk({}, choices=[{"index": "a", "delta": {"content": "x"}}]),
    "an index that is a list": chunk({}, choices=[{"index": [1], "delta": {"content": "x"}}]),
    "a finish of another kind": chunk({}, choices=[{"index": 0, "delta": {}, "finish_reason": {"a": 1}}]),
    "logprobs that are text": chunk({}, choices=[{"index": 0, "delta": {}, "logprobs": "x"}]),
    "tool calls that are numbers": chunk({"tool_calls": [5]}),
    "content that is a list": chunk({"content": [1]}),
    "bytes that are no UTF-8": b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n',
    "an error": b'data: {"error": {"message": "busy"}}\n\n',
}


@pytest.mark.parametrize("event", BROKEN.values(), ids=BROKEN)
async def test_an_event_outside_the_dialect_ends_the_answer_with_an_error(
    gateway: Running, provider: ScriptedProvider, event: bytes
) -> None:
    provider.steps = [Step([ROLE, chunk({"content": "Begun"}), event, *answer("x")[1:]])]
    status, told, _ = await ask(gateway, stream=True)
    assert status == 200
    assert b'"code":"upstream_protocol_error"' in told
    assert DONE not in told


async def test_one_choice_finished_and_the_other_cut_is_no_whole_answer(
    gateway: Running, provider: ScriptedProvider
) -> None:
    second = chunk({}, choices=[{"index": 1, "delta": {"content": "Half"}, "finish_reason": None}])
    provider.steps = [Step([ROLE, chunk({"content": "Whole"}), second, chunk({}, "stop")], cut=True)]
    _, told, _ = await ask(gateway, stream=True, n=2)
    assert DONE not in told
    assert b'"code":"upstream_unavailable"' in told


async def test_an_upstream_that_hangs_after_the_finish_has_answered(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step([ROLE, chunk({"content": "All"}), chunk({}, "stop"), usage_chunk()], hold=True)]
    _, told, _ = await ask(gateway, stream=True)
    assert told.endswith(DONE)


async def test_a_burst_of_tiny_events_lets_others_in(gateway: Running, provider: ScriptedProvider) -> None:
    burst = b"".join([chunk({"content": "x"})] * 4_000)
    provider.steps = [Step([ROLE, burst, *answer("")[1:]])]
    loop = asyncio.get_running_loop()
    slow = loop.create_task(ask(gateway, stream=True))
    others = 0
    while not slow.done():
        async with gateway.session.get(f"{gateway.url}/v1/models") as response:
            others += response.status == 200
    assert (await slow)[1].count(b'"x"') == 4_000
    assert others > 5


async def test_a_body_of_megabytes_reaches_the_upstream_whole(
    gateway: Running, provider: ScriptedProvider
) -> None:
    image = "A" * 2_000_000
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "What is it?"}]
    body = msgspec.json.encode({**BODY, "messages": [{"role": "user", "content": parts}]})
    async with gateway.session.post(gateway.url + CHAT, data=io.BytesIO(body)) as response:
        assert response.status == 200
    assert provider.seen[0].body["messages"][0]["content"] == parts


async def test_an_answer_of_megabytes_without_usage_is_counted(
    gateway: Running, provider: ScriptedProvider
) -> None:
    parts = [chunk({"content": "y" * 500_000})] * 3
    provider.steps = [Step([ROLE, *parts, chunk({}, "stop"), DONE])]
    status, told, _ = await ask(gateway, stream=True)
    assert (status, told[-len(DONE) :]) == (200, DONE)
    async with gateway.session.get(f"{gateway.operators_url}/metrics") as response:
        counted = (await response.text()).partition('{direction="output",model="big"} ')[2]
    assert float(counted.split()[0]) > 100_000


async def test_a_choice_that_the_upstream_did_not_give_leaves_the_answer_whole(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step(answer("Only one."))]
    _, told, _ = await ask(gateway, stream=True, n=2, stream_options={"include_usage": True})
    *_, finish, usage, done = told.split(b"\n\n")[:-1]
    assert b'"finish_reason":"stop"' in finish
    assert b'"usage"' in usage
    assert done == b"data: [DONE]"


class Fickle:
    """An endpoint that drops a connection, unanswered, at the second request that comes over it."""

    def __init__(self) -> None:
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
            await self._read(reader)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._read(reader)
        body = whole(usage={"prompt_tokens": 1, "completion_tokens": 1})
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        await writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = io.BytesIO(await reader.readuntil(b"\r\n\r\n"))
        length = next(int(line[15:]) for line in head if line.lower().startswith(b"content-length:"))
        await reader.readexactly(length)
        self.requests += 1


async def test_a_pooled_connection_that_was_closed_meanwhile_costs_one_silent_repetition(
    tmp_path: Path,
) -> None:
    fickle = Fickle()
    server = await asyncio.start_server(fickle.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server, gateway_before(url, tmp_path) as gateway:
        assert [(await ask(gateway))[0] for _ in range(3)] == [200, 200, 200]
        assert fickle.requests == 5  # the second and the third were sent twice
