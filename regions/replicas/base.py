"""What a replica can do, whatever index stands behind it.

A replica speaks of stored namespaces only (`NamespaceRef`) and knows no tenant. Every method may raise
`ReplicaUnavailable` (another replica may do) or `ReplicaRejected` (none will). `timeout_s` is what the
caller has left: the method gives up within it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from regions.changes import Change
from regions.names import IndexName, NamespaceRef
from regions.positions import Lsn
from regions.records import Match, Query, Record


class Applied(msgspec.Struct, frozen=True):
    """What a change did: its position in the index, and the records a filter matched (None: no filter)."""

    lsn: Lsn | None
    matched: int | None = None


class QueryResult(msgspec.Struct, frozen=True):
    """Matches, best first, and the highest position that was visible to them."""

    matches: list[Match]
    lsn: Lsn | None
    read_units: int


class Fetched(msgspec.Struct, frozen=True):
    """Records by id; ids that do not exist are absent."""

    records: dict[str, Record]
    lsn: Lsn | None
    read_units: int
    next_token: str | None = None


class IdPage(msgspec.Struct, frozen=True):
    """A page of ids in the index's own order; `next_token` is None on the last."""

    ids: list[str]
    next_token: str | None
    read_units: int


class NamespaceInfo(msgspec.Struct, frozen=True):
    """A stored namespace and how many records it holds."""

    stored: str
    record_count: int
    size_bytes: int | None = None
    schema: dict[str, Any] | None = None
    indexed_fields: list[str] | None = None


class NamespacePage(msgspec.Struct, frozen=True):
    """Namespaces whose stored name has the prefix asked for; `total_count` counts all of those."""

    namespaces: list[NamespaceInfo]
    next_token: str | None
    total_count: int | None


class IndexInfo(msgspec.Struct, frozen=True):
    """The index as a whole."""

    dimension: int
    metric: str
    total_record_count: int


class Replica(Protocol):
    """One copy of an index, in one region."""

    @property
    def index(self) -> IndexName: ...

    @property
    def incarnation(self) -> str | None:
        """Which index gave the latest answer: another one when it was emptied or made anew.

        Read it before anything else is awaited. None: indexes of this kind do not tell, as Pinecone's.
        """
        ...

    async def apply(
        self, namespace: NamespaceRef, change: Change, *, timeout_s: float, position: Lsn | None = None
    ) -> Applied:
        """Change the namespace; with `position`, only if it is not past that already, and then it is there.

        A change at the very position that the namespace has is applied (again). An index that remembers no
        positions ignores it: Pinecone does. Raises: ReplicaAhead: the namespace is past `position`.
        """
        ...

    async def count_matching(
        self, namespace: NamespaceRef, filter_: dict[str, Any], *, timeout_s: float
    ) -> Applied:
        """How many records an update by that filter would change (Pinecone's `dryRun`)."""
        ...

    async def query(self, namespace: NamespaceRef, query: Query, *, timeout_s: float) -> QueryResult:
        """`query.namespace` is ignored: `namespace` says where."""
        ...

    async def fetch(self, namespace: NamespaceRef, ids: Sequence[str], *, timeout_s: float) -> Fetched: ...

    async def fetch_by_metadata(
        self,
        namespace: NamespaceRef,
        filter_: dict[str, Any],
        *,
        limit: int,
        token: str | None,
        timeout_s: float,
    ) -> Fetched: ...

    async def list_ids(
        self, namespace: NamespaceRef, *, prefix: str, limit: int, token: str | None, timeout_s: float
    ) -> IdPage: ...

    async def describe(self, *, timeout_s: float) -> IndexInfo: ...

    async def list_namespaces(
        self, *, prefix: str, limit: int, token: str | None, timeout_s: float
    ) -> NamespacePage: ...

    async def describe_namespace(self, namespace: NamespaceRef, *, timeout_s: float) -> NamespaceInfo: ...

    async def close(self) -> None: ...
