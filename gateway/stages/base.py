"""Stage and Handler: what a pipeline is made of.

A stage gets the context, the request and the rest of the pipeline (`call_next`). It answers, changes
the request, or passes it on. It holds no neighbour, so an order is a list and is written down once,
in `gateway.pipelines`.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

from gateway.context import RequestContext
from gateway.messages import ChatRequest
from gateway.stream import EventStream

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

Handler: TypeAlias = Callable[[RequestContext, RequestT], Awaitable[AnswerT]]
"""The end of a pipeline, or all of it: context and request in, answer out."""

ChatHandler: TypeAlias = Handler[ChatRequest, EventStream]


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
