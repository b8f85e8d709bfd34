"""Pinecone's HTTP API as typed values: bodies of requests and answers, codes, headers, limits.

Pure. One definition serves the node (which answers), the replica client (which asks) and the gateway (which
does both). Requests refuse unknown fields, as Pinecone does; answers ignore them, so a newer Pinecone can
still be read. The vectors API writes camel case, the namespaces API and the control plane snake case.

Bodies hold `Record`, `Match` and `SparseVector` of `regions.records`; a query's body is `records.Query`.
Source: Pinecone's API reference, version 2026-07, and what SDK 10.2 sends and reads (FACTS, section 1).
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, Literal

import msgspec

from regions.records import Match, Metadata, Record, SparseVector

API_KEY_HEADER: Final = "Api-Key"
API_VERSION_HEADER: Final = "X-Pinecone-Api-Version"
API_VERSION: Final = "2026-07"
REQUEST_LSN_HEADER: Final = "x-pinecone-request-lsn"
"""On the answer to a write: the position it was given in its namespace."""
INDEXED_LSN_HEADER: Final = "x-pinecone-max-indexed-lsn"
"""On the answer to a read: the highest position that was visible to it."""
APPLY_HEADER: Final = "x-meridian-apply"
"""Ours, on a write to a node: the position that the namespace gets, unless it is past it already."""
INCARNATION_HEADER: Final = "x-meridian-incarnation"
"""Ours, on every answer about an index: another one stands for an index that was emptied or made anew."""
POSITION_HEADER: Final = "x-meridian-position"
"""Ours, on the 409 that refuses such a write: where the namespace is."""

MAX_UPSERT_RECORDS: Final = 1_000
MAX_BODY_BYTES: Final = 2 << 20
MAX_METADATA_BYTES: Final = 40 << 10
MAX_TOP_K: Final = 10_000
MAX_FETCH_IDS: Final = 1_000
MAX_DELETE_IDS: Final = 1_000
MAX_LIST_LIMIT: Final = 100
MAX_NAMESPACES_LIMIT: Final = 100
MAX_FETCH_BY_METADATA_LIMIT: Final = 10_000
DEFAULT_FETCH_BY_METADATA_LIMIT: Final = 100
MAX_ID_LENGTH: Final = 512
MAX_DIMENSION: Final = 20_000
MAX_SPARSE_NONZEROS: Final = 1_000

DENSE_FIELD: Final = "_values"
SPARSE_FIELD: Final = "_sparse_values"
"""What API 2026-07 calls the vector fields of an index that was created by dimension and metric."""

VectorType = Literal["dense", "sparse"]
Metric = Literal["cosine", "dotproduct", "euclidean"]
Protection = Literal["enabled", "disabled"]


class Code(IntEnum):
    """The gRPC codes that stand in data-plane errors."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class DataPlaneError(msgspec.Struct, frozen=True):
    """Body of a failed data-plane call; a missing or wrong key is answered with a bare string instead."""

    code: int
    message: str
    details: list[Any] = []


class ControlPlaneFault(msgspec.Struct, frozen=True):
    code: str
    message: str


class ControlPlaneError(msgspec.Struct, frozen=True):
    """Body of a failed control-plane call; `status` repeats the HTTP status."""

    error: ControlPlaneFault
    status: int


