"""An OTLP/HTTP collector on a real socket: it decodes what exporters send, by the protocol's own messages."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


@dataclass(frozen=True)
class Got:
    """A span as it arrived; ids in hexadecimal, `parent_id` "" for a root."""

    service: str
    region: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    links: list[tuple[str, str]]


@dataclass
class Collector:
    """What came so far, and how it answers from now on."""

    url: str = ""
    spans: list[Got] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    requests: int = 0
    status: int = 200
    is_hanging: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    free: asyncio.Event = field(default_factory=asyncio.Event)

    def named(self, name: str) -> list[Got]:
        return [span for span in self.spans if span.name == name]

    async def until(self, has_come: Callable[["Collector"], bool], timeout_s: float = 15) -> None:
        """Return once it is so. Raises: TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not has_come(self):
                self.changed.clear()
                await self.changed.wait()

    async def take(self, http: web.Request) -> web.Response:
        self.requests += 1
        self.headers.append(dict(http.headers))
        body = await http.read()  # aiohttp has undone the compression
        if self.is_hanging:
            self.changed.set()
            await self.free.wait()
        if self.status == 200:
            self.spans += spans_of(body)
        self.changed.set()
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(status=self.status, body=answer, content_type="application/x-protobuf")


@asynccontextmanager
async def running_collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/traces", collector.take)
    async with TestServer(app) as server:
        collector.url = str(server.make_url("")).rstrip("/")
        try:
            yield collector
        finally:
            collector.free.set()


def spans_of(body: bytes) -> list[Got]:
    """The spans of an export."""
    if body[:2] == b"\x1f\x8b":
        body = gzip.decompress(body)
    found = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        of = {each.key: value_of(each.value) for each in resource.resource.attributes}
        for scope in resource.scope_spans:
            found += [
                Got(
                    service=of["service.name"],
                    region=of.get("cloud.region", ""),
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    is_error=span.status.code == 2,
                    attributes={each.key: value_of(each.value) for each in span.attributes},
                    events=[
                        (event.name, {each.key: value_of(each.value) for each in event.attributes})
                        for event in span.events
                    ],
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                )
                for span in scope.spans
            ]
    return found


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)
