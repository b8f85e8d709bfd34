"""AppendWrite: append a change to the log of its index's home; answer when it is on disk there.

The end of the write pipeline of a gateway with `regions`. What it never does: say that a write is durable
when nobody knows. An append whose answer was lost is a `WriteOutcomeUnknown`. A log that failed too often
is left alone by its breaker: then nothing is written, and the caller is told so at once.

`matchedRecords` of an update by filter: what it will match is found out by the home's replicator, after this
answer. So it is counted just before, at the nearest fresh replica, and the answer says at which position
(`x-meridian-counted-lsn`); when that fails it is left out, and the write goes on.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager

from gateway.config import WritesConfig
from gateway.context import RequestContext
from gateway.errors import BadRequest, CircuitOpen, GatewayError, HomeUnavailable, WriteOutcomeUnknown
from gateway.messages import Written
from gateway.policies.breaker import Breakers
from gateway.policies.guard import Blame, guarded
from gateway.stages import nearest_read
from gateway.stages.nearest_read import Read, Served
from regions import change_codec
from regions.changes import Body, Change, UpdateByFilter, Write
from regions.errors import AppendUnknown, LogError, LogUnavailable, StaleEpoch
from regions.fences import Fences
from regions.live import Live
from regions.logs.base import Append
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import Lsn, make_lsn
from regions.runtime import tracing
from regions.runtime.tracing import Kind
from regions.topology import Home, Topology, shard_of

CountHandler = Callable[[RequestContext, Read[int]], Awaitable[Served[int]]]


class AppendWrite:
    """Append under the index's fence; on a stale epoch, look who is home now and try once more."""

    def __init__(
        self,
        live: Live,
        fences: Fences,
        read: CountHandler,
        writes: WritesConfig,
        breakers: Breakers | None = None,
    ) -> None:
        self._live, self._fences, self._read, self._writes = live, fences, read, writes
        self._breakers = breakers or Breakers()

    async def __call__(self, ctx: RequestContext, write: Write) -> Written:
        """Raises: HomeUnavailable: certainly not written. WriteOutcomeUnknown: perhaps written.
        BadRequest: a change that no log takes, or an ack that cannot be given.
        """
        started_s, namespace = ctx.clock(), write.namespace
        awaited = self._awaited(ctx, namespace.index)
        parts = _parts(write.change)
        matched, counted_at = await self._count(ctx, write)
        try:
            with tracing.span(f"append {namespace.index}", Kind.PRODUCER) as span:
                trace = "" if span is None else span.as_parent().header()
                batch = [Append(namespace.stored, part, trace) for part in parts]
                lsn = await self._append(ctx, namespace, batch)
                if span is not None:
                    span.attributes |= _told(namespace, parts, lsn)
        finally:
            ctx.trail.took("append", ctx.clock() - started_s)
        acked = await self._wait(ctx, namespace, lsn, awaited) if awaited is not None else None
        return Written(lsn, matched, counted_at, acked)

    async def latest(self, ctx: RequestContext, namespace: NamespaceRef) -> Lsn:
        """A position at or after every write of the namespace that was acknowledged until now.

        Raises: HomeUnavailable.
        """
        home = self._home(ctx, namespace.index)
        log, timeout_s = self._live.logs[home.region], min(self._writes.append_s, ctx.remaining_s())
        try:
            with self._guarded(ctx, home.region, timeout_s):
                state = await log.state(shard_of(namespace, log.shards), timeout_s=timeout_s)
        except (LogError, CircuitOpen) as error:
            raise self._unavailable(
                ctx, error, f"the home of the index {namespace.index} cannot be reached"
            ) from error
        return make_lsn(home.epoch, state.last)

    async def _append(self, ctx: RequestContext, namespace: NamespaceRef, batch: Sequence[Append]) -> Lsn:
        try:
            return await self._append_once(ctx, namespace, batch)
        except StaleEpoch as error:
            ctx.note("stale_epoch", error=str(error))
        try:
            await self._learn_home(ctx, namespace.index)
            return await self._append_once(ctx, namespace, batch)
        except (StaleEpoch, LogUnavailable) as error:
            raise HomeUnavailable(
                f"the index {namespace.index} is on its way to another home", retry_after_s=1
            ) from error

    async def _append_once(
        self, ctx: RequestContext, namespace: NamespaceRef, batch: Sequence[Append]
    ) -> Lsn:
        index, timeout_s = namespace.index, min(self._writes.append_s, ctx.remaining_s())
        home = self._home(ctx, index)
        try:
            with self._guarded(ctx, home.region, timeout_s):
                tracing.note({"meridian.home": home.region})
                fence, log = await self._fences.fence(index, timeout_s=timeout_s)
                left_s = min(timeout_s, ctx.remaining_s())
                lsns = await log.append(fence, shard_of(namespace, log.shards), batch, timeout_s=left_s)
        except StaleEpoch:
            self._fences.forget(index)
            raise
        except AppendUnknown as error:
            ctx.note("append_unknown", error=str(error))
            raise WriteOutcomeUnknown(
                f"the home of the index {index} did not say whether it took the write: read, then decide"
            ) from error
        except (LogError, CircuitOpen) as error:
            raise self._unavailable(
                ctx, error, f"the home of the index {index} takes no writes now; nothing was written"
            ) from error
        return lsns[-1]

    def _home(self, ctx: RequestContext, index: IndexName) -> Home:
        home = self._live.topology.homes.get(index)
        if home is None:
            error = LogUnavailable(f"the home of {index} is not known yet")
            raise self._unavailable(ctx, error, f"the home of the index {index} cannot be reached") from error
        return home

    def _guarded(
        self, ctx: RequestContext, region: RegionId, timeout_s: float
    ) -> AbstractContextManager[None]:
        breaker = self._breakers.of(f"log/{region}")
        return guarded(breaker, ctx.clock, _blame, patience_s=timeout_s, fair_s=self._writes.append_s)

    def _unavailable(self, ctx: RequestContext, error: Exception, message: str) -> HomeUnavailable:
        ctx.note("home_unavailable", error=str(error))
        wait_s = error.retry_after_s if isinstance(error, CircuitOpen) else None
        return HomeUnavailable(message, retry_after_s=wait_s or 1)

    async def _learn_home(self, ctx: RequestContext, index: IndexName) -> None:
        """Look who is home now; in the middle of a promotion, wait for it to be decided.

        Raises: LogUnavailable: too few regions can be asked.
        """
        before = self._live.topology.homes[index].epoch
        wait_s = min(self._writes.move_s, ctx.remaining_s() / 2)
        await self._live.refresh(index, timeout_s=max(wait_s, 0.1))
        await self._live.until(lambda topology: topology.homes[index].epoch > before, wait_s)

    async def _count(self, ctx: RequestContext, write: Write) -> tuple[int | None, Lsn | None]:
        if not isinstance(write.change, UpdateByFilter):
            return None, None
        try:
            served = await self._read(ctx, nearest_read.count_matching(write.namespace, write.change.filter))
        except GatewayError as error:
            ctx.note("not_counted", error=error.message)
            return None, None
        return served.value, served.source.lsn

    # --- Acknowledgements --------------------------------------------------------------------

    def _awaited(self, ctx: RequestContext, index: IndexName) -> RegionId | None:
        """Whose replica the caller waits for: ours for "applied", the home's when we have none."""
        if not ctx.ack:
            return None
        topology = self._live.topology
        replicas = topology.replicas.get(index, ())
        if ctx.ack == "applied":
            home = topology.homes.get(index)
            return topology.here if topology.here in replicas or home is None else home.region
        region = RegionId(ctx.ack.removeprefix("region="))
        if region not in replicas:
            raise BadRequest(f"x-meridian-ack: the index {index} has no replica in {region[:40]!r}")
        return region

    async def _wait(self, ctx: RequestContext, namespace: NamespaceRef, lsn: Lsn, region: RegionId) -> str:
        """What can be said of the write when the wait is over. It ends early enough to be answered."""

        def has_come(topology: Topology) -> bool:
            standing = topology.standing(namespace, region, ctx.clock())
            return standing.is_readable and standing.lsn >= lsn

        left_s = max(0.0, ctx.deadline_s - ctx.clock()) * 0.9
        return ctx.ack if await self._live.until(has_come, left_s) else "durable"


def _told(namespace: NamespaceRef, parts: Sequence[Body], lsn: Lsn) -> tracing.Attributes:
    return {
        "db.collection.name": namespace.index,
        "db.namespace": namespace.stored,
        "db.operation.name": type(parts[0]).__name__.lower(),
        "meridian.lsn": int(lsn),
        "meridian.entries": len(parts),
    }


def _blame(error: Exception) -> Blame:
    """A fence that is too old is an answer. A log that is another one than it was is an operator's matter."""
    match error:
        case LogUnavailable() | AppendUnknown():
            return Blame.DEPENDENCY
        case StaleEpoch():
            return Blame.NOBODY
        case _:
            return Blame.CALLER


def _parts(change: Change) -> Sequence[Body]:
    try:
        return change_codec.split(change)
    except ValueError as error:
        raise BadRequest(f"the change is too large for the log: {error}") from error
