"""The tenants' port: key -> tenant, body limit, context, shedding, drain, errors.

Every route passes `Edge.guard`, which finds the tenant from the key before it reads the body, so that
a context always has a tenant, and turns whatever goes wrong into the caller's own dialect.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import aiohttp
from aiohttp import web

from gateway import admission
from gateway.admission import Admission
from gateway.allowances import Operation, Priority
from gateway.context import RequestContext
from gateway.edge import headers, render
from gateway.errors import (
    BadRequest,
    BodyTooLarge,
    DeadlineExceeded,
    Draining,
    GatewayError,
    MethodNotAllowed,
    NotFound,
)
from gateway.observe import Observer
from gateway.stages.gate import Gate
from gateway.tenants import Tenant, TenantKey
from gateway.tenants_file import Tenants
from regions.runtime import trace_context, tracing
from regions.runtime.tracing import Attributes, Kind, Trace, Tracer, entered

CONTEXT: Final = web.RequestKey("context", RequestContext)
STARTED: Final = web.RequestKey("started", bool)
"""Set once a streamed answer's headers are out: no second response may follow."""
FAILURE: Final = web.RequestKey("failure", BaseException)
"""What ended a streamed answer that had already started."""
BACKSTOP_S: Final = 2.0
TEXT_UPSERT: Final = "/records/namespaces/{namespace}/upsert"
DECODED_ON_THE_LOOP: Final = 32 * 1024
"""Bytes; a body of brackets alone takes 1 µs a byte to check."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Edge:
    """What stands between the socket and the pipelines, the same for both dialects."""

    def __init__(
        self,
        *,
        region: str,
        tenants: Tenants,
        observer: Observer,
        body_limit_bytes: int,
        admission: Admission,
        gate: Gate,
        deadline_s: float,
        clock: Callable[[], float],
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._region, self._tenants, self._observer = region, tenants, observer
        self._body_limit_bytes, self._admission, self._gate = body_limit_bytes, admission, gate
        self._deadline_s, self._clock = deadline_s, clock
        self.in_flight = 0  # what waits for a slot is counted too: a drain waits for it
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    def application(self) -> web.Application:
        """An application whose every route is guarded; add routes to it."""
        app = web.Application(middlewares=[self._guard], client_max_size=self._body_limit_bytes)
        app.on_response_prepare.append(_tell_limits)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        dialect, call = dialect_of(request.path), call_of(request)
        request_id = headers.request_id(request)
        try:
            ctx = self._admit(request, dialect, request_id)
        except GatewayError as error:
            self._observer.rejected(dialect, call, request_id, error)
            return self._finish(render.response(dialect, error), request_id)
        if self._tracer is not None:
            ctx.trail.trace = _begin_trace(self._tracer, request, call)
        with entered(None if ctx.trail.trace is None else ctx.trail.trace.root):
            return await self._admitted(request, handler, ctx, call)

    async def _admitted(
        self, request: web.Request, handler: Handler, ctx: RequestContext, call: str
    ) -> web.StreamResponse:
        request[CONTEXT] = ctx
        failure: BaseException | None = None
        self._enter()
        try:
            with self._admission.under_way(ctx):
                await self._admission.enter(ctx)
                response = await self._at_work(request, handler, ctx)
            failure = request.get(FAILURE)
        except ConnectionError as error:
            failure = error  # the caller's connection: those behind us are translated in their adapters
            raise
        except Exception as error:
            failure = translate(error, request)
            if STARTED in request:
                _abort(request)
                raise
            response = render.response(ctx.dialect, failure)
            tracing.note({"http.response.status_code": response.status})
        except BaseException as error:
            failure = error
            raise
        finally:
            self._leave()
            self._observer.ended(ctx, call, failure)
        return self._finish(response, ctx.request_id)

    async def _at_work(
        self, request: web.Request, handler: Handler, ctx: RequestContext
    ) -> web.StreamResponse:
        """Wait for a slot, and hold it until the answer's last byte is out of our hands."""
        # Stages keep to the deadline by themselves and a stream says so when it passes; this is for what does
        # not, such as a caller that stops reading.
        async with (
            asyncio.timeout_at(ctx.deadline_s + BACKSTOP_S),
            self._gate.slot(ctx.tenant, ctx.priority, ctx.deadline_s) as waited_s,
        ):
            if waited_s > 0:
                ctx.trail.took("queue", waited_s)
            response = self._finish(await handler(request), ctx.request_id)
            tracing.note({"http.response.status_code": response.status})
            await response.prepare(request)
            await response.write_eof()
            return response

    def _admit(self, request: web.Request, dialect: str, request_id: str) -> RequestContext:
        if self.draining:
            raise Draining("this gateway is shutting down", retry_after_s=1)
        now_s, (tenant, key) = self._clock(), self._authenticate(request)
        return RequestContext(
            request_id=request_id,
            tenant=tenant,
            dialect=dialect,
            started_s=now_s,
            deadline_s=now_s + headers.allowed_s(request, tenant.defaults.deadline_s, self._deadline_s),
            clock=self._clock,
            floor=headers.floor(request),
            max_staleness_s=headers.max_staleness_s(request),
            ack=headers.ack(request),
            key=key,
            priority=_priority(request, tenant),
            is_whole=headers.is_whole(request),
            complexity=headers.complexity(request),
            cache=headers.cache_control(request),
        )

    def _authenticate(self, request: web.Request) -> tuple[Tenant, TenantKey]:
        return self._tenants.authenticate(headers.api_key(request))

    def _enter(self) -> None:
        self.in_flight += 1
        self._idle.clear()

    def _leave(self) -> None:
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle.set()

    def refuse(self, problem: str) -> web.Response:
        """The answer to bytes that are no HTTP request; `problem` is the parser's view of them."""
        what = problem.strip().partition("\n")[0][:200].rstrip(": ") or "it could not be parsed"
        error = BadRequest(f"not an HTTP request: {what}", code="malformed_request")
        request_id = uuid.uuid4().hex
        self._observer.rejected("unknown", "unknown", request_id, error)
        response = render.in_any_dialect(error)
        self._finish(response, request_id)
        return response

    def _finish(self, response: web.StreamResponse, request_id: str) -> web.StreamResponse:
        if not response.prepared:
            response.headers["x-request-id"] = request_id
            response.headers["x-meridian-region"] = self._region
        return response

    async def drain(self, grace_s: float) -> bool:
        """Accept no more, wait for what is under way. False: some of it is still there after `grace_s`."""
        self.draining = True
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


