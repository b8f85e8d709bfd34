"""Stage and Handler: what a pipeline is made of.

A stage gets the context, the request and the rest of the pipeline (`call_next`). It answers, changes
the request, or passes it on. It holds no neighbour, so an order is a list and is written down once,
in `gateway.pipelines`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from gateway.context import RequestContext
from gateway.messages import ChatRequest
from gateway.routes import Upstream
from gateway.stream import EventStream

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

Handler: TypeAlias = Callable[[RequestContext, RequestT], Awaitable[AnswerT]]
"""The end of a pipeline, or all of it: context and request in, answer out."""

ChatHandler: TypeAlias = Handler[ChatRequest, EventStream]


@dataclass(frozen=True, slots=True)
class UpstreamCall:
    """One attempt to be made: what to ask whom, and until when. Times are absolute.

    `content_by_s`: no first content is waited for longer; `give_up_s`: nor is the end of an answer that
    `is_held` back until it is complete. `prompt_tokens` is None when nobody counted them.
    """

    request: ChatRequest
    upstream: Upstream
    content_by_s: float
    give_up_s: float
    is_held: bool
    prompt_tokens: int | None = None


UpstreamHandler: TypeAlias = Handler[UpstreamCall, EventStream]


class Stage(Protocol[RequestT, AnswerT]):
    """One layer of a pipeline."""

    async def __call__(
        self, ctx: RequestContext, request: RequestT, call_next: Handler[RequestT, AnswerT]
    ) -> AnswerT: ...


def compose(
    stages: Sequence[Stage[RequestT, AnswerT]], last: Handler[RequestT, AnswerT]
) -> Handler[RequestT, AnswerT]:
    """One handler out of stages, outermost first, around the one that answers."""
    handler = last
    for stage in reversed(stages):
        handler = _wrap(stage, handler)
    return handler


def _wrap(stage: Stage[RequestT, AnswerT], inner: Handler[RequestT, AnswerT]) -> Handler[RequestT, AnswerT]:
    async def handler(ctx: RequestContext, request: RequestT) -> AnswerT:
        return await stage(ctx, request, inner)

    return handler
