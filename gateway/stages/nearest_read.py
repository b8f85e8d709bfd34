"""NearestRead: ask one replica after the other until one answers. The end of every read pipeline.

A read is a value that knows how to ask a replica, so that this stage knows only *which* to ask. Only
`ReplicaUnavailable` moves on to the next; a refusal would be the same everywhere. A replica whose breaker is
open is passed over without being asked.

`NearestRead` is for a gateway that is configured without `regions`: candidates stand in configured order.
With `regions`, `fresh_read` takes its place, which knows how fresh and how near every replica is.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from gateway.context import RequestContext
from gateway.errors import BadRequest, Conflict, GatewayError, NotFound, RetrievalUnavailable
from gateway.messages import Source
from gateway.policies.breaker import Breaker, Breakers
from gateway.policies.guard import Blame, guarded
from regions.errors import ReplicaRejected, ReplicaUnavailable
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import NO_LSN, Lsn
from regions.records import Query
from regions.replicas.base import Fetched, IdPage, NamespaceInfo, NamespacePage, QueryResult, Replica
from regions.runtime import tracing
from regions.runtime.tracing import Attributes

T = TypeVar("T")

FAIR_S: Final = 2.0
"""A replica that is silent for less, because its caller had no more time, has not failed."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica and the region it is in."""

    region: RegionId
    replica: Replica


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """One question to an index: `ask(replica, timeout_s)`.

    `prefer` names the region to try first. `namespace` is what the question is about; None: the index as a
    whole. `floor` is a position that the answer must hold, whatever the caller's own floor.
    """

    index: IndexName
    ask: Callable[[Replica, float], Awaitable[T]]
    prefer: RegionId | None = None
    namespace: NamespaceRef | None = None
    floor: Lsn = NO_LSN


@dataclass(frozen=True, slots=True)
class Served(Generic[T]):
    """An answer and where it was given."""

    value: T
    source: Source

    @property
    def region(self) -> RegionId:
        return self.source.region


class NearestRead:
    """Read from the first candidate that answers within the deadline."""

    def __init__(
        self, replicas: Mapping[IndexName, Sequence[Candidate]], breakers: Breakers | None = None
    ) -> None:
        self._replicas, self._breakers = replicas, breakers or Breakers()

    async def __call__(self, ctx: RequestContext, read: Read[T]) -> Served[T]:
        """Raises: RetrievalUnavailable: no replica answered. BadRequest, NotFound, …: refused by one."""
        started_s = ctx.clock()
        try:
            with retrieval_span(read) as span:
                served = await self._first_answer(ctx, read)
                tell_source(span, served.source)
                return served
        finally:
            ctx.trail.took("retrieve", ctx.clock() - started_s)

    async def _first_answer(self, ctx: RequestContext, read: Read[T]) -> Served[T]:
        failures: list[ReplicaUnavailable] = []
        asked = [
            (each, breaker_of(self._breakers, read.index, each.region)) for each in self._candidates(read)
        ]
        for place, (candidate, breaker) in enumerate(asked):
            if (passed_over := left_alone(ctx, breaker, candidate.region)) is not None:
                failures.append(passed_over)
                continue
            # An even share of what is left, so that a silent replica leaves time for the others.
            others = sum(other.wait_s(ctx.clock()) == 0 for _, other in asked[place + 1 :])
            share_s = ctx.remaining_s() / (1 + others)
            began_s = ctx.clock()
            try:
                with guarded(breaker, ctx.clock, blame, patience_s=share_s, fair_s=FAIR_S):
                    value = await read.ask(candidate.replica, share_s)
                lsn = value.lsn if isinstance(value, QueryResult | Fetched) else None
                source = Source(candidate.region, lsn)
                note_read(ctx, read.index, source, ctx.clock() - began_s)
                return Served(value, source)
            except ReplicaUnavailable as error:
                ctx.note("replica_unavailable", region=candidate.region, error=str(error))
                failures.append(error)
            except ReplicaRejected as error:
                raise refusal(ctx, error) from error
        raise unavailable(read.index, failures) from (failures[-1] if failures else None)

    def _candidates(self, read: Read[Any]) -> Sequence[Candidate]:
        configured = self._replicas.get(read.index, ())
        return sorted(configured, key=lambda c: c.region != read.prefer) if read.prefer else configured


def retrieval_span(read: Read[Any]) -> tracing.span:
    """A span around everything that is done to have one read answered."""
    attributes: Attributes = {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.data_source.id": read.index,
    }
    if read.namespace is not None:
        attributes["db.namespace"] = read.namespace.stored
    return tracing.span(f"retrieval {read.index}", attributes=attributes)


def tell_source(span: tracing.Span | None, source: Source) -> None:
    """Say which replica answered, and how old what it said may be."""
    if span is None:
        return
    span.attributes["meridian.replica"] = source.region
    if source.lsn is not None:
        span.attributes["meridian.lsn"] = int(source.lsn)
    if source.staleness_s is not None:
        span.attributes["meridian.staleness_s"] = source.staleness_s
        span.attributes["meridian.is_stale"] = source.is_stale


