"""A scripted LLM endpoint on a raw socket, so that it can do what no HTTP server would.

Upstreams are told apart by the first part of the path: ``http://…/<upstream>/v1``. Each follows a script of
acts, one an attempt, whose last is repeated; every attempt is logged with its time in ms.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec


@dataclass(slots=True)
class Attempt:
    """One request as the endpoint saw it. Times are ms since the wall was opened.

    `left_ms`: when the caller closed the connection before the answer had ended; None: it did not.
    """

    upstream: str
    number: int
    at_ms: float
    body: dict[str, Any]
    left_ms: float | None = None


class Call:
    """What an act has in its hands: the request, and the socket to misbehave on."""

    def __init__(self, attempt: Attempt, writer: asyncio.StreamWriter) -> None:
        self.attempt, self._writer = attempt, writer
        self.keeps_alive = False
        """Whether another request may follow on this connection."""

    @property
    def body(self) -> dict[str, Any]:
        return self.attempt.body

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int, content_type: str, **headers: str) -> None:
        """Status and headers of an answer that comes in chunks."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        lines = {"Content-Type": content_type, "Transfer-Encoding": "chunked", **named}
        text = f"HTTP/1.1 {status} As Scripted\r\n"
        text += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await self.send(text.encode() + b"\r\n")

    async def part(self, data: bytes) -> None:
        """One HTTP chunk."""
        await self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def end(self) -> None:
        """The answer ended as HTTP would have it."""
        await self.send(b"0\r\n\r\n")
        self.keeps_alive = True

    def reset(self) -> None:
        """Break the connection off: the peer's next read fails."""
        self._writer.transport.abort()


Act = Callable[[Call], Awaitable[None]]


@dataclass
class Upstream:
    """One scripted upstream: its script, and the attempts that reached it, in order."""

    name: str
    script: Sequence[Act]
    attempts: list[Attempt] = field(default_factory=list)

    def act(self, number: int) -> Act:
        return self.script[min(number, len(self.script) - 1)]


class Wall:
    """All upstreams of a campaign, on one port."""

    def __init__(self) -> None:
        self._upstreams: dict[str, Upstream] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._clock = asyncio.get_running_loop().time
        self._opened_s = self._clock()
        self._port = 0

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        wall = cls()
        server = await asyncio.start_server(wall._on_connection, "127.0.0.1", 0, backlog=1024)
        wall._port = server.sockets[0].getsockname()[1]
        try:
            yield wall
        finally:
            server.close()
            for task in list(wall._connections):
                task.cancel()
            await asyncio.gather(*wall._connections, return_exceptions=True)

    def add(self, name: str, script: Sequence[Act]) -> Upstream:
        upstream = self._upstreams[name] = Upstream(name, script)
        return upstream

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._port}/{name}/v1"

    def now_ms(self) -> float:
        return (self._clock() - self._opened_s) * 1000

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                early: bytes | None = b""
                while early is not None:
                    early = await self._answer(reader, writer, early)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes
    ) -> bytes | None:
        """Answer one request, whose first bytes are `early`.

        Gives what came early of the next one on this connection, or None when none may follow.
        """
        head = (early + await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = msgspec.json.decode(await reader.readexactly(int(headers["content-length"])))
        upstream = self._upstreams[first.split(" ")[1].split("/")[1]]
        attempt = Attempt(upstream.name, len(upstream.attempts), self.now_ms(), body)
        upstream.attempts.append(attempt)
        call = Call(attempt, writer)
        async with asyncio.TaskGroup() as group:
            acting = group.create_task(_perform(upstream, call))
            leaving = group.create_task(_next_byte(reader))
            await asyncio.wait([acting, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not acting.done():
                attempt.left_ms = self.now_ms()
            acting.cancel()
            leaving.cancel()
        if acting.cancelled() or not acting.result():
            attempt.left_ms = attempt.left_ms or self.now_ms()
            return None
        if not call.keeps_alive:
            return None
        return b"" if leaving.cancelled() else leaving.result() or None


async def _next_byte(reader: asyncio.StreamReader) -> bytes:
    """What the peer says next: nothing until it has its answer, unless it leaves."""
    try:
        return await reader.read(1)
    except ConnectionError:
        return b""


async def _perform(upstream: Upstream, call: Call) -> bool:
    """Act. Whether the peer stayed to the end."""
    try:
        await upstream.act(call.attempt.number)(call)
    except ConnectionError:
        return False
    return True
