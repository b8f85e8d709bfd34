"""The operators' port: /livez, /readyz, /metrics. Never the tenants' port.

Liveness checks no dependency, so that an outage elsewhere restarts nobody; readiness flips on start-up
and drain only, and shows dependencies without gating on them.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway.edge import render

Facts = Callable[[], Awaitable[dict[str, Any]]]


def application(registry: CollectorRegistry, is_ready: Callable[[], bool], facts: Facts) -> web.Application:
    """The operators' application; `facts` tells what /readyz shows beside its verdict."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        ready = is_ready()
        body = {"ready": ready, **await facts()}
        return render.json_response(body, status=200 if ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        exposition: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
        return web.Response(body=exposition, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app
