"""The operators' port: /livez, /readyz, /metrics, /admin, /console. Never the tenants' port.

Liveness checks no dependency, so that an outage elsewhere restarts nobody; readiness flips on start-up
and drain only, and shows dependencies without gating on them. What `/admin` shows names tenants, so it wants
the operators' own key; it changes nothing.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from gateway.edge import render
from gateway.edge.console import Console
from gateway.receipts import Receipts

Facts = Callable[[], Awaitable[dict[str, Any]]]
ADMIN: Final = "/admin/"
MOST: Final = 500
"""Receipts in one answer."""


def application(
    registry: CollectorRegistry,
    is_ready: Callable[[], bool],
    facts: Facts,
    receipts: Receipts,
    admin_key: str | None,
    console: Console,
) -> web.Application:
    """The operators' application; `facts` tells what /readyz shows beside its verdict.

    Without an `admin_key` nothing under /admin is shown to anybody.
    """

    async def latest(request: web.Request) -> web.Response:
        try:
            count = int(request.query.get("limit", "50"))
        except ValueError:
            count = 0
        if not 1 <= count <= MOST:
            return _refused(400, f"limit is a number from 1 to {MOST}")
        return render.json_response({"receipts": list(receipts.latest(count))})

    async def receipt(request: web.Request) -> web.Response:
        found = receipts.find(request.match_info["id"])
        if found is None:
            return _refused(404, "no receipt of that id: the last requests of this process alone are kept")
        return render.json_response(found)

    app = web.Application(middlewares=[_admin_only(admin_key)])
    app.add_routes(
        [
            *_probes(registry, is_ready, facts),
            web.get(f"{ADMIN}receipts", latest),
            web.get(f"{ADMIN}receipts/{{id}}", receipt),
            *console.routes(),
        ]
    )
    app.on_shutdown.append(console.close)
    return app


def probes_alone(registry: CollectorRegistry, is_ready: Callable[[], bool], facts: Facts) -> web.Application:
    """/livez, /readyz and /metrics, for a process that has no requests to tell of."""
    app = web.Application()
    app.add_routes(_probes(registry, is_ready, facts))
    return app


def _probes(
    registry: CollectorRegistry, is_ready: Callable[[], bool], facts: Facts
) -> Sequence[web.RouteDef]:

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        ready = is_ready()
        body = {"ready": ready, **await facts()}
        return render.json_response(body, status=200 if ready else 503)

    async def metrics(request: web.Request) -> web.Response:
        # Exemplars are in OpenMetrics alone, which Prometheus asks for; who asks for nothing gets plain text.
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    return [web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)]


def _admin_only(admin_key: str | None) -> Middleware:
    """Let nobody under /admin without the key; the comparison's time tells nothing of a guess."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(ADMIN):
            if admin_key is None:
                return _refused(403, "set server.admin_key: without one, /admin is shut")
            _, _, shown = request.headers.get("Authorization", "").partition(" ")
            if not hmac.compare_digest(_digest(shown), _digest(admin_key)):
                return _refused(401, "send the key of server.admin_key as 'Authorization: Bearer …'")
        return await handler(request)

    return guard


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=32).digest()


def _refused(status: int, message: str) -> web.Response:
    return render.json_response({"error": message}, status=status)
