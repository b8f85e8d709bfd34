"""Cite: check the markers of an answer against its passages; context in front, annotations at the end."""

import dataclasses
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
    """The edits of one answer, in the order of its events; every choice has its own text and markers."""

    def __init__(self, answer: EventStream, *, include_context: bool) -> None:
        self._facts = answer.facts
        self._passages = {p.number: p for p in self._facts.passages}
        self._filters: dict[int, MarkerFilter] = {}
        self._context_due = include_context

    def change(self, event: ChatEvent) -> Iterable[ChatEvent]:
        choices = event.chunk.get("choices") or ()
        edited = [self._edit(choice) for choice in choices]
        if all(after is before for after, before in zip(edited, choices, strict=True)):
            return (event,)
        content = "".join(choice.get("delta", {}).get("content") or "" for choice in edited)
        chunk = {**event.chunk, "choices": edited}
        return (dataclasses.replace(event, chunk=chunk, raw=None, content=content),)

    def _edit(self, choice: Mapping[str, Any]) -> Mapping[str, Any]:
        """The choice with its markers checked; the same object when nothing of it changes."""
        index, delta = choice.get("index", 0), choice.get("delta") or {}
        changed: dict[str, Any] = dict(delta)
        if self._context_due and index == 0:
            changed["context"] = context(self._facts.passages)
            self._context_due = False
        if index not in self._filters:
            self._filters[index] = MarkerFilter(self._passages)
        filter_ = self._filters[index]
        text = filter_.feed(delta.get("content") or "")
        if choice.get("finish_reason"):
            text += filter_.flush()
            found = annotations(filter_.citations, self._passages)
            if found:
                changed["annotations"] = found
            if index == 0:
                self._facts.annotations = found
        if text != (delta.get("content") or ""):
            changed["content"] = text
        return choice if changed == delta else {**choice, "delta": changed}


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
