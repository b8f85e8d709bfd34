"""How long a connection may take over its request and over its answer, and bytes that are no request."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from regions.runtime import lifecycle
from regions.runtime.strict_yaml import to_yaml
from tests.fakes.provider import DONE, ROLE, chunk
from tests.gateway.running import KEY, Running, running_gateway, tenants_file, until_ready

HEAD_TIMEOUT_S = 0.4
WRITE_TIMEOUT_S = 0.6
AUTH = f"Authorization: Bearer {KEY}".encode()
LIST = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + AUTH + b"\r\n\r\n"


class Firehose:
    """An endpoint that answers with `total` bytes of content as fast as they are taken; counts what was."""

    def __init__(self, total: int = 20_000_000, piece: int = 20_000) -> None:
        self.total, self.piece = total, piece
        self.taken = 0
        self.left = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._on_chat)
        return app

    async def _on_chat(self, request: web.Request) -> web.StreamResponse:
        event = chunk({"content": "y " * (self.piece // 2)})
        if not (await request.json()).get("stream"):
            return web.json_response(self._whole())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await response.write(ROLE)
            while self.taken < self.total:
                await response.write(event)
                self.taken += len(event)
            await response.write(chunk({}, "stop") + DONE)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return response

    def _whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "y" * self.total}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


@pytest.fixture
def firehose() -> Firehose:
    return Firehose()


@pytest.fixture
async def gateway(tmp_path: Path, firehose: Firehose) -> AsyncIterator[Running]:
    tenants_file(tmp_path)
    async with TestServer(firehose.application(), handler_cancellation=True) as server:
        section = {"kind": "openai", "base_url": str(server.make_url("/v1")), "model": "gpt-4o"}
        config = {
            "models": {"big": {"upstreams": [section]}},
            "server": {
                "deadline_s": 20,
                "head_timeout_s": HEAD_TIMEOUT_S,
                "write_timeout_s": WRITE_TIMEOUT_S,
            },
        }
        async with running_gateway(tmp_path, config) as running:
            yield running


Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def wire(gateway: Running, receive_bytes: int | None = None) -> AsyncIterator[Wire]:
    """A connection of bare bytes; `receive_bytes` is what its end may hold unread."""
    parts = urlsplit(gateway.url)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=receive_bytes or 65_536)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def chat_request(**more: Any) -> bytes:
    body = msgspec.json.encode(
        {"model": "big", "messages": [{"role": "user", "content": "Tell all."}], **more}
    )
    head = [b"POST /v1/chat/completions HTTP/1.1", b"Host: x", AUTH, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


async def end_of(reader: asyncio.StreamReader, within_s: float) -> bytes:
    """What still comes until the other side closes. Raises: TimeoutError: it does not."""
    async with asyncio.timeout(within_s):
        return await reader.read()


async def until(gateway: Running, line: str) -> None:
    """Return once the operators' metrics hold a line that begins so."""
    async with asyncio.timeout(5):
        while True:
            async with gateway.session.get(f"{gateway.operators_url}/metrics") as response:
                if any(told.startswith(line) for told in (await response.text()).splitlines()):
                    return
            await asyncio.sleep(0.02)


# ---- heads


@pytest.mark.parametrize(
    "sent", [b"", b"GET", b"GET /v1/models HTTP/1.1\r\n", LIST[:-2]], ids=["nothing", "word", "line", "head"]
)
async def test_a_request_that_never_comes_is_not_waited_for(gateway: Running, sent: bytes) -> None:
    async with wire(gateway) as (reader, writer):
        writer.write(sent)
        assert await end_of(reader, 4 * HEAD_TIMEOUT_S) == b""


async def test_a_head_that_drips_in_gets_no_more_time_for_each_drop(gateway: Running) -> None:
    async with wire(gateway) as (reader, writer):
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        with contextlib.suppress(ConnectionError):
            for byte in LIST[:-2]:
                writer.write(bytes([byte]))
                await writer.drain()
                if reader.at_eof():
                    break
                with contextlib.suppress(TimeoutError):
                    await end_of(reader, HEAD_TIMEOUT_S / 10)
        assert loop.time() - begun_s < 4 * HEAD_TIMEOUT_S


async def test_an_idle_connection_is_kept_and_its_next_head_is_bounded_again(gateway: Running) -> None:
    async with wire(gateway) as (reader, writer):
        writer.write(LIST)
        assert (await reader.readuntil(b"}]}")).startswith(b"HTTP/1.1 200")
        with pytest.raises(TimeoutError):
            await end_of(reader, 2 * HEAD_TIMEOUT_S)
        writer.write(LIST)
        assert (await reader.readuntil(b"}]}")).startswith(b"HTTP/1.1 200")
        writer.write(LIST[:20])
        assert await end_of(reader, 4 * HEAD_TIMEOUT_S) == b""


