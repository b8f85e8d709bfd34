from collections.abc import AsyncIterator, Iterable

import pytest

from gateway.errors import UpstreamUnavailable
from gateway.messages import AnswerFacts, ChatEvent
from gateway.stream import EventStream


def event(text: str) -> ChatEvent:
    return ChatEvent(chunk={}, content=text)


async def texts(stream: EventStream) -> list[str]:
    return [e.content async for e in stream]


async def following(*items: str, error: Exception | None = None) -> AsyncIterator[ChatEvent]:
    for item in items:
        yield event(item)
    if error is not None:
        raise error


async def test_head_comes_before_rest_and_changes_apply_in_order() -> None:
    def double(e: ChatEvent) -> Iterable[ChatEvent]:
        return (e, event(e.content.upper()))

    def drop_b(e: ChatEvent) -> Iterable[ChatEvent]:
        return () if e.content == "B" else (e,)

    stream = EventStream(AnswerFacts("m"), [event("a")], following("b")).map(double).map(drop_b)
    assert await texts(stream) == ["a", "A", "b"]


async def test_what_a_stage_holds_back_comes_out_at_the_end_through_the_later_ones() -> None:
    held: list[ChatEvent] = []

    def hold(e: ChatEvent) -> Iterable[ChatEvent]:
        held.append(e)
        return ()

    def upper(e: ChatEvent) -> Iterable[ChatEvent]:
        return (event(e.content.upper()),)

    stream = EventStream(AnswerFacts("m"), [event("a"), event("b")]).map(hold, lambda: held).map(upper)
    assert await texts(stream) == ["A", "B"]


async def test_it_closes_once_and_tells_how_it_ended() -> None:
    closed: list[str] = []
    ends: list[BaseException | None] = []

    async def close() -> None:
        closed.append("closed")

    error = UpstreamUnavailable("cut")
    stream = EventStream(AnswerFacts("m"), [event("a")], following(error=error), close).tap(ends.append)
    with pytest.raises(UpstreamUnavailable):
        async with stream:
            await texts(stream)
    await stream.aclose()
    assert closed == ["closed"]
    assert ends == [error]


async def test_a_stream_that_was_never_read_still_closes() -> None:
    closed: list[str] = []

    async def close() -> None:
        closed.append("closed")

    async with EventStream(AnswerFacts("m"), [], following("a"), close):
        pass
    assert closed == ["closed"]
