"""Attempt: one call of one upstream, let through by its breaker, timed and billed.

The answer opens at its first content event. One that is held back opens when it is complete: what breaks
before is a failed attempt like any other, and nobody has seen any of it.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.context import RequestContext
from gateway.errors import DeadlineExceeded, GatewayError, UpstreamProtocolError, UpstreamTimeout
from gateway.messages import ChatEvent, ChatRequest, RagMode, Usage
from gateway.policies.breaker import Breakers, BreakerTerms
from gateway.policies.health import Health
from gateway.policies.timers import Expired, Timers, Watch
from gateway.providers.base import ChatProvider, OpenedAnswer
from gateway.stages.base import UpstreamCall
from gateway.stages.metering import Metering, Record
from gateway.stream import EventStream
from gateway.wire.openai import encode_usage, open_choices
from regions.runtime.tracing import entered

MAX_HELD_BYTES: Final = 16 * 1024 * 1024
"""Of an answer that is held back. A streamed token takes some 200 bytes of frame, one with logprobs 2 KB."""
CHARS_A_TOKEN: Final = 4
LINGER_S: Final = 0.5
"""How long usage and [DONE] may take after the last finish_reason; providers send them in the same breath."""
_ENVELOPE: Final = ("id", "object", "created", "model")


class Attempt:
    """Ask one upstream. `timers` and `terms` are by route, by upstream are the breakers."""

    def __init__(
        self,
        providers: Mapping[str, ChatProvider],
        *,
        timers: Mapping[str, Timers],
        terms: Mapping[str, BreakerTerms],
        breakers: Breakers,
        health: Health,
        max_held_bytes: int = MAX_HELD_BYTES,
        record: Record | None = None,
    ) -> None:
        self._record = record
        self._providers, self._timers, self._terms = providers, timers, terms
        self._breakers, self._health = breakers, health
        self._max_held_bytes = max_held_bytes

    async def __call__(self, ctx: RequestContext, call: UpstreamCall) -> EventStream:
        """Raises: CircuitOpen: nothing was sent. GatewayError: whatever became of asking it."""
        name, route = call.upstream.name, call.request.model
        permit = self._breakers.of(name, self._terms.get(route)).admit(ctx.clock())
        meter = Metering(ctx, call, permit, self._health, self._record)
        try:
            self._health.asking(call.upstream, call.prompt_tokens or 0)
            return await self._answer(ctx, call, meter)
        except BaseException as error:
            meter.failed(error)
            await meter.settle()
            raise

    async def _answer(self, ctx: RequestContext, call: UpstreamCall, meter: Metering) -> EventStream:
        timers = self._timers.get(call.request.model, Timers())
        watch = Watch(timers, ctx.clock(), call.give_up_s if call.is_held else ctx.deadline_s)
        opened = await self._open(ctx, call, meter, timers)
        meter.opened(opened.limits)
        for event in opened.head:
            meter.count(event)
            _see(watch, event, ctx.clock())
        rest = _rest(ctx, call, opened, watch, meter)
        if call.is_held:
            try:
                events = await self._held(call.upstream.name, opened.head, rest)
            finally:
                await opened.close()
            await meter.settle()
            if not is_streamed(call.request) and events[0].usage is None and meter.facts.usage is not None:
                events = [with_usage(events[0], meter.facts.usage)]
            return EventStream(meter.facts, events)

        async def close() -> None:
            await opened.close()
            await meter.settle()

        return EventStream(meter.facts, opened.head, rest, close)

    async def _open(
        self, ctx: RequestContext, call: UpstreamCall, meter: Metering, timers: Timers
    ) -> OpenedAnswer:
        """The answer with its first content, or all of it when the caller wants plain JSON."""
        request, started_s, stream = call.request, ctx.clock(), is_streamed(call.request)
        # An answer in one piece has no first content of its own: it may be as silent as a stream may.
        silent_s = timers.first_content_s + (0.0 if stream else timers.gap_s)
        own_s = min(silent_s, timers.total_s)
        timeout_s = min(own_s, call.content_by_s - started_s)
        if timeout_s <= 0:
            raise DeadlineExceeded("the request's deadline passed before a model could be asked")
        try:
            with entered(None if meter.span is None else meter.span.span):
                return await self._providers[call.upstream.name].open(
                    request, stream=stream, timeout_s=timeout_s
                )
        except UpstreamTimeout as error:
            waited_s = ctx.clock() - started_s
            # A caller in a hurry must not open a breaker that others share.
            meter.failed(error, is_blamed=waited_s >= own_s)
            if ctx.clock() >= call.give_up_s:
                raise DeadlineExceeded(f"the request's deadline passed: {error.message}") from error
            raise

    async def _held(
        self, name: str, head: Sequence[ChatEvent], rest: AsyncIterator[ChatEvent]
    ) -> list[ChatEvent]:
        """The whole answer. Raises: UpstreamProtocolError: it is longer than may be held back."""
        events = list(head)
        size = sum(len(event.raw or b"") for event in head)
        async for event in rest:
            events.append(event)
            size += len(event.raw or b"")
            if size > self._max_held_bytes:
                raise UpstreamProtocolError(
                    f"{name}: its answer has more than the {self._max_held_bytes} bytes that are held back"
                )
        return events


def is_streamed(request: ChatRequest) -> bool:
    """Whether the upstream is asked for a stream: always, unless its JSON is handed on as it is."""
    return request.stream or request.mode is not RagMode.OFF


async def _rest(
    ctx: RequestContext, call: UpstreamCall, opened: OpenedAnswer, watch: Watch, meter: Metering
) -> AsyncIterator[ChatEvent]:
    """What follows the head, timed and counted; usage at its end when the provider did not say it."""
    try:
        last = opened.head[-1]
        async for event in _watched(ctx, call.upstream.name, opened, watch, call.request.choices):
            meter.count(event)
            last = event
            yield event
        if (usage := await meter.missing_usage()) is not None and is_streamed(call.request):
            yield usage_event(last, usage)
        meter.finished()
    except GatewayError as error:
        meter.failed(error)
        raise


async def _watched(
    ctx: RequestContext, name: str, opened: OpenedAnswer, watch: Watch, choices: int
) -> AsyncIterator[ChatEvent]:
    """The events after the head, until a clock runs out. Raises: UpstreamTimeout, DeadlineExceeded.

    Once every choice that was asked for is finished only usage can follow: it is not waited for long.
    """
    begun, unfinished = set[int](), set[int]()
    for event in opened.head:
        open_choices(event, unfinished, begun)
    while True:
        is_complete = len(begun) >= choices and not unfinished
        due_s = min(watch.due_s(), ctx.clock() + LINGER_S) if is_complete else watch.due_s()
        try:
            async with asyncio.timeout_at(due_s):
                event = await anext(opened.rest)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            if is_complete:
                return
            raise _late(name, watch.expired(ctx.clock()) or Expired.GAP) from error
        open_choices(event, unfinished, begun)
        _see(watch, event, ctx.clock())
        # Events that come without a pause let no timeout strike.
        if unfinished and (clock := watch.expired(ctx.clock())) is not None:
            raise _late(name, clock)
        given_s = ctx.clock()
        yield event
        watch.excuse(ctx.clock() - given_s)


def usage_event(last: ChatEvent, usage: Usage) -> ChatEvent:
    """The event with which a stream's `include_usage` ends, in the words of its `last` one."""
    chunk: dict[str, Any] = {name: last.chunk[name] for name in _ENVELOPE if name in last.chunk}
    return ChatEvent(chunk={**chunk, "choices": [], "usage": encode_usage(usage)}, usage=usage)


def with_usage(event: ChatEvent, usage: Usage) -> ChatEvent:
    """An answer in one piece with the usage that it lacks."""
    chunk = {**event.chunk, "usage": encode_usage(usage)}
    return dataclasses.replace(event, chunk=chunk, raw=msgspec.json.encode(chunk), usage=usage)


def _see(watch: Watch, event: ChatEvent, now_s: float) -> None:
    if event.is_content:
        watch.saw(now_s, max(1, len(event.content + event.reasoning) // CHARS_A_TOKEN))


def _late(name: str, clock: Expired) -> GatewayError:
    if clock is Expired.DEADLINE:
        return DeadlineExceeded("the request's deadline passed inside its answer")
    return UpstreamTimeout(f"{name}: too slow inside its answer ({clock.value})")
