"""A replica in memory: an index as Pinecone's semantics have it, for simulation and tests.

Whoever shares a `MemoryReplica` shares the index. What indexes differ in is a parameter:

* `remembers_positions`: it refuses what is older than a namespace's position and tells its incarnation (the
  node), or neither (Pinecone).
* `visible_after_s`: reads, and filters too, see a write only so much later, on `clock`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regions.changes import (
    Change,
    CreateNamespace,
    Delete,
    DeleteAll,
    DeleteByFilter,
    DropNamespace,
    Update,
    UpdateByFilter,
    Upsert,
)
from regions.errors import ReplicaAhead, ReplicaRejected
from regions.filters import compile_filter
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import NO_LSN, Lsn
from regions.record_checks import BadRecord, VectorShape, check_query
from regions.records import Match, Query, Record, patched
from regions.replicas.base import (
    Applied,
    Fetched,
    IdPage,
    IndexInfo,
    NamespaceInfo,
    NamespacePage,
    QueryResult,
)
from regions.runtime.lifecycle import wall_clock


class Config(BaseModel):
    """An index that is gone with its process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dimension: int = Field(384, gt=0, description="Numbers in a dense vector.")
    visible_after_s: float = Field(0.0, ge=0, description="How much later reads see a write.")


def build(
    config: Config, *, index: IndexName, region: RegionId, resolve: Callable[..., str]
) -> "MemoryReplica":
    """An empty index."""
    del region, resolve
    return MemoryReplica(
        index, wall_clock, dimension=config.dimension, visible_after_s=config.visible_after_s
    )


@dataclass(slots=True)
class _Namespace:
    records: dict[str, Record] = field(default_factory=dict)
    position: Lsn = NO_LSN
    written: int = 0
    visible: int = 0
    waiting: deque[tuple[float, int, Change]] = field(default_factory=deque)
    is_alive: bool = True
    schema: dict[str, Any] | None = None


