"""The OpenAI dialect on the tenants' port: chat, embeddings, models."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.context import RequestContext
from gateway.edge import render
from gateway.edge.server import FAILURE, STARTED, context_of, decoded, read_body, translate
from gateway.embedders.base import Embedded
from gateway.errors import BadRequest, GatewayError, NotFound
from gateway.messages import AnswerFacts, ChatEvent, ChatRequest, EmbedRequest, RagMode
from gateway.routes import SNIPPETS
from gateway.stages.base import ChatHandler, Handler
from gateway.stream import EventStream
from gateway.tenants import Tenant
from gateway.wire import openai as wire
from gateway.wire import sse

COLLECTED_ON_THE_LOOP: Final = 2_000
"""Events; about 5 µs each."""


class OpenAIFace:
    """Bodies in, pipelines asked, answers out."""

    def __init__(
        self,
        *,
        region: str,
        chat: ChatHandler,
        embed: Handler[EmbedRequest, Embedded],
        models: Sequence[str],
        created: int,
    ) -> None:
        self._region, self._chat, self._embed = region, chat, embed
        self._models, self._created = models, created

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self._on_chat),
            web.post("/v1/embeddings", self._on_embeddings),
            web.get("/v1/models", self._on_models),
            web.get("/v1/models/{model:.+}", self._on_model),
        ]

    async def _on_chat(self, http: web.Request) -> web.StreamResponse:
        ctx = context_of(http)
        request = settle(await decoded(wire.decode_chat, await read_body(http)), ctx.tenant)
        if not ctx.complexity and request.rag.complexity is not None:
            ctx = dataclasses.replace(ctx, complexity=request.rag.complexity.value)
        answer = await self._chat(ctx, request)
        answer.tap(lambda _: note_answer(ctx, answer.facts))
        async with answer:
            if request.stream:
                return await self._stream(http, ctx, request, answer)
            return await self._whole(ctx, request, answer)

    async def _whole(self, ctx: RequestContext, request: ChatRequest, answer: EventStream) -> web.Response:
        async with asyncio.timeout_at(ctx.deadline_s):
            events = [event async for event in answer]
        await answer.aclose()
        headers = fact_headers(answer.facts)
        headers["x-meridian-cost-usd"] = f"{answer.facts.cost_usd:.8f}"
        if request.mode is RagMode.OFF and events[0].raw is not None:
            return web.Response(body=events[0].raw, headers=headers, content_type="application/json")
        completion = await self._collected(events)
        completion["usage"] = wire.encode_usage(answer.facts.usage) if answer.facts.usage else None
        completion |= self._facts(ctx, answer.facts)
        return render.json_response(completion, headers=headers)

    async def _collected(self, events: Sequence[ChatEvent]) -> dict[str, Any]:
        if len(events) <= COLLECTED_ON_THE_LOOP:
            return wire.collect(events)
        return await asyncio.to_thread(wire.collect, events)

    async def _stream(
        self, http: web.Request, ctx: RequestContext, request: ChatRequest, answer: EventStream
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=fact_headers(answer.facts))
        response.content_type = "text/event-stream"
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
        response.headers["x-request-id"] = ctx.request_id
        response.headers["x-meridian-region"] = self._region
        await response.prepare(http)
        http[STARTED] = True
        tail = _Tail(request)
        try:
            async with asyncio.timeout_at(ctx.deadline_s):
                async for event in answer:
                    for ready in tail.feed(event):
                        await response.write(render_event(ready))
                await answer.aclose()
                facts = {} if request.mode is RagMode.OFF else self._facts(ctx, answer.facts)
                for chunk in tail.finish(facts):
                    await response.write(chunk)
                await response.write(sse.DONE)
        except (GatewayError, TimeoutError) as error:
            # The 200 is out: the failure can only be said inside the stream, and [DONE] stays away.
            failure = translate(error, http)
            http[FAILURE] = failure
            await response.write(sse.encode(msgspec.json.encode(render.openai_error(failure))))
        await response.write_eof()
        return response

    def _facts(self, ctx: RequestContext, facts: AnswerFacts) -> dict[str, Any]:
        """What only Meridian says of an answer, beside the dialect's own fields."""
        body: dict[str, Any] = {
            "meridian": {
                "request_id": ctx.request_id,
                "region": self._region,
                "replica": facts.replica,
                "model": facts.model,
                "ttft_ms": None if facts.ttft_s is None else round(facts.ttft_s * 1000, 1),
                "total_ms": round(ctx.elapsed_s() * 1000, 1),
                "cost_usd": round(facts.cost_usd, 8),
                "usage": wire.encode_usage(facts.usage) if facts.usage else None,
            }
        }
        if facts.degraded is not None:
            body["degraded"] = {"kind": facts.degraded.kind, "reason": facts.degraded.reason}
        return body

    async def _on_embeddings(self, http: web.Request) -> web.Response:
        request = await decoded(wire.decode_embeddings, await read_body(http))
        embedded = await self._embed(context_of(http), request)
        return render.json_response(
            wire.encode_embeddings(request.model, embedded.vectors, request.encoding, embedded.tokens)
        )

    async def _on_models(self, _: web.Request) -> web.Response:
        return render.json_response(wire.encode_models(self._models, self._created))

    async def _on_model(self, http: web.Request) -> web.Response:
        name = http.match_info["model"]
        if name not in self._models:
            raise NotFound(f"there is no model {name[:100]!r}", code="model_not_found", param="model")
        return render.json_response(wire.encode_model(name, self._created))


