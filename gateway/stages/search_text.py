"""SearchText: records for a text, best first. What chat retrieval and records search share.

The text becomes a dense vector by the index's embedder and a sparse one by word stems; the index blends
both in one query (`policies.blend`). The two parts fail apart: when no endpoint of the embedder answers, the
search goes by words alone, and says so. Without words to go by (an index without sparse vectors, a question
of stop words), the embedder's failure is retrieval's.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.config import IndexConfig, RagConfig
from gateway.context import RequestContext
from gateway.embedders.base import Embedded, Embedder
from gateway.errors import Fault, GatewayError, Overloaded, RetrievalUnavailable
from gateway.messages import SPARSE_ONLY, Degraded, Source
from gateway.policies.blend import hybrid_query, sparse_query
from gateway.policies.sparse import SparseEncoder
from gateway.stages import nearest_read
from gateway.stages.nearest_read import Read, Served
from gateway.wire.reserved import check_filter
from regions.names import NamespaceRef
from regions.records import Match, Query, SparseVector
from regions.replicas.base import QueryResult

MAX_QUERY_CHARS: Final = 8_000
"""A question longer than this is searched by its beginning: the embedded model reads 256 tokens of it,
endpoints refuse beyond 8,000, and word stems are counted on the event loop (0.5 µs a character)."""

EMBED_SHARE: Final = 0.5
"""Of the time that is left, what embedding may take: search and answer need the rest."""

QueryHandler = Callable[[RequestContext, Read[QueryResult]], Awaitable[Served[QueryResult]]]


@dataclass(frozen=True, slots=True)
class Found:
    """Matches with their metadata, best first; where they were found, and the cost.

    `degraded` says how the search fell short of dense and sparse together.
    """

    matches: Sequence[Match]
    source: Source
    read_units: int
    tokens: int
    degraded: Degraded | None = None


class SearchText:
    """Embed a text and query the nearest replica."""

    def __init__(
        self,
        *,
        indexes: Mapping[str, IndexConfig],
        embedders: Mapping[str, Embedder],
        sparse: SparseEncoder,
        read: QueryHandler,
        rag: RagConfig,
    ) -> None:
        self._indexes, self._embedders, self._sparse, self._read = indexes, embedders, sparse, read
        self._rag = rag

    async def __call__(
        self,
        ctx: RequestContext,
        namespace: NamespaceRef,
        text: str,
        *,
        top_k: int,
        filter_: dict[str, Any] | None = None,
    ) -> Found:
        """Raises: BadRequest: the filter, or what the embedder refuses. RetrievalUnavailable: no replica
        answered, or no embedder, and the index cannot be searched by words.
        """
        check_filter(filter_)
        text = text[:MAX_QUERY_CHARS]
        index = self._indexes[namespace.index]
        sparse = self._sparse.query(text) if index.sparse else None
        try:
            embedded = await self._dense(ctx, index, text)
        except GatewayError as error:
            if error.fault is not Fault.UPSTREAM and not isinstance(error, Overloaded):
                raise
            ctx.note("embedder_unavailable", embedder=index.embedder, error=error.message)
            if sparse is None or not sparse.indices:
                raise RetrievalUnavailable(
                    f"the index {namespace.index} cannot be searched: its embedder does not answer",
                    retry_after_s=error.retry_after_s,
                    detail=error.message,
                ) from error
            return await self._by_words(ctx, namespace, sparse, top_k, filter_)
        vector, sparse_vector = hybrid_query(embedded.vectors[0].tolist(), sparse, self._rag.dense_weight)
        served = await self._query(ctx, namespace, vector, sparse_vector, top_k, filter_)
        return Found(served.value.matches, served.source, served.value.read_units, embedded.tokens)

    async def _by_words(
        self,
        ctx: RequestContext,
        namespace: NamespaceRef,
        sparse: SparseVector,
        top_k: int,
        filter_: dict[str, Any] | None,
    ) -> Found:
        """What shares a word with the question; nothing that does not, though the index would fill up."""
        index = self._indexes[namespace.index]
        vector, sparse_vector = sparse_query(index.dimension, sparse, self._rag.dense_weight)
        served = await self._query(ctx, namespace, vector, sparse_vector, top_k, filter_)
        matches = [match for match in served.value.matches if match.score > 0]
        return Found(matches, served.source, served.value.read_units, 0, SPARSE_ONLY)

    async def _query(
        self,
        ctx: RequestContext,
        namespace: NamespaceRef,
        vector: list[float],
        sparse_vector: SparseVector | None,
        top_k: int,
        filter_: dict[str, Any] | None,
    ) -> Served[QueryResult]:
        query = Query(
            top_k=top_k,
            vector=vector,
            sparse_vector=sparse_vector,
            filter=filter_ or None,
            include_metadata=True,
        )
        return await self._read(ctx, nearest_read.query(namespace, query))

    async def _dense(self, ctx: RequestContext, index: IndexConfig, text: str) -> Embedded:
        started_s = ctx.clock()
        try:
            return await self._embedders[index.embedder].embed(
                [text], kind="query", timeout_s=ctx.remaining_s() * EMBED_SHARE
            )
        finally:
            ctx.trail.took("embed", ctx.clock() - started_s)
