"""FreshRead: ask the nearest replica that is fresh enough; the next one when it does not answer.

The end of every read pipeline of a gateway with `regions`. How fresh a replica is, is judged before it is
asked, by what its follower told (`regions.topology`): so the position in the answer's headers is one that
the answer surely holds. An index that is another one than its follower filled counts as one that did not
answer. Nobody fresh enough: wait briefly, ask the home's region how far it is, and then either take what is
too stale, when the tenant wants that, or refuse. Below the caller's floor nothing is ever read.

A replica whose breaker is open is passed over like one that did not answer.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Generic, TypeVar

from gateway.config import ReadsConfig
from gateway.context import RequestContext
from gateway.errors import BadRequest, ReplicaBehind, RetrievalUnavailable, Superseded
from gateway.messages import Source
from gateway.policies.breaker import Breaker, Breakers
from gateway.policies.guard import guarded
from gateway.stages.nearest_read import (
    Candidate,
    Read,
    Served,
    blame,
    breaker_of,
    left_alone,
    note_read,
    refusal,
    retrieval_span,
    tell_source,
    unavailable,
)
from regions.errors import EpochAhead, LogUnavailable, LsnSuperseded, ReplicaRejected, ReplicaUnavailable
from regions.live import Live
from regions.names import IndexName, RegionId
from regions.positions import NO_LSN, Lsn
from regions.replicas.base import Replica
from regions.selection import Bounds, Ranked, rank_index, rank_namespace
from regions.topology import Standing

T = TypeVar("T")

HOME_S: Final = 1.0
"""What asking the home's region how far it is may take."""


class FreshRead:
    """Read within the caller's bounds, from the nearest region that can."""

    def __init__(
        self,
        replicas: Mapping[IndexName, Sequence[Candidate]],
        live: Live,
        reads: ReadsConfig,
        breakers: Breakers | None = None,
    ) -> None:
        self._live, self._reads, self._breakers = live, reads, breakers or Breakers()
        self._replicas: Mapping[tuple[IndexName, RegionId], Replica] = {
            (index, each.region): each.replica for index, found in replicas.items() for each in found
        }

    async def __call__(self, ctx: RequestContext, read: Read[T]) -> Served[T]:
        """Raises: ReplicaBehind: none is fresh enough. RetrievalUnavailable: none answered. Superseded: the
        floor's epoch ended before it. BadRequest, NotFound, …: refused by a replica.
        """
        started_s = ctx.clock()
        reading = _Reading(ctx, read, self._live, self._reads, self._replicas, self._breakers)
        try:
            with retrieval_span(read) as span:
                served = await reading.answer()
                tell_source(span, served.source)
                return served
        finally:
            ctx.trail.took("retrieve", ctx.clock() - started_s)