async def test_a_body_may_take_longer_than_a_head(gateway: Running, firehose: Firehose) -> None:
    firehose.total = 100
    async with wire(gateway) as (reader, writer):
        request = chat_request()
        writer.write(request[:-5])
        with pytest.raises(TimeoutError):
            await end_of(reader, 2 * HEAD_TIMEOUT_S)
        writer.write(request[-5:])
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


# ---- bytes that are no request


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"NOT A REQUEST\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_request_are_told_so_in_both_dialects(gateway: Running, sent: bytes) -> None:
    async with wire(gateway) as (reader, writer):
        writer.write(sent)
        head, _, body = (await end_of(reader, 2)).partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    assert b"x-request-id: " in head.lower()
    told = msgspec.json.decode(body)
    assert set(told) == {"error", "code", "message", "details"}
    assert told["error"]["code"] == "malformed_request"
    assert (told["code"], told["details"]) == (3, [])
    assert "\n" not in told["message"]
    await until(
        gateway, 'meridian_requests_total{call="unknown",dialect="unknown",outcome="malformed_request"}'
    )


# ---- answers that nobody takes


async def test_a_reader_that_stops_is_cut_off_its_upstream_cancelled_and_billed(
    gateway: Running, firehose: Firehose
) -> None:
    async with wire(gateway, 4096) as (reader, writer):
        writer.write(chat_request(stream=True))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(4 * WRITE_TIMEOUT_S):
            await firehose.left.wait()
    assert firehose.taken < firehose.total
    await until(gateway, 'meridian_tokens_total{direction="output",model="big"}')
    await until(gateway, "meridian_in_flight 0.0")


async def test_a_reader_that_stops_amid_a_whole_answer_is_cut_off_too(
    gateway: Running, firehose: Firehose
) -> None:
    firehose.total = 10_000_000
    async with wire(gateway, 4096) as (reader, writer):
        writer.write(chat_request())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(2 * WRITE_TIMEOUT_S)  # what does not happen meanwhile is the point
        with pytest.raises(ConnectionError):
            await end_of(reader, 10)


async def test_a_reader_that_is_slow_but_reads_is_not_cut_off(gateway: Running, firehose: Firehose) -> None:
    firehose.total = 1_500_000
    async with wire(gateway, 16_384) as (reader, writer):
        writer.write(chat_request(stream=True))
        received, waits = 0, 0
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        while part := await reader.read(16_384):
            received += len(part)
            if loop.time() - begun_s < 3 * WRITE_TIMEOUT_S:
                waits += 1
                await asyncio.sleep(WRITE_TIMEOUT_S / 10)  # the reader's slowness
            if b"[DONE]" in part:
                break
    assert waits > 10
    assert received > firehose.total


async def test_no_more_is_taken_from_the_upstream_than_a_slow_reader_makes_room_for(
    gateway: Running, firehose: Firehose
) -> None:
    async with wire(gateway, 4096) as (reader, writer):
        writer.write(chat_request(stream=True))
        assert await settled(reader, firehose) < firehose.total / 2


async def settled(reader: asyncio.StreamReader, firehose: Firehose) -> int:
    """What was taken from the upstream (bytes) once a reader of 1 KB/s has stopped it taking more."""
    seen: list[int] = []
    async with asyncio.timeout(20):
        while len(seen) < 8 or len(set(seen[-5:])) > 1:
            await reader.read(100)
            seen.append(firehose.taken)
            await asyncio.sleep(0.1)  # the reader's slowness
    return seen[-1]


@pytest.mark.slow
async def test_a_process_does_not_grow_with_what_a_slow_reader_leaves(
    tmp_path: Path, firehose: Firehose
) -> None:
    tenants_file(tmp_path)
    port, operators_port = lifecycle.free_port(), lifecycle.free_port()
    async with (
        TestServer(firehose.application(), handler_cancellation=True) as server,
        aiohttp.ClientSession() as session,
    ):
        section = {"kind": "openai", "base_url": str(server.make_url("/v1")), "model": "gpt-4o"}
        config = {
            "region": "us-east",
            "tenants": {"pepper": f"file:{tmp_path / 'pepper'}"},
            "models": {"big": {"upstreams": [section]}},
            "server": {"port": port, "operators_port": operators_port, "drain_s": 0},
        }
        (tmp_path / "gateway.yaml").write_text(to_yaml(config))
        argv = [sys.executable, "-m", "gateway", "serve", "--config", str(tmp_path / "gateway.yaml")]
        process = await asyncio.create_subprocess_exec(*argv)
        try:
            operators_url = f"http://127.0.0.1:{operators_port}"
            await until_ready(session, operators_url)
            gateway = Running(f"http://127.0.0.1:{port}", operators_url, session, asyncio.Event())
            memory = psutil.Process(process.pid).memory_info
            before = memory().rss
            async with wire(gateway, 4096) as (reader, writer):
                writer.write(chat_request(stream=True))
                assert 0 < await settled(reader, firehose) < firehose.total
                assert memory().rss - before < 20_000_000
            async with asyncio.timeout(1):
                await firehose.left.wait()
        finally:
            process.terminate()
            await process.wait()
