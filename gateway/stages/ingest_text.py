"""IngestText: text records -> vectors -> one write.

A record's text is embedded under the index's embedder and kept beside its vectors, with its hash and
the embedder's version. A record whose stored metadata is already exactly what would be written is
skipped, so that sending a corpus again costs a fetch and no embedding. Found by one fetch a batch.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config import IndexConfig
from gateway.context import RequestContext
from gateway.embedders.base import Embedder
from gateway.errors import BadRequest, ReplicaBehind
from gateway.ingest.content import content_hash, passage_text
from gateway.messages import Written
from gateway.policies.sparse import SparseEncoder
from gateway.stages import nearest_read
from gateway.stages.base import Handler
from gateway.stages.nearest_read import Read, Served
from gateway.wire.records import TextRecord
from regions.changes import Upsert, Write
from regions.names import NamespaceRef
from regions.positions import Lsn
from regions.record_checks import BadRecord, check_metadata
from regions.records import META_EMBEDDING, META_HASH, META_TEXT, Metadata, Record, SparseVector
from regions.replicas.base import Fetched

LatestHandler = Callable[[RequestContext, NamespaceRef], Awaitable[Lsn]]
ENCODED_ON_THE_LOOP: Final = 16_000
"""Characters of text; about 0.5 µs each."""

FetchHandler = Callable[[RequestContext, Read[Fetched]], Awaitable[Served[Fetched]]]


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Text records for one namespace; no id stands twice."""

    namespace: NamespaceRef
    records: Sequence[TextRecord]


@dataclass(frozen=True, slots=True)
class Ingested:
    """How many records were written, and how, and how many were there already."""

    count: int
    unchanged: int
    written: Written | None
    tokens: int


class IngestText:
    """Embed what is new and hand it to the write handler."""

    def __init__(
        self,
        *,
        indexes: Mapping[str, IndexConfig],
        embedders: Mapping[str, Embedder],
        sparse: SparseEncoder,
        read: FetchHandler,
        write: Handler[Write, Written],
        latest: LatestHandler,
    ) -> None:
        self._indexes, self._embedders, self._sparse = indexes, embedders, sparse
        self._read, self._write, self._latest = read, write, latest

    async def __call__(self, ctx: RequestContext, batch: TextBatch) -> Ingested:
        """Raises: BadRequest: metadata over the limit. Whatever embedder, read and write raise."""
        index = self._indexes[batch.namespace.index]
        embedder = self._embedders[index.embedder]
        wanted = {record.id: _stored_metadata(record, embedder.version) for record in batch.records}
        there, lsn = await self._there(ctx, batch.namespace, list(wanted))
        fresh = [record for record in batch.records if there.get(record.id) != wanted[record.id]]
        unchanged = len(batch.records) - len(fresh)
        if not fresh:
            return Ingested(0, unchanged, Written(lsn), 0)

        started_s = ctx.clock()
        texts = [passage_text(record.text, record.metadata) for record in fresh]
        embedded = await embedder.embed(texts, kind="passage", timeout_s=ctx.remaining_s())
        ctx.trail.took("embed", ctx.clock() - started_s)
        sparse = await self._sparse_of(texts) if index.sparse else [None] * len(texts)
        records = [
            # A text without a single word has no sparse part.
            Record(r.id, vector.tolist(), words if words and words.indices else None, wanted[r.id])
            for r, vector, words in zip(fresh, embedded.vectors, sparse, strict=True)
        ]
        written = await self._write(ctx, Write(batch.namespace, Upsert(records)))
        return Ingested(len(fresh), unchanged, written, embedded.tokens)

    async def _there(
        self, ctx: RequestContext, namespace: NamespaceRef, ids: Sequence[str]
    ) -> tuple[dict[str, Metadata | None], Lsn | None]:
        """The metadata of those records as of every acknowledged write, and its position.

        A replica that is behind may show what was overwritten since; when none has caught up in time,
        nothing is taken to be there, and everything is written.
        """
        read = nearest_read.fetch(namespace, ids, floor=await self._latest(ctx, namespace))
        try:
            served = await self._read(ctx, read)
        except ReplicaBehind:
            return {}, None
        return {id_: r.metadata for id_, r in served.value.records.items()}, served.source.lsn

    async def _sparse_of(self, texts: Sequence[str]) -> list[SparseVector]:
        if sum(map(len, texts)) <= ENCODED_ON_THE_LOOP:
            return [self._sparse.passage(text) for text in texts]
        encoder = self._sparse.fork()
        return await asyncio.to_thread(lambda: [encoder.passage(text) for text in texts])


def _stored_metadata(record: TextRecord, version: str) -> Metadata:
    """The tenant's fields and ours. Raises: BadRequest: together over Pinecone's 40 KB."""
    metadata: Metadata = {
        **record.metadata,
        META_TEXT: record.text,
        META_HASH: content_hash(record.text, record.metadata),
        META_EMBEDDING: version,
    }
    try:
        check_metadata(metadata)
    except BadRecord as error:
        raise BadRequest(f"Record {record.id!r}: {error} (its text counts as metadata)") from error
    return metadata
