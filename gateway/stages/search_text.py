"""SearchText: records for a text, best first. What chat retrieval and records search share.

The text becomes a dense vector by the index's embedder and a sparse one by word stems; the index blends
both in one query (`policies.blend`). The two parts fail apart: `_dense` is the seam at which a dead
embedder turns into sparse-only retrieval.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.config import IndexConfig, RagConfig
from gateway.context import RequestContext
from gateway.embedders.base import Embedder
from gateway.messages import Source
from gateway.policies.blend import hybrid_query
from gateway.policies.sparse import SparseEncoder
from gateway.stages import nearest_read
from gateway.stages.nearest_read import Read, Served
from gateway.wire.reserved import check_filter
from regions.names import NamespaceRef
from regions.records import Match, Query
from regions.replicas.base import QueryResult

MAX_QUERY_CHARS: Final = 8_000
"""A question longer than this is searched by its beginning: the embedded model reads 256 tokens of it,
endpoints refuse beyond 8,000, and word stems are counted on the event loop (0.5 µs a character)."""

QueryHandler = Callable[[RequestContext, Read[QueryResult]], Awaitable[Served[QueryResult]]]


@dataclass(frozen=True, slots=True)
class Found:
    """Matches with their metadata, best first; where they were found, and the cost."""

    matches: Sequence[Match]
    source: Source
    read_units: int
    tokens: int


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
        """Raises: BadRequest: the filter. RetrievalUnavailable; whatever the embedder raises."""
        check_filter(filter_)
        text = text[:MAX_QUERY_CHARS]
        index = self._indexes[namespace.index]
        dense, tokens = await self._dense(ctx, index, text)
        sparse = self._sparse.query(text) if index.sparse else None
        vector, sparse_vector = hybrid_query(dense, sparse, self._rag.dense_weight)
        query = Query(
            top_k=top_k,
            vector=vector,
            sparse_vector=sparse_vector,
            filter=filter_ or None,
            include_metadata=True,
        )
        served = await self._read(ctx, nearest_read.query(namespace, query))
        result = served.value
        return Found(result.matches, served.source, result.read_units, tokens)

    async def _dense(self, ctx: RequestContext, index: IndexConfig, text: str) -> tuple[list[float], int]:
        started_s = ctx.clock()
        embedder = self._embedders[index.embedder]
        embedded = await embedder.embed([text], kind="query", timeout_s=ctx.remaining_s())
        ctx.trail.took("embed", ctx.clock() - started_s)
        return embedded.vectors[0].tolist(), embedded.tokens
