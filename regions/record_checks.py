"""What a record, a query or a change must be before anyone stores it: Pinecone's limits, in its words.

Pure. The node checks at its door, and the gateway checks with the same functions before a write enters the
log, because a change that a replica refuses later would park its namespace.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from regions import pinecone_api as api
from regions.changes import Update
from regions.errors import RegionsError
from regions.filters import MAX_INTEGER
from regions.records import MetadataValue, Query, Record, SparseVector

MAX_FLOAT32: Final = 3.4028234663852886e38
MAX_INDEX: Final = (1 << 32) - 1


class BadRecord(RegionsError):
    """A value outside Pinecone's limits; the text is meant for the caller."""


class VectorShape(msgspec.Struct, frozen=True):
    """What an index holds: `dimension` None means sparse only."""

    dimension: int | None
    metric: str

    @property
    def takes_sparse(self) -> bool:
        return self.metric == "dotproduct"


def check_id(id_: str) -> None:
    """Raises: BadRecord: empty, longer than 512, not ASCII, or with a NUL."""
    if not 0 < len(id_) <= api.MAX_ID_LENGTH:
        raise BadRecord(f"Vector ID must be 1 to {api.MAX_ID_LENGTH} characters, got {len(id_)}")
    if not id_.isascii() or "\0" in id_:
        raise BadRecord(f"Vector ID must be ASCII without NUL, got {id_[:40]!r}")


def check_ids(ids: Sequence[str], limit: int) -> None:
    """Raises: BadRecord: no id, too many, or one that is none."""
    if not 0 < len(ids) <= limit:
        raise BadRecord(f"The number of ids must be 1 to {limit}, got {len(ids)}")
    for id_ in ids:
        check_id(id_)


def check_namespace(name: str) -> None:
    """Raises: BadRecord: longer than 512, not ASCII, or with a NUL; "" is the default namespace."""
    if len(name) > 512 or not name.isascii() or "\0" in name:
        raise BadRecord("Namespace must be at most 512 ASCII characters without NUL")


def check_metadata(metadata: Mapping[str, MetadataValue]) -> None:
    """Raises: BadRecord: a key that begins with "$", an integer beyond 64 bits, or over 40 KB as JSON."""
    for key, value in metadata.items():
        if key.startswith("$"):
            raise BadRecord(f"Metadata key must not begin with '$', got {key[:40]!r}")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise BadRecord(f"Metadata value for {key[:40]!r} does not fit into 64 bits")
    size = len(msgspec.json.encode(metadata))
    if size > api.MAX_METADATA_BYTES:
        limit = api.MAX_METADATA_BYTES
        raise BadRecord(f"Metadata size is {size} bytes, which exceeds the limit of {limit} bytes per vector")


def check_dense(values: Sequence[float], shape: VectorShape) -> None:
    """Raises: BadRecord: the wrong length or beyond float32. A query may be all zeros, a record may not."""
    if shape.dimension is None:
        raise BadRecord("Index is sparse: dense values are not allowed")
    if len(values) != shape.dimension:
        raise BadRecord(
            f"Vector dimension {len(values)} does not match the dimension of the index {shape.dimension}"
        )
    if max(values) > MAX_FLOAT32 or min(values) < -MAX_FLOAT32:
        raise BadRecord("Vector values must fit into 32-bit floats")


def check_stored_dense(values: Sequence[float], shape: VectorShape) -> None:
    """Raises: BadRecord: as `check_dense`, or all zeros."""
    check_dense(values, shape)
    if not any(values):
        raise BadRecord("Dense vectors must contain at least one non-zero value")


def check_sparse(sparse: SparseVector, shape: VectorShape) -> None:
    """Raises: BadRecord: unequal lists, none or over 1,000 entries, repeats, or out of range."""
    if not shape.takes_sparse:
        raise BadRecord(
            f"Index configuration does not support sparse values - only indexes that are sparse or using "
            f"dotproduct are supported, this index uses {shape.metric}"
        )
    if len(sparse.indices) != len(sparse.values):
        raise BadRecord("Sparse vector indices and values must have the same length")
    if not 0 < len(sparse.indices) <= api.MAX_SPARSE_NONZEROS:
        raise BadRecord(
            f"Sparse vector must contain 1 to {api.MAX_SPARSE_NONZEROS} values, got {len(sparse.indices)}"
        )
    if len(set(sparse.indices)) != len(sparse.indices):
        raise BadRecord("Sparse vector indices must not repeat")
    if min(sparse.indices) < 0 or max(sparse.indices) > MAX_INDEX:
        raise BadRecord("Sparse vector indices must be unsigned 32-bit integers")
    if max(map(abs, sparse.values)) > MAX_FLOAT32:
        raise BadRecord("Sparse vector values must fit into 32-bit floats")


def check_record(record: Record, shape: VectorShape) -> None:
    """Raises: BadRecord: some part of the record is outside the limits."""
    check_id(record.id)
    if shape.dimension is not None or record.values:
        check_stored_dense(record.values, shape)
    if record.sparse_values is not None:
        check_sparse(record.sparse_values, shape)
    elif shape.dimension is None:
        raise BadRecord("Sparse index: every vector must have sparse values")
    if record.metadata is not None:
        check_metadata(record.metadata)


def check_records(records: Sequence[Record], shape: VectorShape) -> None:
    """Raises: BadRecord: no record, more than 1,000, or one outside the limits."""
    if not 0 < len(records) <= api.MAX_UPSERT_RECORDS:
        raise BadRecord(
            f"The number of vectors must be 1 to {api.MAX_UPSERT_RECORDS} per upsert, got {len(records)}"
        )
    for record in records:
        check_record(record, shape)


def check_update(change: Update, shape: VectorShape) -> None:
    """Raises: BadRecord: the id or a part that would be written is outside the limits."""
    check_id(change.id)
    if change.values is not None:
        check_stored_dense(change.values, shape)
    if change.sparse_values is not None:
        check_sparse(change.sparse_values, shape)
    if change.set_metadata is not None:
        check_metadata(change.set_metadata)


def check_query(query: Query, shape: VectorShape) -> None:
    """Raises: BadRecord: a top_k outside 1..10,000, or not exactly one of an id and vectors that fit."""
    if not 1 <= query.top_k <= api.MAX_TOP_K:
        raise BadRecord(f"topK must be between 1 and {api.MAX_TOP_K}, got {query.top_k}")
    if query.id is not None:
        if query.vector is not None or query.sparse_vector is not None:
            raise BadRecord("Either a vector or an id can be queried, not both")
        check_id(query.id)
    elif query.vector is None and query.sparse_vector is None:
        raise BadRecord("One of vector, sparseVector and id must be given")
    if query.vector is not None:
        check_dense(query.vector, shape)
    if query.sparse_vector is not None:
        check_sparse(query.sparse_vector, shape)