class MemoryReplica:
    """`regions.replicas.base.Replica` in a dict."""

    def __init__(
        self,
        index: IndexName,
        clock: Callable[[], float],
        *,
        dimension: int = 2,
        visible_after_s: float = 0.0,
        remembers_positions: bool = True,
    ) -> None:
        self._index, self._clock, self._dimension = index, clock, dimension
        self.visible_after_s, self._remembers = visible_after_s, remembers_positions
        self._namespaces: dict[str, _Namespace] = {}
        self._incarnation = 1

    @property
    def index(self) -> IndexName:
        return self._index

    @property
    def incarnation(self) -> str | None:
        return str(self._incarnation) if self._remembers else None

    async def close(self) -> None:
        """What it holds stays, as in an index."""

    def wipe(self) -> None:
        """Lose everything, as an index that was deleted and made anew."""
        self._namespaces.clear()
        self._incarnation += 1

    def contents(self, stored: str) -> dict[str, Record]:
        """Every record, also those that reads do not see yet."""
        found = self._namespaces.get(stored)
        if found is None:
            return {}
        records = dict(found.records)
        for _, _, change in found.waiting:
            _change(records, change)
        return records

    # --- Writes ------------------------------------------------------------------------------

    async def apply(
        self, namespace: NamespaceRef, change: Change, *, timeout_s: float, position: Lsn | None = None
    ) -> Applied:
        found = self._namespaces.get(namespace.stored)
        if isinstance(change, CreateNamespace) and found is not None and found.is_alive:
            raise ReplicaRejected(409, 6, f"namespace {namespace.stored} exists already")
        if isinstance(change, DropNamespace) and (found is None or not found.is_alive):
            raise ReplicaRejected(404, 5, f"namespace {namespace.stored} not found")
        if found is None:
            found = self._namespaces[namespace.stored] = _Namespace(is_alive=False)
        if position is not None and self._remembers:
            if position < found.position:
                raise ReplicaAhead(found.position)
            found.position = position
        matched = None
        if isinstance(change, DeleteByFilter | UpdateByFilter):
            ids = self._matching(found, change.filter)
            matched = len(ids)
            changes = _by_id(change, ids)
        else:
            changes = [change]
        found.is_alive = found.is_alive or isinstance(change, Upsert | CreateNamespace)
        if isinstance(change, DropNamespace):
            found.is_alive = False
        found.written += 1
        for each in changes:
            found.waiting.append((self._clock() + self.visible_after_s, found.written, each))
        self._ripen(found)
        return Applied(Lsn(found.written), matched)

    async def count_matching(
        self, namespace: NamespaceRef, filter_: dict[str, Any], *, timeout_s: float
    ) -> Applied:
        found = self._seen(namespace)
        return Applied(Lsn(found.visible), len(self._matching(found, filter_)))

    # --- Reads -------------------------------------------------------------------------------

    async def query(self, namespace: NamespaceRef, query: Query, *, timeout_s: float) -> QueryResult:
        try:
            check_query(query, VectorShape(self._dimension, "dotproduct"))
        except BadRecord as error:
            raise ReplicaRejected(400, 3, str(error)) from error
        found = self._seen(namespace)
        tree = compile_filter(query.filter or {})
        matches = [
            Match(record.id, _score(record, query), record.values, record.sparse_values, record.metadata)
            for record in found.records.values()
            if tree.matches(record.metadata or {})
        ]
        matches.sort(key=lambda match: (-match.score, match.id))
        return QueryResult(matches[: query.top_k], Lsn(found.visible), 1)

    async def fetch(self, namespace: NamespaceRef, ids: Sequence[str], *, timeout_s: float) -> Fetched:
        found = self._seen(namespace)
        records = {id_: found.records[id_] for id_ in ids if id_ in found.records}
        return Fetched(records, Lsn(found.visible), 1)

    async def fetch_by_metadata(
        self,
        namespace: NamespaceRef,
        filter_: dict[str, Any],
        *,
        limit: int,
        token: str | None,
        timeout_s: float,
    ) -> Fetched:
        found = self._seen(namespace)
        ids = [id_ for id_ in self._matching(found, filter_) if id_ > (token or "")]
        records = {id_: found.records[id_] for id_ in ids[:limit]}
        return Fetched(records, Lsn(found.visible), 1, ids[limit - 1] if len(ids) > limit else None)

    async def list_ids(
        self, namespace: NamespaceRef, *, prefix: str, limit: int, token: str | None, timeout_s: float
    ) -> IdPage:
        found = self._seen(namespace)
        ids = sorted(id_ for id_ in found.records if id_.startswith(prefix) and id_ > (token or ""))
        return IdPage(ids[:limit], ids[limit - 1] if len(ids) > limit else None, 1)

    async def describe(self, *, timeout_s: float) -> IndexInfo:
        counts = [len(found.records) for found in self._all_seen().values()]
        return IndexInfo(self._dimension, "dotproduct", sum(counts))

    async def list_namespaces(
        self, *, prefix: str, limit: int, token: str | None, timeout_s: float
    ) -> NamespacePage:
        alive = [name for name, found in self._all_seen().items() if found.is_alive]
        names = sorted(name for name in alive if name.startswith(prefix))
        rest = [name for name in names if name > (token or "")]
        page = [self._info(name) for name in rest[:limit]]
        return NamespacePage(page, rest[limit - 1] if len(rest) > limit else None, len(names))

    async def describe_namespace(self, namespace: NamespaceRef, *, timeout_s: float) -> NamespaceInfo:
        found = self._namespaces.get(namespace.stored)
        if found is None or not found.is_alive:
            raise ReplicaRejected(404, 5, f"namespace {namespace.stored} not found")
        self._ripen(found)
        return self._info(namespace.stored)

    # --- Inside ------------------------------------------------------------------------------

    def _seen(self, namespace: NamespaceRef) -> _Namespace:
        found = self._namespaces.get(namespace.stored) or _Namespace()
        self._ripen(found)
        return found

    def _all_seen(self) -> dict[str, _Namespace]:
        for found in self._namespaces.values():
            self._ripen(found)
        return self._namespaces

    def _info(self, stored: str) -> NamespaceInfo:
        found = self._namespaces[stored]
        return NamespaceInfo(stored, len(found.records), schema=found.schema)

    def _matching(self, found: _Namespace, filter_: dict[str, Any]) -> list[str]:
        tree = compile_filter(filter_)
        return sorted(id_ for id_, record in found.records.items() if tree.matches(record.metadata or {}))

    def _ripen(self, found: _Namespace) -> None:
        """Let reads see what is due."""
        while found.waiting and found.waiting[0][0] <= self._clock():
            _, written, change = found.waiting.popleft()
            _change(found.records, change)
            found.visible = written
            if isinstance(change, CreateNamespace):
                found.schema = change.schema
        if not found.waiting:
            found.visible = found.written


def _by_id(change: DeleteByFilter | UpdateByFilter, ids: list[str]) -> list[Change]:
    if isinstance(change, DeleteByFilter):
        return [Delete(ids)]
    return [Update(id=id_, set_metadata=change.set_metadata) for id_ in ids]


def _change(records: dict[str, Record], change: Change) -> None:
    match change:
        case Upsert():
            records.update((record.id, record) for record in change.records)
        case Delete():
            for id_ in change.ids:
                records.pop(id_, None)
        case Update():
            if change.id in records:
                records[change.id] = patched(
                    records[change.id], change.values, change.sparse_values, change.set_metadata
                )
        case DeleteAll() | DropNamespace():
            records.clear()
        case _:
            pass  # a namespace that is made holds nothing yet, and filters were replaced by their ids


def _score(record: Record, query: Query) -> float:
    """Dot product of what both have."""
    return _dot(zip(record.values, query.vector or (), strict=False)) + _dot(_common(record, query))


def _common(record: Record, query: Query) -> Iterable[tuple[float, float]]:
    ours, theirs = record.sparse_values, query.sparse_vector
    if ours is None or theirs is None:
        return []
    weights = dict(zip(theirs.indices, theirs.values, strict=True))
    return [
        (value, weights[index])
        for index, value in zip(ours.indices, ours.values, strict=True)
        if index in weights
    ]


def _dot(pairs: Iterable[tuple[float, float]]) -> float:
    return sum(a * b for a, b in pairs)
