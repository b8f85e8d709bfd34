"""A pipeline that is replaced while it answers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.context import RequestContext
from gateway.errors import UpstreamUnavailable
from gateway.generations import Generation, Generations
from gateway.messages import AnswerFacts, ChatEvent, ChatRequest, RagOptions
from gateway.stream import EventStream
from gateway.tenants import Tenant


def context() -> RequestContext:
    clock = asyncio.get_running_loop().time
    return RequestContext(
        "r", Tenant(id="tenant0000000001", name="t"), "openai", clock(), clock() + 9, clock=clock
    )


REQUEST = ChatRequest("m", (), {}, RagOptions(), stream=True, include_usage=False)


class Model:
    """Answers with its name, then waits until it is told to end."""

    def __init__(self, name: str) -> None:
        self.name, self.go_on, self.is_closed = name, asyncio.Event(), asyncio.Event()

    def generation(self) -> Generation:
        async def close() -> None:
            self.is_closed.set()

        return Generation(self._answer, [self.name], close)

    async def _answer(self, _ctx: RequestContext, _request: ChatRequest) -> EventStream:
        async def rest() -> AsyncIterator[ChatEvent]:
            await self.go_on.wait()
            yield ChatEvent(chunk={}, content="end")

        return EventStream(AnswerFacts("m"), [ChatEvent(chunk={}, content=self.name)], rest())


async def test_an_answer_is_finished_by_the_generation_that_began_it_which_is_closed_after_that() -> None:
    old, new = Model("old"), Model("new")
    async with Generations(old.generation()).running() as chat:
        begun = await chat(context(), REQUEST)
        chat.replace(new.generation())
        assert chat.models == ["new"]
        later = await chat(context(), REQUEST)
        new.go_on.set()
        async with later:
            assert [event.content async for event in later] == ["new", "end"]
        assert not old.is_closed.is_set()
        old.go_on.set()
        async with begun:
            assert [event.content async for event in begun] == ["old", "end"]
        await asyncio.wait_for(old.is_closed.wait(), 1)
        assert not new.is_closed.is_set()
    assert new.is_closed.is_set()


async def test_a_generation_without_answers_is_closed_at_once() -> None:
    old, new = Model("old"), Model("new")
    async with Generations(old.generation()).running() as chat:
        chat.replace(new.generation())
        assert await asyncio.wait_for(old.is_closed.wait(), 1)
        assert not new.is_closed.is_set()


async def test_a_request_that_failed_holds_nothing_open() -> None:
    async def fail(_ctx: RequestContext, _request: ChatRequest) -> EventStream:
        raise UpstreamUnavailable("down")

    closed = asyncio.Event()

    async def close() -> None:
        closed.set()

    async with Generations(Generation(fail, [], close)).running() as chat:
        with pytest.raises(UpstreamUnavailable):
            await chat(context(), REQUEST)
        chat.replace(Model("new").generation())
        await asyncio.wait_for(closed.wait(), 1)
