"""A streamed chat answer: server-sent events on its caller's connection.

Nothing goes out before the first content, so that whatever fails until then is an ordinary error response.
Only when that lasts longer than `keepalive_s` does the 200 go out, with a comment; from then on a failure
can only be said inside the stream, and [DONE] stays away.

    state                on                        becomes, doing
    waiting              content                   relaying: 200, events
    waiting              keepalive_s of silence    waiting, begun: 200, comment
    waiting              failure                   over: the error is raised, for an error response
    waiting, begun       failure                   over: error event
    relaying             keepalive_s of silence    relaying: comment
    relaying             end                       over: last events with the facts, [DONE]
    relaying             failure, deadline         over: error event
    any                  the caller leaves         over: the handler is cancelled, and all behind it
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from gateway.context import RequestContext
from gateway.edge import facts
from gateway.edge.server import FAILURE, STARTED, translate
from gateway.errors import GatewayError
from gateway.messages import ChatEvent, ChatRequest, RagMode
from gateway.stages.base import ChatHandler
from gateway.stream import EventStream
from gateway.wire import sse


class ChatStreams:
    """Asks the pipeline for answers and gives them out as streams."""

    def __init__(self, *, region: str, chat: ChatHandler, keepalive_s: float) -> None:
        self._region, self._chat, self._keepalive_s = region, chat, keepalive_s

    async def answer(
        self, http: web.Request, ctx: RequestContext, request: ChatRequest
    ) -> web.StreamResponse:
        """The response, sent to its end. Raises: GatewayError: before anything of it was sent."""
        line = Line(http, ctx, {"x-request-id": ctx.request_id, "x-meridian-region": self._region})
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(line.keep_alive(self._keepalive_s))
            try:
                await self._relay(line, ctx, request)
            except (GatewayError, TimeoutError, ConnectionError) as error:
                failure = error  # raised outside the group, which would wrap it
            finally:
                ticking.cancel()
        if failure is not None:
            if not line.has_begun or isinstance(failure, ConnectionError):
                raise failure
            http[FAILURE] = told = translate(failure, http)
            await line.write(sse.encode(msgspec.json.encode(facts.failed(self._region, ctx, told))))
        return await line.end()

    async def _relay(self, line: "Line", ctx: RequestContext, request: ChatRequest) -> None:
        answer = await self._chat(ctx, request)
        answer.tap(lambda _: facts.leave_note(ctx, answer.facts))
        async with answer, asyncio.timeout_at(ctx.deadline_s):
            await line.begin(facts.headers(answer.facts))
            tail = Tail(request)
            async for event in answer:
                for ready in tail.feed(event):
                    await line.write(render_event(ready))
            await answer.aclose()
            for chunk in tail.finish(self._fields(ctx, request, answer)):
                await line.write(chunk)
            await line.write(sse.DONE)

    def _fields(self, ctx: RequestContext, request: ChatRequest, answer: EventStream) -> dict[str, Any]:
        """What the last event carries beside its own; a plain proxy's events stay as they came."""
        if request.mode is RagMode.OFF:
            return {}
        wants_receipt = bool(request.rag.include_receipt)
        return facts.fields(self._region, ctx, answer.facts, include_receipt=wants_receipt)


class Line:
    """A response under way: begun once, written to, kept from looking dead."""

    def __init__(self, http: web.Request, ctx: RequestContext, headers: Mapping[str, str]) -> None:
        self._http, self._clock = http, ctx.clock
        self._wrote_s = ctx.clock()
        self._response = web.StreamResponse(headers=headers)
        self._response.content_type = "text/event-stream"
        self._response.headers["Cache-Control"] = "no-cache"
        self._response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
        self.has_begun = False

    async def begin(self, headers: Mapping[str, str]) -> None:
        """Send the 200 with these headers too; the first call counts."""
        if self.has_begun:
            return
        self.has_begun = self._http[STARTED] = True
        self._response.headers.update(headers)
        await self._response.prepare(self._http)

    async def write(self, data: bytes) -> None:
        """Hand whole events to the connection; waits while it holds more than its buffer.

        How long is the connection's to judge: one that takes nothing for too long is cut off there.
        Raises: ConnectionError: the caller left.
        """
        self._wrote_s = self._clock()
        await self._response.write(data)

    async def end(self) -> web.StreamResponse:
        await self._response.write_eof()
        return self._response

    async def keep_alive(self, interval_s: float) -> None:
        """Send a comment whenever nothing was sent for so long. Until cancelled, or until the caller left."""
        try:
            while True:
                wait_s = self._wrote_s + interval_s - self._clock()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                elif self._http.protocol.writing_paused:
                    self._wrote_s = self._clock()  # it has yet to take what is there
                else:
                    await self.begin({})
                    await self.write(sse.KEEP_ALIVE)
        except ConnectionError:
            return  # the server cancels this request's handler for that


class Tail:
    """Holds back what may be an answer's last event: what is known only at the end rides in it.

    Held from a choice's finish until more content comes, which for most answers is never. The usage event
    is ours to ask for, so one the caller did not ask for is taken out.
    """

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._held: list[ChatEvent] = []
        self._usage: ChatEvent | None = None

    def feed(self, event: ChatEvent) -> Sequence[ChatEvent]:
        """The events that may go out now."""
        if event.usage is not None and not event.chunk.get("choices"):
            self._usage = event
            return ()
        if event.usage is not None and not self._request.include_usage:
            event = _without_usage(event)
        if event.finish_reason is None and (event.is_content or not self._held):
            ready, self._held = [*self._held, event], []
        else:
            ready, self._held = self._held, [event]
        return ready

    def finish(self, fields: dict[str, Any]) -> Sequence[bytes]:
        """The held events, rendered, with `fields` in the last."""
        if self._usage is not None and self._request.include_usage:
            self._held.append(self._usage)
        if not self._held:
            return ()
        *before, last = self._held
        if fields:
            last = ChatEvent(chunk={**last.chunk, **fields})
        return [render_event(event) for event in (*before, last)]


def _without_usage(event: ChatEvent) -> ChatEvent:
    chunk = {name: value for name, value in event.chunk.items() if name != "usage"}
    return dataclasses.replace(event, chunk=chunk, raw=None)


def render_event(event: ChatEvent) -> bytes:
    """The event's own bytes, or its chunk rendered anew when a stage made or changed it."""
    return event.raw if event.raw is not None else sse.encode(msgspec.json.encode(event.chunk))
