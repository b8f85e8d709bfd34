"""Retrieval: find the passages a question needs and pass on a request that holds them."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol
from urllib.parse import quote

from gateway.config import IndexConfig, RagConfig
from gateway.context import RequestContext
from gateway.errors import RetrievalUnavailable
from gateway.messages import STALE, ChatRequest, Degrade, Degraded, Passage, RagMode
from gateway.stages.base import ChatHandler
from gateway.stages.search_text import Found
from gateway.stream import EventStream
from gateway.wire.reserved import text_of
from regions.names import NamespaceRef
from regions.records import Match


class Search(Protocol):
    """Records for a text, best first."""

    async def __call__(
        self,
        ctx: RequestContext,
        namespace: NamespaceRef,
        text: str,
        *,
        top_k: int,
        filter_: dict[str, Any] | None = None,
    ) -> Found: ...


class Retrieval:
    """Embed the question, read the nearest replica, number the passages.

    Retrieval that is down is, by the tenant's choice, the caller's 503 or an ungrounded answer that
    says so.
    """

    def __init__(self, search: Search, indexes: Mapping[str, IndexConfig], rag: RagConfig) -> None:
        self._search, self._indexes, self._rag = search, indexes, rag

    async def __call__(
        self, ctx: RequestContext, request: ChatRequest, call_next: ChatHandler
    ) -> EventStream:
        if request.mode is RagMode.OFF or not request.question:
            return await call_next(ctx, request)
        try:
            passages, found = await self._passages(ctx, request)
        except RetrievalUnavailable as error:
            if ctx.tenant.defaults.retrieval_down is Degrade.NEVER:
                raise
            ctx.note("retrieval_down", error=error.message)
            answer = await call_next(ctx, request)
            answer.facts.degraded = answer.facts.degraded or Degraded("ungrounded", "retrieval_unavailable")
            return answer
        answer = await call_next(ctx, request.with_passages(passages))
        answer.facts.source = found.source
        fell_short = found.degraded or (STALE if found.source.is_stale else None)
        answer.facts.degraded = answer.facts.degraded or fell_short
        return answer

    async def _passages(self, ctx: RequestContext, request: ChatRequest) -> tuple[list[Passage], Found]:
        tenant, rag = ctx.tenant, request.rag
        index = tenant.index(rag.index, self._indexes)
        name = tenant.defaults.namespace if rag.namespace is None else rag.namespace
        found = await self._search(
            ctx,
            tenant.namespace(index, name),
            request.question,
            top_k=rag.top_k or tenant.defaults.top_k or self._rag.top_k,
            filter_=rag.filter,
        )
        kept = [m for m in found.matches if rag.min_score is None or m.score >= rag.min_score]
        text_field = self._indexes[index].text_field
        texts = [(match, passage_text(match, text_field)) for match in kept]
        passages = [
            passage(number, match, text, f"meridian://{index}/{quote(name, safe='')}")
            for number, (match, text) in enumerate(((m, t) for m, t in texts if t), start=1)
        ]
        ctx.note("retrieved", replica=found.source.region, matches=len(found.matches), passages=len(passages))
        return passages, found


def passage_text(match: Match, text_field: str) -> str:
    """The text of a record, as its tenant sees it; "" when it has none."""
    text = text_of(match.metadata or {}, text_field)
    return text if isinstance(text, str) else ""


def passage(number: int, match: Match, text: str, place: str) -> Passage:
    """A match as a numbered passage; without a URL of its own it gets one that names the record."""
    metadata = match.metadata or {}
    title = _first_text(metadata, ("title", "source"))
    url = _first_text(metadata, ("url", "source"), prefix="http")
    return Passage(number, match.id, text, match.score, title, url or f"{place}/{quote(match.id, safe='')}")


def _first_text(metadata: Mapping[str, Any], names: Collection[str], prefix: str = "") -> str | None:
    values = (metadata.get(name) for name in names)
    return next((v for v in values if isinstance(v, str) and v and v.startswith(prefix)), None)
