"""Pack: fit the passages into the model's window and put them, fenced, before the conversation."""

import asyncio
import dataclasses

import msgspec

from gateway.context import RequestContext
from gateway.messages import ChatRequest, RagMode
from gateway.policies import packing, tokens
from gateway.routes import Routes
from gateway.stages.base import ChatHandler
from gateway.stream import EventStream
from gateway.wire.openai import add_messages


class Pack:
    """Turn retrieved passages into a prompt."""

    def __init__(self, routes: Routes, *, answer_tokens: int, fence_key: bytes) -> None:
        self._routes, self._answer_tokens, self._fence_key = routes, answer_tokens, fence_key

    async def __call__(
        self, ctx: RequestContext, request: ChatRequest, call_next: ChatHandler
    ) -> EventStream:
        upstreams = self._routes.find(request.model).upstreams
        if request.mode is RagMode.OFF or not upstreams:
            return await call_next(ctx, request)
        started_s = ctx.clock()
        window = upstreams[0].card.window_tokens
        chars = sum(len(t.text) for t in request.turns) + sum(len(p.text) for p in request.passages)
        if chars > tokens.LONG_TEXT_CHARS:
            packed = await asyncio.to_thread(self._pack, request, window)
        else:
            packed = self._pack(request, window)
        ctx.trail.took("pack", ctx.clock() - started_s)
        ctx.note("packed", passages=len(packed.passages), tokens=packed.tokens)
        if not packed.passages:
            return await call_next(ctx, dataclasses.replace(request, passages=()))
        messages = add_messages(request.fields["messages"], [{"role": "system", "content": packed.system}])
        packed_request = request.with_passages(packed.passages).with_messages(msgspec.Raw(messages))
        return await call_next(ctx, packed_request)

    def _pack(self, request: ChatRequest, window_tokens: int) -> packing.Packed:
        return packing.pack(
            request.passages,
            used_tokens=packing.conversation_tokens(request.turns, tokens.count),
            window_tokens=window_tokens,
            answer_tokens=request.max_answer_tokens or self._answer_tokens,
            key=self._fence_key,
            count=tokens.count,
        )
