"""Records, queries and matches: what a vector index holds and is asked.

Pure. The structs are frozen and their lists are never mutated; field names are the ones of Pinecone's
HTTP API in camel case, so that one definition serves the wire and the code.

Vectors: `values` is (dimension,) float32 written as JSON numbers; a sparse vector is parallel lists of
uint32 indices and float32 values, sorted or not, without repeats. The dense values of a record are a list, or
an ``array("f")`` where they come from a log: of a backlog most are written over before anyone looks at them,
and millions of floats in lists are what a garbage collector then walks through again and again.
"""

from array import array
from collections.abc import Sequence
from typing import Any, Final

import msgspec

MetadataValue = str | int | float | bool | list[str]
Metadata = dict[str, MetadataValue]

RESERVED_PREFIX: Final = "_m."
META_TEXT: Final = "_m.text"
META_HASH: Final = "_m.hash"
META_EMBEDDING: Final = "_m.embedding"


class SparseVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parallel `indices` (uint32) and `values` (float32)."""

    indices: list[int]
    values: list[float]


class Record(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    """A vector with its id and flat metadata."""

    id: str
    values: Sequence[float] = []
    sparse_values: SparseVector | None = None
    metadata: Metadata | None = None


class Query(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    """A nearest-neighbour query by dense and/or sparse vector, or by the id of a stored record.

    `filter` is Pinecone's metadata filter as decoded JSON; `regions.filters.compile_filter` reads it.
    """

    top_k: int
    vector: list[float] | None = None
    sparse_vector: SparseVector | None = None
    id: str | None = None
    filter: dict[str, Any] | None = None
    include_values: bool = False
    include_metadata: bool = False
    namespace: str = ""
    scan_factor: float | None = None
    max_candidates: int | None = None


class Match(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A record found, with its score: higher is better, except for euclidean distance."""

    id: str
    score: float
    values: Sequence[float] = []
    sparse_values: SparseVector | None = None
    metadata: Metadata | None = None


def jsonable(value: Any) -> Any:
    """What msgspec writes for a value it does not know, as its `enc_hook`. Raises: NotImplementedError."""
    if isinstance(value, array):
        return value.tolist()
    raise NotImplementedError(f"a {type(value).__name__} has no JSON")


def patched(
    record: Record, values: Sequence[float] | None, sparse: SparseVector | None, metadata: Metadata | None
) -> Record:
    """The record after a partial update: vectors are replaced whole, metadata is merged by key."""
    return msgspec.structs.replace(
        record,
        values=record.values if values is None else values,
        sparse_values=record.sparse_values if sparse is None else sparse,
        metadata={**(record.metadata or {}), **metadata} if metadata else record.metadata,
    )