class Request(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    """Base of the vectors API's request bodies."""


class Answer(msgspec.Struct, frozen=True, rename="camel"):
    """Base of the vectors API's answers."""


class Empty(msgspec.Struct, frozen=True):
    """`{}`."""


class Usage(Answer, frozen=True):
    read_units: int = 0


class Pagination(Answer, frozen=True):
    next: str | None = None


class UpsertRequest(Request, frozen=True):
    """POST /vectors/upsert"""

    vectors: list[Record]
    namespace: str = ""


class UpsertAnswer(Answer, frozen=True):
    upserted_count: int


class QueryAnswer(Answer, frozen=True):
    """POST /query; the request is `regions.records.Query`."""

    matches: list[Match] = []
    namespace: str | None = ""
    usage: Usage | None = None


class FetchAnswer(Answer, frozen=True):
    """GET /vectors/fetch?ids=..&ids=..&namespace=.."""

    vectors: dict[str, Record] = {}
    namespace: str | None = ""
    usage: Usage | None = None


class FetchByMetadataRequest(Request, frozen=True):
    """POST /vectors/fetch_by_metadata"""

    filter: dict[str, Any] | None = None
    namespace: str = ""
    limit: int | None = None
    pagination_token: str | None = None


class FetchByMetadataAnswer(Answer, frozen=True, omit_defaults=True):
    vectors: dict[str, Record]
    namespace: str | None = ""
    usage: Usage | None = None
    pagination: Pagination | None = None


class UpdateRequest(Request, frozen=True):
    """POST /vectors/update: by `id`, or metadata only by `filter`; `dryRun` counts and changes nothing."""

    namespace: str = ""
    id: str | None = None
    filter: dict[str, Any] | None = None
    values: Sequence[float] | None = None
    sparse_values: SparseVector | None = None
    set_metadata: Metadata | None = None
    dry_run: bool = False


class UpdateAnswer(Answer, frozen=True, omit_defaults=True):
    matched_records: int | None = None


class DeleteRequest(Request, frozen=True):
    """POST /vectors/delete: exactly one of `ids`, `deleteAll`, `filter`; the answer is `{}`."""

    namespace: str = ""
    ids: list[str] | None = None
    delete_all: bool = False
    filter: dict[str, Any] | None = None


class ListedId(Answer, frozen=True):
    id: str


class ListAnswer(Answer, frozen=True, omit_defaults=True):
    """GET /vectors/list?namespace=..&prefix=..&limit=..&paginationToken=..; no pagination: the last page."""

    vectors: list[ListedId]
    namespace: str | None = ""
    usage: Usage | None = None
    pagination: Pagination | None = None


class StatsRequest(Request, frozen=True):
    """POST /describe_index_stats; serverless indexes refuse a filter."""

    filter: dict[str, Any] | None = None


class NamespaceCount(Answer, frozen=True):
    vector_count: int = 0


class StatsAnswer(Answer, frozen=True):
    namespaces: dict[str, NamespaceCount] = {}
    dimension: int | None = None
    index_fullness: float = 0.0
    total_vector_count: int = 0
    metric: str | None = None
    vector_type: str | None = None


class CreateNamespaceRequest(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """POST /namespaces; `schema` is `{"fields": {name: {"filterable": true}}}`."""

    name: str
    schema: dict[str, Any] | None = None


class IndexedFields(msgspec.Struct, frozen=True):
    fields: list[str] = []


class NamespaceAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """GET or POST of one namespace; `record_count` travels as a string (`count` reads it)."""

    name: str
    record_count: str | int
    schema: dict[str, Any] | None = None
    indexed_fields: IndexedFields | None = None
    size_bytes: str | int | None = None

    @property
    def count(self) -> int:
        return int(self.record_count)


class NamespacesAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """GET /namespaces?prefix=..&limit=..&paginationToken=.."""

    namespaces: list[NamespaceAnswer]
    pagination: Pagination | None = None
    total_count: int | None = None


class VectorField(msgspec.Struct, frozen=True, omit_defaults=True):
    """A field of an index's schema; only vector fields have a `type` that the node reads."""

    type: str | None = None
    dimension: int | None = None
    metric: str | None = None
    description: str | None = None
    filterable: bool | None = None


class IndexSchema(msgspec.Struct, frozen=True):
    fields: dict[str, VectorField] = {}


class CreateIndexRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """POST /indexes: API 2026-07 sends `schema` and `deployment`, older ones the fields below them."""

    name: str
    schema: IndexSchema | None = None
    deployment: dict[str, Any] | None = None
    read_capacity: dict[str, Any] | None = None
    deletion_protection: str | None = None
    tags: dict[str, str] | None = None
    dimension: int | None = None
    metric: str | None = None
    vector_type: str | None = None
    spec: dict[str, Any] | None = None


class ConfigureIndexRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """PATCH /indexes/{name}: a tag set to "" is removed; the vector fields cannot change."""

    deletion_protection: str | None = None
    tags: dict[str, str] | None = None
    read_capacity: dict[str, Any] | None = None
    schema: dict[str, Any] | None = None
    deployment: dict[str, Any] | None = None
    spec: dict[str, Any] | None = None


class IndexStatus(msgspec.Struct, frozen=True):
    ready: bool = True
    state: str = "Ready"


class IndexAnswer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An index as GET, POST and PATCH answer it.

    `schema` and `deployment` are what API 2026-07 reads; `dimension`, `metric`, `vector_type` and `spec`
    are what older clients read. All are sent.
    """

    name: str
    host: str
    schema: IndexSchema
    deployment: dict[str, Any]
    metric: str | None = None
    dimension: int | None = None
    vector_type: str | None = None
    spec: dict[str, Any] | None = None
    deletion_protection: str = msgspec.field(default_factory=lambda: "disabled")
    tags: dict[str, str] | None = None
    status: IndexStatus = msgspec.field(default_factory=lambda: IndexStatus())


class IndexesAnswer(msgspec.Struct, frozen=True):
    indexes: list[IndexAnswer]
