"""Pack: fit the passages into a model's window and put them, fenced, before the conversation."""

import asyncio
import dataclasses

import msgspec

from gateway.context import RequestContext
from gateway.errors import ContextTooLong
from gateway.messages import ChatRequest, RagMode
from gateway.policies import packing, tokens
from gateway.wire.openai import add_messages


@dataclasses.dataclass(frozen=True, slots=True)
class Fitted:
    """The request as an upstream is to get it; `tokens` counts its prompt, None: not counted."""

    request: ChatRequest
    tokens: int | None = None


class Pack:
    """Turns retrieved passages into prompts."""

    def __init__(self, *, answer_tokens: int, fence_key: bytes) -> None:
        self._answer_tokens, self._fence_key = answer_tokens, fence_key

    def begin(self, ctx: RequestContext, request: ChatRequest) -> "Packing":
        """One request's prompts."""
        return Packing(ctx, request, self._answer_tokens, self._fence_key)


class Packing:
    """One request's prompt in any window that is asked for; equal windows are fitted once.

    Long texts are counted off the event loop.
    """

    def __init__(
        self, ctx: RequestContext, request: ChatRequest, answer_tokens: int, fence_key: bytes
    ) -> None:
        self._ctx, self._request = ctx, request
        self._answer_tokens = request.max_answer_tokens or answer_tokens
        self._fence_key = fence_key
        self._chars = sum(len(t.text) for t in request.turns) + sum(len(p.text) for p in request.passages)
        self._conversation_tokens: int | None = None
        self._fitted: dict[int, Fitted | ContextTooLong] = {}

    @property
    def about_tokens(self) -> int:
        """The whole prompt's tokens at a glance: some four characters each."""
        return self._chars // 4

    async def tokens(self, window_tokens: int) -> int:
        """The prompt's tokens when fitted into that window; one more than it has when it does not fit."""
        try:
            fitted = await self.into(window_tokens)
        except ContextTooLong:
            return window_tokens + 1
        if fitted.tokens is not None:
            return fitted.tokens
        if self._chars > tokens.LONG_TEXT_CHARS:
            return await asyncio.to_thread(self._count)
        return self._count()

    async def into(self, window_tokens: int) -> Fitted:
        """The request, fitted. One that wants no retrieval is passed as it came, and not counted.

        Raises: ContextTooLong: the conversation alone leaves no room for the answer.
        """
        if self._request.mode is RagMode.OFF:
            return Fitted(self._request)
        if window_tokens not in self._fitted:
            self._fitted[window_tokens] = await self._timed(window_tokens)
        fitted = self._fitted[window_tokens]
        if isinstance(fitted, ContextTooLong):
            raise fitted
        return fitted

    async def _timed(self, window_tokens: int) -> Fitted | ContextTooLong:
        started_s = self._ctx.clock()
        try:
            if self._chars > tokens.LONG_TEXT_CHARS:
                packed = await asyncio.to_thread(self._pack, window_tokens)
            else:
                packed = self._pack(window_tokens)
        except ContextTooLong as error:
            return error
        finally:
            self._ctx.trail.took("pack", self._ctx.clock() - started_s)
        self._ctx.note("packed", passages=len(packed.passages), tokens=packed.tokens, window=window_tokens)
        return Fitted(_with(self._request, packed), packed.tokens)

    def _count(self) -> int:
        if self._conversation_tokens is None:
            self._conversation_tokens = packing.conversation_tokens(self._request.turns, tokens.count)
        return self._conversation_tokens

    def _pack(self, window_tokens: int) -> packing.Packed:
        return packing.pack(
            self._request.passages,
            used_tokens=self._count(),
            window_tokens=window_tokens,
            answer_tokens=self._answer_tokens,
            key=self._fence_key,
            count=tokens.count,
        )


def _with(request: ChatRequest, packed: packing.Packed) -> ChatRequest:
    if not packed.passages:
        return request.with_passages(())
    messages = add_messages(request.fields["messages"], [{"role": "system", "content": packed.system}])
    return request.with_passages(packed.passages).with_messages(msgspec.Raw(messages))