class _Tail:
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

    def finish(self, facts: dict[str, Any]) -> Sequence[bytes]:
        """The held events, rendered, with `facts` in the last."""
        if self._usage is not None and self._request.include_usage:
            self._held.append(self._usage)
        if not self._held:
            return ()
        *before, last = self._held
        if facts:
            last = ChatEvent(chunk={**last.chunk, **facts})
        return [render_event(event) for event in (*before, last)]


def _without_usage(event: ChatEvent) -> ChatEvent:
    chunk = {name: value for name, value in event.chunk.items() if name != "usage"}
    return dataclasses.replace(event, chunk=chunk, raw=None)


def render_event(event: ChatEvent) -> bytes:
    """The event's own bytes, or its chunk rendered anew when a stage made or changed it."""
    return event.raw if event.raw is not None else sse.encode(msgspec.json.encode(event.chunk))


def settle(request: ChatRequest, tenant: Tenant) -> ChatRequest:
    """The request with the tenant's defaults.

    A tenant without a default index gets the plain proxy for a plain call.
    Raises: BadRequest: it asks for retrieval and names no index, or for excerpts without retrieval.
    """
    rag, defaults = request.rag, tenant.defaults
    mode = defaults.mode
    if rag.index is None and defaults.index is None:
        options = (rag.namespace, rag.top_k, rag.filter, rag.min_score, rag.include_context)
        asks = rag.mode in (RagMode.AUTO, RagMode.SNIPPETS) or any(o is not None for o in options)
        if asks or (request.model == SNIPPETS and rag.mode is None):
            raise BadRequest("rag.index: this tenant has no default index, name one", param="rag.index")
        mode = RagMode.OFF
    settled = request.settled(mode=mode, degrade=defaults.degrade)
    if settled.mode is RagMode.OFF and request.model == SNIPPETS:
        raise BadRequest(
            "rag.mode: the model 'snippets' has nothing to cite when retrieval is off", param="rag.mode"
        )
    return settled


def fact_headers(facts: AnswerFacts) -> dict[str, str]:
    """What is known of an answer when its first content has come."""
    headers = {"x-meridian-model": facts.model, "x-meridian-cache": "off"}
    if facts.source is not None:
        headers |= render.source_headers(facts.source)
    if facts.degraded is not None:
        headers["x-meridian-degraded"] = f"{facts.degraded.kind}; reason={facts.degraded.reason}"
    return headers


def note_answer(ctx: RequestContext, facts: AnswerFacts) -> None:
    """Leave on the trail what the observer counts."""
    usage = facts.usage
    ctx.note(
        "answer",
        route=facts.route,
        model=facts.model,
        replica=facts.replica,
        ttft_s=facts.ttft_s,
        input_tokens=usage.input_tokens if usage else 0,
        output_tokens=usage.output_tokens if usage else 0,
        cost_usd=facts.cost_usd,
        degraded=f"{facts.degraded.kind}; reason={facts.degraded.reason}" if facts.degraded else "",
    )
