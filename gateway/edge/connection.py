"""A caller's connection: how long it may take over its part, and what is said to bytes that are no request.

aiohttp waits as long as it takes for a request's head to be complete and for a reader to take its answer, and
it answers what it cannot parse in plain text. Here both have a bound and the third has the dialects' shape.
The bounds are the connection's, so they hold for every answer, streamed or not, and cost nothing per write.

A caller that takes nothing for `write_timeout_s` loses its connection, which cancels its handler and all
behind it. Until then it holds at most `BUFFER_BYTES` and one event here: what stands before that waits.
"""

import asyncio
import functools
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import aiohttp
from aiohttp import web

MAX_LINE_BYTES: Final = 1 << 20
"""Pinecone's fetch puts up to 1,000 ids of 512 characters into its URL; the server's default is 8 KB."""
IDLE_S: Final = 630.0
"""Between requests. Above the idle time of the load balancers in use (up to 600 s): they must close first."""
BUFFER_BYTES: Final = 64 * 1024
UNSENT_BYTES: Final = 128 * 1024
"""Held by the kernel beyond what is on the wire; without a bound it takes 4 MB for a reader that is slow."""
_LOOKS: Final = 4
"""How often within `write_timeout_s` a reader that is behind is looked at."""
_RESET: Final = struct.pack("ii", 1, 0)

Refuse = Callable[[str], web.Response]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long (s) a request's head may take, and how long a caller may take nothing of its answer."""

    head_timeout_s: float
    write_timeout_s: float


class Connection(web.RequestHandler):
    """aiohttp's handler of one connection, bounded."""

    __slots__ = (
        "_behind_since_s",
        "_head_timer",
        "_patience",
        "_refuse",
        "_unsent_bytes",
        "_wire",
        "_write_timer",
    )

    def __init__(self, server: web.Server, patience: Patience, refuse: Refuse | None, **options: Any) -> None:
        super().__init__(server, **options)
        self._patience, self._refuse = patience, refuse
        self._wire: asyncio.Transport | None = None  # `transport` is None from when it is to be closed
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unsent_bytes, self._behind_since_s = 0, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wire = cast(asyncio.Transport, transport)
        self._wire.set_write_buffer_limits(high=BUFFER_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_head()
        self._forget_writing()
        self._wire = None
        super().connection_lost(exc)

    # --- Requests that never come ------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        heads = self._request_count
        super().data_received(data)
        if self._request_count != heads:
            self._forget_head()
        elif self._head_timer is None and self._is_between_requests():
            self._await_head()

    def _is_between_requests(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(self._patience.head_timeout_s, self._give_up_head)

    def _give_up_head(self) -> None:
        self._head_timer = None
        if self._is_between_requests():
            self.force_close()

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # --- Answers that nobody takes -----------------------------------------------------------

    def pause_writing(self) -> None:
        """The transport holds more than its buffer. From now on something must go out of it."""
        super().pause_writing()
        self._unsent_bytes, self._behind_since_s = self._unsent(), self._loop.time()
        self._look_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_writing()

    def _look_later(self) -> None:
        self._write_timer = self._loop.call_later(self._patience.write_timeout_s / _LOOKS, self._look)

    def _look(self) -> None:
        """Cut a caller off that took nothing since long; what was added meanwhile is no sign of life."""
        now_s, unsent = self._loop.time(), self._unsent()
        if unsent < self._unsent_bytes:
            self._behind_since_s = now_s
        self._unsent_bytes = unsent
        if now_s - self._behind_since_s < self._patience.write_timeout_s:
            self._look_later()
        elif self._wire is not None:
            # With a reset, or the kernel would hold what was handed to it until it gives up on the reader.
            sock = self._wire.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._wire.abort()

    def _unsent(self) -> int:
        return 0 if self._wire is None else self._wire.get_write_buffer_size()

    def _forget_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    # --- Bytes that are no request -----------------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be parsed; anything else is aiohttp's to judge."""
        is_parsers = isinstance(exc, aiohttp.http_exceptions.HttpProcessingError)
        if self._refuse is None or not is_parsers or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        response = self._refuse(message or "")
        response.force_close()
        return response


@asynccontextmanager
async def serving(
    app: web.Application, sock: socket.socket, patience: Patience, refuse: Refuse | None = None
) -> AsyncIterator[None]:
    """Serve an application on a socket. A caller that leaves cancels its handler, and all behind it.

    `refuse` makes the answer to bytes that are no request, from what is wrong with them; None: aiohttp does.
    """
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    loop = asyncio.get_running_loop()
    connection = functools.partial(
        Connection,
        cast(web.Server, runner.server),  # it has one since setup()
        patience,
        refuse,
        loop=loop,
        access_log=None,
        keepalive_timeout=IDLE_S,
        max_line_size=MAX_LINE_BYTES,
    )
    try:
        server = await loop.create_server(connection, sock=sock, backlog=1024)
        try:
            yield
        finally:
            server.close()
    finally:
        await runner.cleanup()
