"""Cite over answers of several choices and of other things than text."""

from typing import Any

from gateway.messages import AnswerFacts, ChatRequest, Passage, RagOptions
from gateway.stages.cite import Cite
from gateway.stream import EventStream
from gateway.wire.openai import decode_chunk
from tests.fakes.provider import chunk

PASSAGE = Passage(1, "a", "Text.", 0.9, "Title", "http://a")


async def cited(*chunks: bytes) -> list[dict[str, Any]]:
    events = [decode_chunk(raw[6:], raw) for raw in chunks]

    async def answer(_ctx: Any, _request: Any) -> EventStream:
        return EventStream(AnswerFacts("big", passages=[PASSAGE]), events)

    request = ChatRequest("big", (), {}, RagOptions(), stream=True, include_usage=False)
    stream = await Cite()(None, request, answer)  # type: ignore[arg-type]
    return [event.chunk async for event in stream]


def choice(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": {"content": text}, "finish_reason": finish}


async def test_choices_that_share_an_event_keep_their_own_texts_and_markers() -> None:
    chunks = await cited(
        chunk({}, choices=[choice(0, "One [1"), choice(1, "Two [")]),
        chunk({}, choices=[choice(1, "7].", "stop"), choice(0, "].", "stop")]),
    )
    texts = {0: "", 1: ""}
    for each in chunks:
        for part in each["choices"]:
            texts[part["index"]] += part["delta"]["content"]
    assert texts == {0: "One [1].", 1: "Two."}
    last = {part["index"]: part["delta"] for part in chunks[-1]["choices"]}
    assert "annotations" in last[0]
    assert "annotations" not in last[1]


async def test_a_refusal_is_relayed_as_it_came() -> None:
    refusal = chunk({"refusal": "I cannot [9 "})
    chunks = await cited(refusal, chunk({}, "stop"))
    assert chunks[0]["choices"][0]["delta"] == {"refusal": "I cannot [9 "}