def _begin_trace(tracer: Tracer, request: web.Request, call: str) -> Trace:
    """This request's part of its caller's trace, or a trace of its own. Nothing of its URL but the route."""
    parent = trace_context.parse(
        request.headers.get(trace_context.TRACEPARENT), request.headers.getall(trace_context.TRACESTATE, ())
    )
    method = request.method if request.method in METHODS else "_OTHER"
    attributes: Attributes = {"http.request.method": method, "http.route": call}
    return tracer.begin(f"{method} {call}", Kind.SERVER, parent=parent, attributes=attributes)


def granted(operation: Operation, handler: Handler) -> Handler:
    """The handler, for keys that are granted the operation."""

    async def handle(request: web.Request) -> web.StreamResponse:
        context_of(request).tenant.check(operation)
        return await handler(request)

    return handle


def dialect_of(path: str) -> str:
    """Which dialect a path belongs to; unknown ones get their 404 in that dialect."""
    return "openai" if path == "/v1" or path.startswith("/v1/") else "pinecone"


def call_of(request: web.Request) -> str:
    """The route's own pattern, as a bounded metric label; "unknown" for paths of no route."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"


def _priority(request: web.Request, tenant: Tenant) -> Priority:
    """What the caller asks for, if its tenant may; text ingestion is last: it may always be sent again."""
    if call_of(request).endswith(TEXT_UPSERT):
        return Priority.INGESTION
    return headers.priority(request, tenant.priority)


async def _tell_limits(request: web.Request, response: web.StreamResponse) -> None:
    """On every answer that begins, a stream's too, how its caller stands."""
    ctx = request.get(CONTEXT)
    if ctx is not None:
        response.headers.update(admission.headers(ctx))


def context_of(request: web.Request) -> RequestContext:
    """The context that the guard made."""
    return request[CONTEXT]


async def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """`decode(body)`, off the event loop where it could hold up other callers' first tokens."""
    if len(body) <= DECODED_ON_THE_LOOP:
        return decode(body)
    return await asyncio.to_thread(decode, body)


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises: BodyTooLarge: over the limit, compressed or not."""
    limit, ctx = request.client_max_size, request[CONTEXT]
    if request.content_length is not None and request.content_length > limit:
        raise BodyTooLarge(f"the body has {request.content_length} bytes; the limit is {limit}")
    try:
        async with asyncio.timeout_at(ctx.deadline_s):
            return await request.read()
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed before the whole body had come") from None
    except web.HTTPRequestEntityTooLarge:
        raise BodyTooLarge(f"the body has more than the limit of {limit} bytes") from None
    except (aiohttp.http_exceptions.HttpProcessingError, web.RequestPayloadError) as error:
        raise BadRequest(f"the body could not be read: {error}") from error


def translate(error: Exception, request: web.Request) -> GatewayError:
    """What the caller is told of an exception; an unknown one is our fault and keeps its cause."""
    match error:
        case GatewayError():
            return error
        case TimeoutError():
            failure: GatewayError = DeadlineExceeded("the request's deadline passed")
        case web.HTTPNotFound():
            failure = NotFound(f"there is no {request.method} {request.path[:200]}", code="unknown_url")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            failure = MethodNotAllowed(f"{request.path[:200]} takes {allowed}, not {request.method}")
        case _:
            failure = GatewayError("something broke inside the gateway; the request id finds it in the log")
    failure.__cause__ = error
    return failure


def _abort(request: web.Request) -> None:
    """Drop the connection of an answer that cannot be ended: closing it would wait for its reader."""
    if request.transport is not None:
        request.transport.abort()
