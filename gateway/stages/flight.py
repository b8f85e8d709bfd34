"""A flight: one call that several requests share. Each gets the whole answer, from its start, as it comes.

The call runs in a task of its own, so that whoever began it may leave: it goes on for the others. Only when
the last one leaves it is cancelled. What it cost is told to one of those who are there at its end, the
longest there, or to the last one that leaves: everything is billed, and once.

    state      on                     becomes, doing
    waiting    content                open: those who wait get their answers
    waiting    failure                over: all who wait get the failure
    open       end                    over: kept if it may be; who joins now gets all of it from the buffer
    open       failure                over: each gets it after what came before
    any        the last one leaves    over: the call is cancelled
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from gateway.cached_answer import CachedAnswer
from gateway.context import RequestContext, Trail
from gateway.errors import Overloaded
from gateway.messages import AnswerFacts, ChatEvent
from gateway.policies.cache_rules import Verdict
from gateway.policies.shared_buffer import SharedBuffer, Wait
from gateway.stream import EventStream

MAX_BYTES: Final = 1024 * 1024
"""Of an answer that can be joined; some 5,000 streamed tokens."""
LEAD_BYTES: Final = 64 * 1024
"""How far the call is read ahead of its fastest reader: as much as a connection holds by itself."""
_EVENT_BYTES: Final = 400
"""Of an event beside its text, when it was made here."""

Found = tuple[CachedAnswer, Verdict]
Ask = Callable[[RequestContext], Awaitable[EventStream | Found]]
"""Gives what is under way, or what was kept after all."""
Keep = Callable[[Sequence[ChatEvent], AnswerFacts], Awaitable[None]]


class Flight:
    """A call under way. `ctx` is its own: the first caller's, with a trail that is handed on at the end."""

    def __init__(
        self, ctx: RequestContext, *, max_bytes: int = MAX_BYTES, lead_bytes: int = LEAD_BYTES
    ) -> None:
        trace = ctx.trail.trace
        self.ctx = dataclasses.replace(ctx, trail=Trail(trace=trace))
        self._leader = None if trace is None else trace.root.as_parent()
        self.opened = asyncio.Event()
        self.facts: AnswerFacts | None = None
        self.found: Found | None = None
        self.failure: Exception | None = None
        self.is_over = False
        self._buffer: SharedBuffer[ChatEvent] = SharedBuffer(max_bytes=max_bytes, lead_bytes=lead_bytes)
        self._members: dict[int, RequestContext] = {}
        self._payer: int | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self, spawn: Callable[["Flight"], asyncio.Task[None]]) -> None:
        self._task = spawn(self)

    @property
    def can_be_joined(self) -> bool:
        return self.failure is None and self._buffer.is_whole and (bool(self._members) or self.is_over)

    async def run(self, ask: Ask, keep: Keep) -> None:
        """Make the call; put what comes where all can see it."""
        try:
            answer = await ask(self.ctx)
            if not isinstance(answer, EventStream):
                self.found = answer
                return
            self.facts = answer.facts
            async with answer:
                self.opened.set()
                async for event in answer:
                    while not self._buffer.wants_more:
                        await self._news.wait()
                    self._buffer.put(event, _size_of(event))
                    self._tell()
        except Exception as error:  # noqa: BLE001 - raised to every request that waits for this call
            self.failure = error
        finally:
            self._end()
        events = self._buffer.whole()
        if self.failure is None and events is not None and self.facts is not None:
            await keep(events, self.facts)

    # --- Those who share it ------------------------------------------------------------------

    def enter(self, ctx: RequestContext) -> int:
        """Take part; the number is the reader's."""
        member = self._buffer.join()
        self._members[member] = ctx
        trace = ctx.trail.trace
        if trace is not None and trace is not self.ctx.trail.trace:
            trace.root.link(self._leader)  # whose trace has the call that this one waits for
        self._tell()
        return member

    async def leave(self, member: int) -> None:
        """Have no more part in it; the last one to leave ends the call, and waits until it has ended."""
        ctx = self._members.pop(member, None)
        self._buffer.leave(member)
        self._tell()
        if ctx is None or self._members or self.is_over:
            return
        self.is_over = True
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
        finally:
            self._pay(member, ctx)

    def answer(self, member: int, facts: AnswerFacts) -> EventStream:
        """The answer of one who takes part; `facts` are its own, complete at the end."""

        async def close() -> None:
            await self.leave(member)

        return EventStream(facts, (), self._events(member, facts), close)

    async def _events(self, member: int, facts: AnswerFacts) -> AsyncIterator[ChatEvent]:
        while True:
            match self._buffer.next(member):
                case Wait.MORE:
                    await self._news.wait()
                case Wait.TOO_SLOW:
                    raise Overloaded("this reader fell too far behind an answer that it shares with others")
                case Wait.OVER:
                    break
                case event:
                    yield event
        self._settle(member, facts)
        if self.failure is not None:
            raise self.failure

    def _settle(self, member: int, facts: AnswerFacts) -> None:
        """What is known of the answer at its end. One pays; the others saved as much."""
        told = self.facts
        if told is None:
            return
        facts.usage, facts.annotations = told.usage, told.annotations
        if member == self._payer:
            facts.cost_usd = told.cost_usd
        else:
            facts.saved_usd = told.cost_usd

    def _end(self) -> None:
        self.is_over = True
        self._buffer.end()
        if self._members:
            member = next(iter(self._members))
            self._pay(member, self._members[member])
        self.opened.set()
        self._tell()

    def _pay(self, member: int, ctx: RequestContext) -> None:
        if self._payer is None:
            self._payer = member
            ctx.trail.take_over(self.ctx.trail)

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _size_of(event: ChatEvent) -> int:
    if event.raw is not None:
        return len(event.raw)
    return _EVENT_BYTES + len(event.content) + len(event.reasoning)