class _Reading(Generic[T]):
    """One read on its way."""

    def __init__(
        self,
        ctx: RequestContext,
        read: Read[T],
        live: Live,
        reads: ReadsConfig,
        replicas: Mapping[tuple[IndexName, RegionId], Replica],
        breakers: Breakers,
    ) -> None:
        self._ctx, self._read, self._live, self._reads = ctx, read, live, reads
        self._replicas, self._breakers = replicas, breakers
        self._silent: dict[RegionId, ReplicaUnavailable] = {}
        self._bounds = Bounds(
            reads.max_staleness_s if ctx.max_staleness_s is None else ctx.max_staleness_s,
            _floor(ctx, read),
        )

    async def answer(self) -> Served[T]:
        await self._know_the_epoch()
        served = await self._try(self._ranked().fresh)
        if served is None and await self._wait():
            served = await self._try(self._ranked().fresh)
        if served is None and await self._ask_home():
            served = await self._try(self._ranked().fresh)
        if served is None and self._ctx.tenant.defaults.serve_stale:
            served = await self._try(self._ranked().stale, is_stale=True)
        if served is None:
            raise self._failure()
        return served

    def _ranked(self) -> Ranked:
        """Who may be asked now. Raises: Superseded."""
        topology, now_s, read = self._live.topology, self._ctx.clock(), self._read
        try:
            if read.namespace is None:
                return rank_index(topology, read.index, self._bounds, now_s, read.prefer)
            return rank_namespace(topology, read.namespace, self._bounds, now_s, read.prefer)
        except LsnSuperseded as error:
            raise Superseded(f"{error}; start again from what can be read now") from error
        except EpochAhead:
            return Ranked((), ())

    async def _try(self, standings: Sequence[Standing], *, is_stale: bool = False) -> Served[T] | None:
        """The first answer; None when nobody gave one."""
        left = [standing for standing in standings if standing.region not in self._silent]
        for place, standing in enumerate(left):
            breaker = self._breaker(standing)
            if (passed_over := left_alone(self._ctx, breaker, standing.region)) is not None:
                self._silent[standing.region] = passed_over
                continue
            # While there is another to ask, a silent one is not waited for to the end.
            others = sum(self._breaker(each).wait_s(self._ctx.clock()) == 0 for each in left[place + 1 :])
            share_s = self._ctx.remaining_s() / (1 + others)
            patience_s = min(share_s, self._reads.attempt_s) if others else share_s
            began_s = self._ctx.clock()
            replica = self._replicas[self._read.index, standing.region]
            try:
                with guarded(
                    breaker, self._ctx.clock, blame, patience_s=patience_s, fair_s=self._reads.attempt_s
                ):
                    value = await self._read.ask(replica, patience_s)
                    incarnation = replica.incarnation
                if not standing.is_of(incarnation):
                    # Emptied or made anew, and its follower has not noticed, or we have not heard of that.
                    raise ReplicaUnavailable(f"{incarnation} is not the index that was filled")
            except ReplicaUnavailable as error:
                self._ctx.note("replica_unavailable", region=standing.region, error=str(error))
                self._silent[standing.region] = error
            except ReplicaRejected as error:
                raise refusal(self._ctx, error) from error
            else:
                took_s = self._ctx.clock() - began_s
                self._live.took(self._read.index, standing.region, took_s)
                source = _source(standing, is_stale=is_stale)
                note_read(self._ctx, self._read.index, source, took_s)
                return Served(value, source)
        return None

    def _breaker(self, standing: Standing) -> Breaker:
        return breaker_of(self._breakers, self._read.index, standing.region)

    async def _wait(self) -> bool:
        """Give replicas a moment to become fresh enough; whether one did that did not fail us yet."""
        wait_s = min(self._reads.wait_s, self._ctx.remaining_s() / 2)
        return await self._live.until(lambda _: self._has_somebody(), wait_s)

    def _has_somebody(self) -> bool:
        return any(standing.region not in self._silent for standing in self._ranked().fresh)

    async def _ask_home(self) -> bool:
        """Ask the home's region itself how far it is: what it tells us by itself may be held up."""
        home, namespace = self._live.topology.homes.get(self._read.index), self._read.namespace
        if home is None or namespace is None or home.region in self._silent:
            return False
        try:
            await self._live.refresh_progress(
                home.region, namespace, timeout_s=min(HOME_S, self._ctx.remaining_s() / 2)
            )
        except LogUnavailable as error:
            self._ctx.note("home_unavailable", region=home.region, error=str(error))
            return False
        return self._has_somebody()

    async def _know_the_epoch(self) -> None:
        """A floor of an epoch that is not known here: perhaps we are the last to hear of it.

        Raises: Superseded: a majority of the regions does not know it either.
        """
        home = self._live.topology.homes.get(self._read.index)
        if self._read.namespace is None or home is None or self._bounds.floor >> 40 <= home.epoch:
            return
        try:
            await self._live.refresh(self._read.index, min(HOME_S, self._ctx.remaining_s() / 2))
        except LogUnavailable:
            return
        home = self._live.topology.homes[self._read.index]
        if self._bounds.floor >> 40 > home.epoch:
            raise Superseded(f"there is no epoch {self._bounds.floor >> 40} of the index {self._read.index}")

    def _failure(self) -> RetrievalUnavailable:
        if self._silent:
            return unavailable(self._read.index, list(self._silent.values()))
        ranked = self._ranked()
        if ranked.stale:
            age_s, bound_s = ranked.stale[0].staleness_s, self._bounds.max_staleness_s
            problem = f"the freshest replica may be {age_s:.1f} s old, and {bound_s:g} s are accepted"
        elif self._bounds.floor != NO_LSN:
            problem = f"no replica has come to position {self._bounds.floor}"
        else:
            problem = "no replica can be read"
        return ReplicaBehind(f"index {self._read.index}: {problem}", retry_after_s=1)


def _floor(ctx: RequestContext, read: Read[T]) -> Lsn:
    if read.namespace is None and ctx.floor != NO_LSN:
        raise BadRequest("x-meridian-min-lsn: a position is of one namespace; this call is about all of them")
    return max(ctx.floor, read.floor)


def _source(standing: Standing, *, is_stale: bool) -> Source:
    lsn = None if standing.lsn == NO_LSN else standing.lsn
    return Source(standing.region, lsn, standing.staleness_s, is_stale)
