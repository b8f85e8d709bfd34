"""What spans say of a node's requests: each is a part of its caller's trace, if that is told."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from regions.runtime.trace_context import TRACEPARENT, TRACESTATE, parse
from regions.runtime.tracing import Attributes, Kind, Tracer, entered

_UNTRACED: Final = frozenset({"/livez", "/statusz"})


async def traced(
    tracer: Tracer | None, http: web.Request, answer: Callable[[], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The answer, made inside a span of the caller's trace, or of one that begins here."""
    resource = http.match_info.route.resource
    if tracer is None or resource is None or resource.canonical in _UNTRACED:
        return await answer()
    route = resource.canonical
    attributes: Attributes = {"http.request.method": http.method, "http.route": route}
    if (index := http.match_info.get("index")) is not None:
        attributes["db.collection.name"] = index
    trace = tracer.begin(
        f"{http.method} {route}",
        Kind.SERVER,
        parent=parse(http.headers.get(TRACEPARENT), http.headers.getall(TRACESTATE, ())),
        attributes=attributes,
    )
    try:
        with entered(trace.root):
            response = await answer()
        attributes["http.response.status_code"] = response.status
        if response.status >= 500:
            trace.root.error = str(response.status)
        return response
    except BaseException as error:
        trace.root.error = type(error).__name__
        raise
    finally:
        tracer.end(trace)
