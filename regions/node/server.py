"""The HTTP face of a node: who may come in, how large a body may be, and what a failure looks like."""

import asyncio
import hmac
import socket
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from regions.node import render
from regions.node.config import BODY_LIMIT, NodeConfig
from regions.node.control_plane import ControlPlane
from regions.node.data_plane import DataPlane
from regions.node.node import Node
from regions.node.render import BodyTooLarge, NoSuchRoute, Overloaded
from regions.node.spans import traced
from regions.pinecone_api import API_KEY_HEADER, MAX_BODY_BYTES
from regions.runtime import strict_json
from regions.runtime.tracing import Tracer

DECODED_ON_THE_LOOP: Final = 256 << 10
"""Bytes; a larger body is decoded on a thread."""

DRAIN_S: Final = 5.0
_MAX_LINE_BYTES: Final = 1 << 20
"""Of a request line: a fetch of 1,000 ids of 512 characters is half of it."""

_log: Final = structlog.get_logger("meridian.node")


class Server:
    """A node's routes and its listening socket, from `open` to `close`."""

    def __init__(self, node: Node, config: NodeConfig, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self._node, self._config = node, config
        self._key = config.api_key.get_secret_value().encode() if config.api_key else None
        self._in_flight = 0
        self._control = ControlPlane(node, self._read_body)
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[self._around])
        app.add_routes(self._control.routes())
        app.add_routes(DataPlane(node, self._read_body).routes())
        app.router.add_get("/livez", _alive)
        app.router.add_get("/statusz", self._status)
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            max_line_size=_MAX_LINE_BYTES,
            shutdown_timeout=DRAIN_S,
        )

    async def open(self, sock: socket.socket) -> str:
        """Serve on a bound socket; the URL that clients use."""
        self._control.base_url = self._config.url(sock.getsockname()[1])
        await self._runner.setup()
        await web.SockSite(self._runner, sock, backlog=512).start()
        return self._control.base_url

    async def close(self) -> None:
        """Take no more requests, let those that run end within `DRAIN_S`."""
        await self._runner.cleanup()

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != "/livez" and not self._is_allowed(request):
            return render.unauthorized()
        return await traced(self._tracer, request, lambda: self._answer(request, handler))

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        is_control = not request.path.startswith("/i/")
        self._in_flight += 1
        try:
            if self._in_flight > self._config.max_in_flight:
                raise Overloaded("too many requests at once")
            return await handler(request)
        except web.HTTPException as error:
            refused = NoSuchRoute(error.status, f"{request.method} {request.path}: {error.reason}")
            return render.failure(refused, is_control=is_control) or error
        except Exception as error:  # noqa: BLE001 - the outermost edge: what is unknown is logged and answered
            response = render.failure(error, is_control=is_control)
            if response is None:
                _log.exception("request failed", method=request.method, path=request.path)
                response = render.internal_failure(is_control=is_control)
            return response
        finally:
            self._in_flight -= 1

    def _is_allowed(self, http: web.Request) -> bool:
        if self._key is None:
            return True
        given = http.headers.get(API_KEY_HEADER, "").encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, self._key)

    async def _status(self, http: web.Request) -> web.Response:
        totals = await self._node.run(self._node.loaded.totals)
        return render.answer(
            {
                "loaded_namespaces": totals.namespaces,
                "loaded_bytes": totals.nbytes,
                "in_maintenance": totals.in_maintenance,
                "longest_stall_ms": self._node.stalls.take_longest_ms(),
                "incarnation": self._node.incarnation,
            }
        )

    async def _read_body(self, http: web.Request, type_: Any) -> Any:
        """The body as a value of `type_`. Raises: BadJson, BodyTooLarge."""
        length = http.content_length
        if length is not None and length > MAX_BODY_BYTES:
            raise BodyTooLarge(_too_large(length))
        try:
            body = await http.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise BodyTooLarge(_too_large(BODY_LIMIT)) from error
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(_too_large(len(body)))
        if len(body) > DECODED_ON_THE_LOOP:
            return await self._node.run(strict_json.decode, body, type_)
        return strict_json.decode(body, type_)


def _too_large(length: int) -> str:
    return f"message length too large: found {length} bytes, the limit is: {MAX_BODY_BYTES} bytes"


async def _alive(http: web.Request) -> web.Response:
    return web.Response(text="ok")


async def drained(server: Server, node: Node) -> None:
    """Close the server, then the node, whose files need what the last requests wrote."""
    await server.close()
    await asyncio.to_thread(node.close)