def refusal(ctx: RequestContext, error: ReplicaRejected) -> GatewayError:
    """What a caller is told of a replica's refusal: it is about the request, so it is theirs.

    The index names namespaces as they are stored; the caller knows them without the tenant's prefix.
    """
    message = error.message.replace(ctx.tenant.prefix(), "")
    match error.status:
        case 404:
            return NotFound(message)
        case 409:
            return Conflict(message)
        case _:
            return BadRequest(message)


def unavailable(index: IndexName, failures: Sequence[ReplicaUnavailable]) -> RetrievalUnavailable:
    """What a caller is told when no replica answered; the replicas' own words stay in the log."""
    waits_s = [error.retry_after_s for error in failures if error.retry_after_s is not None]
    return RetrievalUnavailable(
        f"no replica of the index {index} answered", retry_after_s=min(waits_s, default=None)
    )


def note_read(ctx: RequestContext, index: IndexName, source: Source, took_s: float) -> None:
    """Leave on the trail which replica answered, how fast, and how stale it was."""
    known: dict[str, Any] = {} if source.lsn is None else {"lsn": source.lsn}
    if source.staleness_s is not None:
        known["staleness_ms"] = math.ceil(source.staleness_s * 1000)
    ctx.note("read", index=index, region=source.region, ms=round(took_s * 1000, 1), **known)


def breaker_of(breakers: Breakers, index: IndexName, region: RegionId) -> Breaker:
    """The breaker of an index's replica in a region, for reads."""
    return breakers.of(f"replica/{index}/{region}")


def left_alone(ctx: RequestContext, breaker: Breaker, region: RegionId) -> ReplicaUnavailable | None:
    """What stands for the answer of a replica that is not asked now; None: it may be asked."""
    wait_s = breaker.wait_s(ctx.clock())
    if wait_s == 0:
        return None
    ctx.note("replica_passed_over", region=region, wait_s=round(wait_s, 3))
    return ReplicaUnavailable(f"the replica in {region} is left alone", wait_s, may_land=False)


def blame(error: Exception) -> Blame:
    """A refusal is an answer; what it says is about the request."""
    match error:
        case ReplicaUnavailable():
            return Blame.DEPENDENCY
        case ReplicaRejected():
            return Blame.NOBODY
        case _:
            return Blame.CALLER


# --- The reads there are -------------------------------------------------------------------------


def query(namespace: NamespaceRef, query_: Query) -> Read[QueryResult]:
    return Read(
        namespace.index,
        lambda replica, left_s: replica.query(namespace, query_, timeout_s=left_s),
        namespace=namespace,
    )


def fetch(namespace: NamespaceRef, ids: Sequence[str], *, floor: Lsn = NO_LSN) -> Read[Fetched]:
    return Read(
        namespace.index,
        lambda replica, left_s: replica.fetch(namespace, ids, timeout_s=left_s),
        namespace=namespace,
        floor=floor,
    )


def fetch_by_metadata(
    namespace: NamespaceRef,
    filter_: dict[str, Any],
    *,
    limit: int,
    token: str | None,
    prefer: RegionId | None,
) -> Read[Fetched]:
    return Read(
        namespace.index,
        lambda replica, left_s: replica.fetch_by_metadata(
            namespace, filter_, limit=limit, token=token, timeout_s=left_s
        ),
        prefer,
        namespace,
    )


def list_ids(
    namespace: NamespaceRef, *, prefix: str, limit: int, token: str | None, prefer: RegionId | None
) -> Read[IdPage]:
    return Read(
        namespace.index,
        lambda replica, left_s: replica.list_ids(
            namespace, prefix=prefix, limit=limit, token=token, timeout_s=left_s
        ),
        prefer,
        namespace,
    )


def list_namespaces(
    index: IndexName, *, prefix: str, limit: int, token: str | None, prefer: RegionId | None
) -> Read[NamespacePage]:
    return Read(
        index,
        lambda replica, left_s: replica.list_namespaces(
            prefix=prefix, limit=limit, token=token, timeout_s=left_s
        ),
        prefer,
    )


def describe_namespace(namespace: NamespaceRef) -> Read[NamespaceInfo]:
    return Read(
        namespace.index,
        lambda replica, left_s: replica.describe_namespace(namespace, timeout_s=left_s),
        namespace=namespace,
    )


def count_matching(namespace: NamespaceRef, filter_: dict[str, Any]) -> Read[int]:
    """How many records an update by that filter would change."""

    async def ask(replica: Replica, left_s: float) -> int:
        return (await replica.count_matching(namespace, filter_, timeout_s=left_s)).matched or 0

    return Read(namespace.index, ask, namespace=namespace)
