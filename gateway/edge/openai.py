"""The OpenAI dialect on the tenants' port: chat, embeddings, models."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiohttp import web

from gateway.allowances import Operation
from gateway.context import RequestContext
from gateway.edge import facts, render
from gateway.edge.server import context_of, decoded, granted, read_body
from gateway.edge.streaming import ChatStreams
from gateway.embedders.base import Embedded
from gateway.errors import BadRequest, NotFound
from gateway.messages import ChatEvent, ChatRequest, EmbedRequest, RagMode
from gateway.routes import SNIPPETS
from gateway.stages.base import ChatHandler, Handler
from gateway.stream import EventStream
from gateway.tenants import Tenant
from gateway.wire import openai as wire

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
        models: Callable[[], Sequence[str]],
        created: int,
        keepalive_s: float,
    ) -> None:
        self._region, self._chat, self._embed = region, chat, embed
        self._streams = ChatStreams(region=region, chat=chat, keepalive_s=keepalive_s)
        self._models, self._created = models, created

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", granted(Operation.CHAT, self._on_chat)),
            web.post("/v1/embeddings", granted(Operation.CHAT, self._on_embeddings)),
            web.get("/v1/models", self._on_models),
            web.get("/v1/models/{model:.+}", self._on_model),
        ]

    async def _on_chat(self, http: web.Request) -> web.StreamResponse:
        ctx = context_of(http)
        request = settle(await decoded(wire.decode_chat, await read_body(http)), ctx.tenant)
        if not ctx.complexity and request.rag.complexity is not None:
            ctx = dataclasses.replace(ctx, complexity=request.rag.complexity.value)
        if request.stream:
            return await self._streams.answer(http, ctx, request)
        answer = await self._chat(ctx, request)
        answer.tap(lambda _: facts.leave_note(ctx, answer.facts))
        async with answer:
            return await self._whole(ctx, request, answer)

    async def _whole(self, ctx: RequestContext, request: ChatRequest, answer: EventStream) -> web.Response:
        async with asyncio.timeout_at(ctx.deadline_s):
            events = [event async for event in answer]
        await answer.aclose()
        headers = facts.headers(answer.facts)
        headers["x-meridian-cost-usd"] = f"{answer.facts.cost_usd:.8f}"
        if request.mode is RagMode.OFF and events[0].raw is not None:
            return web.Response(body=events[0].raw, headers=headers, content_type="application/json")
        completion = await self._collected(events)
        completion["usage"] = wire.encode_usage(answer.facts.usage) if answer.facts.usage else None
        completion |= facts.fields(
            self._region, ctx, answer.facts, include_receipt=bool(request.rag.include_receipt)
        )
        return render.json_response(completion, headers=headers)

    async def _collected(self, events: Sequence[ChatEvent]) -> dict[str, Any]:
        if len(events) <= COLLECTED_ON_THE_LOOP:
            return wire.collect(events)
        return await asyncio.to_thread(wire.collect, events)

    async def _on_embeddings(self, http: web.Request) -> web.Response:
        request = await decoded(wire.decode_embeddings, await read_body(http))
        context_of(http).tenant.check_model(request.model)
        embedded = await self._embed(context_of(http), request)
        return render.json_response(
            wire.encode_embeddings(request.model, embedded.vectors, request.encoding, embedded.tokens)
        )

    async def _on_models(self, http: web.Request) -> web.Response:
        return render.json_response(wire.encode_models(self._granted(http), self._created))

    def _granted(self, http: web.Request) -> Sequence[str]:
        grants = context_of(http).tenant.grants
        return [name for name in self._models() if name == SNIPPETS or grants.allows("models", name)]

    async def _on_model(self, http: web.Request) -> web.Response:
        name = http.match_info["model"]
        if name not in self._granted(http):
            raise NotFound(f"there is no model {name[:100]!r}", code="model_not_found", param="model")
        return render.json_response(wire.encode_model(name, self._created))


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
