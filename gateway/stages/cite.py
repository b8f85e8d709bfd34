"""Cite: check the markers of an answer against its passages; context in front, annotations at the end."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.context import RequestContext
from gateway.messages import ChatEvent, ChatRequest, Passage
from gateway.policies.citations import Citation, MarkerFilter
from gateway.stages.base import ChatHandler
from gateway.stream import EventStream


class Cite:
    """Drop markers that point nowhere; say what the others point to, in OpenAI's and Azure's words.

    An event is rendered anew only when its text changed or something is added to it.
    """

    async def __call__(
        self, ctx: RequestContext, request: ChatRequest, call_next: ChatHandler
    ) -> EventStream:
        answer = await call_next(ctx, request)
        if not answer.facts.passages:
            return answer
        editor = _Editor(answer, include_context=bool(request.rag.include_context))
        return answer.map(editor.change)


class _Editor:
    """The edits of one answer, in the order of its events."""

    def __init__(self, answer: EventStream, *, include_context: bool) -> None:
        self._facts = answer.facts
        self._passages = {p.number: p for p in self._facts.passages}
        self._filter = MarkerFilter(self._passages)
        self._context_due = include_context

    def change(self, event: ChatEvent) -> Iterable[ChatEvent]:
        choices = event.chunk.get("choices")
        if not choices or choices[0].get("index", 0) != 0:
            return (event,)
        delta: dict[str, Any] = dict(choices[0].get("delta") or {})
        before = dict(delta)
        if self._context_due:
            delta["context"] = context(self._facts.passages)
            self._context_due = False
        text = self._filter.feed(event.content)
        if event.finish_reason is not None:
            text += self._filter.flush()
            self._facts.annotations = annotations(self._filter.citations, self._passages)
            if self._facts.annotations:
                delta["annotations"] = self._facts.annotations
        if text != event.content:
            delta["content"] = text
        if delta == before:
            return (event,)
        chunk = {**event.chunk, "choices": [{**choices[0], "delta": delta}, *choices[1:]]}
        return (ChatEvent(chunk, None, text, event.has_tool_call, event.finish_reason, event.usage),)


def annotations(citations: Sequence[Citation], passages: Mapping[int, Passage]) -> list[dict[str, Any]]:
    """OpenAI's `url_citation` annotations; the indexes are those of the marker in the answer's text."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "url": passages[c.number].url,
                "title": passages[c.number].title or passages[c.number].id,
                "start_index": c.start,
                "end_index": c.end,
            },
        }
        for c in citations
    ]


def context(passages: Sequence[Passage]) -> dict[str, Any]:
    """Azure's `message.context`: every passage the model was given, in the order of its numbers."""
    return {
        "citations": [
            {"content": p.text, "title": p.title or p.id, "url": p.url, "chunk_id": p.id} for p in passages
        ],
        "intent": "[]",
    }
