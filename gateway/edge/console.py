"""The operators' console over HTTP: /console, its files, and /admin/console/events, a live stream.

The page holds nothing secret and is given to anybody who reaches the port; what it shows comes from under
/admin, for whoever has the operators' key. It is self-contained: its policy lets it ask nobody but this host.

A reader gets the newest frame whenever it has taken the one before, so a slow one gets fewer and none piles
up; one that takes nothing is cut off by its connection's write timeout.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from gateway.console import frames
from gateway.console.history import History
from gateway.console.readings import read
from gateway.receipts import Receipt, Receipts
from gateway.tenants import Tenant

EVERY_S: Final = 1.0
READERS: Final = 16
"""Open pages of one process."""
RETRY_MS: Final = 1000
PAGE: Final = Path(__file__).parent.parent / "console" / "page"
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".LICENSE": "text/plain"}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Console:
    """Looks once a second, keeps the last minutes, tells whoever reads. `watch` runs beside the server."""

    def __init__(
        self,
        registry: CollectorRegistry,
        facts: Callable[[], Awaitable[dict[str, Any]]],
        receipts: Receipts,
        tenants: Callable[[], Sequence[Tenant]],
        wall_clock: Callable[[], float],
        tell: Callable[[Exception], None],
    ) -> None:
        """`tell` hears of a frame that could not be made."""
        self._tell, self._failed = tell, False
        self._registry, self._facts, self._receipts = registry, facts, receipts
        self._tenants, self._wall_clock = tenants, wall_clock
        self._history = History()
        self._latest = b""
        self._news = asyncio.Event()
        self._readers = 0
        self._over = asyncio.Event()

    async def watch(self) -> NoReturn:
        """Make a frame every second, until cancelled.

        A frame that cannot be made is told once, until one can be again: the gateway goes on without it.
        """
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - told: answers are worth more than a page about them
                if not self._failed:
                    self._tell(error)
                self._failed = True
            else:
                self._failed = False
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Make the frame of now, and wake everybody who reads."""
        now_s = self._wall_clock()
        between = self._history.window(read(self._registry.collect(), asyncio.get_running_loop().time()))
        recent = _recent(self._receipts, now_s - frames.MINUTE_S)
        made = frames.frame(between, await self._facts(), recent, self._tenants(), now_s)
        self._history.points.append(made["point"])
        self._latest = _event("frame", made)
        self._wake()

    async def close(self, _: web.Application) -> None:
        """End every stream: the server goes."""
        self._over.set()
        self._wake()

    def routes(self) -> Iterable[web.RouteDef]:
        files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.is_file()}

        async def page(request: web.Request) -> web.Response:
            name = request.match_info.get("name", "index.html")
            if name not in files:
                raise web.HTTPNotFound(headers=_HEADERS)
            content_type = _TYPES[Path(name).suffix]
            return web.Response(
                body=files[name], content_type=content_type, charset="utf-8", headers=_HEADERS
            )

        return [
            web.get("/console", page),
            web.get("/console/assets/{name}", page),
            web.get("/admin/console/events", self._stream),
        ]

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self._over.is_set() or self._readers >= READERS:
            return web.Response(status=503, text="too many open consoles, or going away\n")
        response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        self._readers += 1
        try:
            await response.prepare(request)
            await response.write(
                b"retry: %d\n\n" % RETRY_MS + _event("history", list(self._history.points)) + self._latest
            )
            while not self._over.is_set():
                news = self._news
                await news.wait()
                await response.write(self._latest)
        except ConnectionError:
            return response  # the page was closed; nobody is left to be told
        finally:
            self._readers -= 1
        return response

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _recent(receipts: Receipts, since_s: float) -> list[Receipt]:
    """The newest first: those of the last minute, and as many as a frame lists in any case."""
    found = list(receipts.latest(frames.LAST))
    if len(found) < frames.LAST or found[-1].ended_s < since_s:
        return found
    return list(takewhile(lambda each: each.ended_s >= since_s, receipts.latest(10_000)))


def _event(name: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))
