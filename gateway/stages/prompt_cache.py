"""PromptCache: a question that was answered before, or is being answered now, is not asked again.

Before retrieval, so that a hit costs one look at where its namespace stands: no embedding, query or model.
What the caller's key may name is checked first, also for whoever joins an answer under way.

    found, the namespace unchanged             given out: hit
    found, changed, within max_staleness_s     given out: stale; a new answer is made behind it
    not found, the same under way              shared: coalesced
    else                                       asked for: miss, kept when it is whole and nobody's excuse

Without a word on where the namespace stands (its replica is down) nothing is given out and nothing kept.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from gateway.cache_control import FRESH
from gateway.cached_answer import CachedAnswer
from gateway.caches.base import Cache, Place
from gateway.config import IndexConfig
from gateway.context import RequestContext, Trail
from gateway.errors import DeadlineExceeded
from gateway.messages import AnswerFacts, ChatEvent, ChatRequest, Source
from gateway.policies import cache_rules
from gateway.policies.backoff import Rng
from gateway.policies.cache_key import Scope, Unkeyable, cache_key, fingerprint
from gateway.policies.cache_rules import NOWHERE, Position, Verdict
from gateway.stages.base import ChatHandler
from gateway.stages.flight import Flight, Found
from gateway.stages.positions import Positions
from gateway.stream import EventStream
from gateway.wire import cached_answers
from regions.names import NamespaceRef, RegionId

JITTER_RATIO: Final = 0.1
SEEN_KEPT: Final = 10_000

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Tiers:
    """Where answers are kept, nearest first. One for the process, whatever models come and go."""

    def __init__(
        self, caches: Sequence[Cache], *, wall_clock: Callable[[], float], rng: Rng, secret: bytes
    ) -> None:
        self.caches, self.wall_clock, self.rng, self.secret = caches, wall_clock, rng, secret
        self._seen_fresh_s: dict[str, float] = {}

    async def find(
        self, place: Place, judge: Callable[[CachedAnswer, float], Verdict], *, is_near: bool
    ) -> Found | None:
        """The first answer that may be given out, and as what."""
        stale: CachedAnswer | None = None
        for number, cache in enumerate(self.caches):
            if is_near and cache.is_shared:
                continue
            data = await cache.get(place)
            answer = None if data is None else cached_answers.decode(data)
            if data is None or answer is None:
                continue
            match judge(answer, self._seen_fresh_s.get(place.key, 0.0)):
                case Verdict.FRESH:
                    self._saw_fresh(place)
                    for nearer in self.caches[:number]:
                        left_s = answer.made_s + answer.ttl_s - self.wall_clock()
                        await nearer.put(place, data, ttl_s=left_s)
                    return answer, Verdict.FRESH
                case Verdict.STALE:
                    stale = stale or answer
        return None if stale is None else (stale, Verdict.STALE)

    async def keep(self, place: Place, answer: CachedAnswer) -> None:
        data = cached_answers.encode(answer)
        for cache in self.caches:
            await cache.put(place, data, ttl_s=answer.ttl_s)

    def _saw_fresh(self, place: Place) -> None:
        self._seen_fresh_s[place.key] = self.wall_clock()
        if len(self._seen_fresh_s) > SEEN_KEPT:
            self._seen_fresh_s.pop(next(iter(self._seen_fresh_s)))


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """One request that the cache has to do with."""

    request: ChatRequest
    place: Place
    position: Position
    is_retrieving: bool
    made_s: float

    def flight_key(self, ctx: RequestContext) -> tuple[object, ...]:
        """The same for all who can share a call: what they ask, of what, and how it is handed over."""
        where = (self.position.generation, self.position.unchanged_since)
        return (self.place, *where, self.request.stream, ctx.is_whole)


class PromptCache:
    """One generation's: `routes` are fingerprints of its models, by alias; `retrieval` of each index's."""

    def __init__(
        self,
        tiers: Tiers,
        positions: Positions,
        *,
        indexes: Mapping[str, IndexConfig],
        routes: Mapping[str, str],
        retrieval: Mapping[str, str],
        default_top_k: int,
        spawn: Spawn,
    ) -> None:
        self._tiers, self._positions, self._indexes = tiers, positions, indexes
        self._routes, self._retrieval, self._top_k = routes, retrieval, default_top_k
        self._spawn = spawn
        self._flights: dict[tuple[object, ...], Flight] = {}

    async def __call__(
        self, ctx: RequestContext, request: ChatRequest, call_next: ChatHandler
    ) -> EventStream:
        why = cache_rules.bypass(request, ctx.tenant.cache, ctx.cache)
        if why is not None:
            return await call_next(ctx, request)
        began_s = ctx.clock()
        asked = await self._asked(ctx, request)
        if asked is None:
            return await call_next(ctx, request)
        found = None if ctx.cache.is_fresh_wanted else await self._find(ctx, asked, is_near=True)
        ctx.trail.took("cache", ctx.clock() - began_s)
        if found is None:
            return await self._share(ctx, asked, call_next)
        return self._give(ctx, asked, found, call_next)

    def _give(self, ctx: RequestContext, asked: _Asked, found: Found, call_next: ChatHandler) -> EventStream:
        answer, verdict = found
        if verdict is Verdict.STALE:
            self._spawn(self._renew(ctx, asked, call_next))
        return self._replay(ctx, asked, answer, verdict)

    async def _asked(self, ctx: RequestContext, request: ChatRequest) -> _Asked | None:
        """None: it has no key, or nobody says where its namespace stands.

        Raises: BadRequest, Forbidden, NotFound: the caller may not retrieve there.
        """
        made_s = self._tiers.wall_clock()
        if not cache_rules.is_retrieving(request):
            place = self._place(ctx, request, None)
            return None if place is None else _Asked(request, place, NOWHERE, False, made_s)
        namespace = self._namespace(ctx, request)
        place = self._place(ctx, request, namespace)
        position = None if place is None else await self._positions.look(ctx, namespace)
        if place is None or position is None:
            return None
        return _Asked(request, place, position, True, made_s)

    def _namespace(self, ctx: RequestContext, request: ChatRequest) -> NamespaceRef:
        rag, tenant = request.rag, ctx.tenant
        index = tenant.index(rag.index, self._indexes)
        return tenant.namespace(index, tenant.defaults.namespace if rag.namespace is None else rag.namespace)

    def _place(
        self, ctx: RequestContext, request: ChatRequest, namespace: NamespaceRef | None
    ) -> Place | None:
        rag, tenant = request.rag, ctx.tenant
        scope = Scope(
            tenant.id,
            fingerprint(tenant.grants.model_dump(mode="json")),
            self._routes.get(request.model, ""),
            request.mode.value,
            ctx.complexity,
        )
        if namespace is not None:
            scope = dataclasses.replace(
                scope,
                retrieval=self._retrieval[namespace.index],
                index=namespace.index,
                namespace=namespace.stored,
                top_k=rag.top_k or tenant.defaults.top_k or self._top_k,
                filter=rag.filter,
                min_score=rag.min_score,
                include_context=bool(rag.include_context),
            )
        try:
            return Place(tenant.id, cache_key(request.fields, scope, self._tiers.secret))
        except Unkeyable:
            return None

    async def _find(self, ctx: RequestContext, asked: _Asked, *, is_near: bool = False) -> Found | None:
        """What may be given out; `is_near`: of what is kept in this process."""
        reader = cache_rules.reader(ctx.tenant.cache, ctx.cache, ctx.max_staleness_s, ctx.floor)
        now_s = self._tiers.wall_clock()
        return await self._tiers.find(
            asked.place,
            lambda answer, seen_s: cache_rules.judge(
                answer, asked.position, reader, now_s=now_s, seen_fresh_s=seen_s
            ),
            is_near=is_near,
        )

    # --- Nothing was found -------------------------------------------------------------------

    async def _share(self, ctx: RequestContext, asked: _Asked, call_next: ChatHandler) -> EventStream:
        """Join the same question under way, or begin it. Raises: what the call raises."""
        while True:
            flight, is_first = self._flight(ctx, asked, call_next)
            member = flight.enter(ctx)
            try:
                async with asyncio.timeout_at(ctx.deadline_s):
                    await flight.opened.wait()
            except BaseException:
                await flight.leave(member)
                raise
            if flight.failure is None and flight.facts is not None:
                break
            await flight.leave(member)
            if flight.found is not None:
                return self._give(ctx, asked, flight.found, call_next)
            if not is_first and isinstance(flight.failure, DeadlineExceeded) and ctx.remaining_s() > 0:
                continue  # it was the other's deadline
            raise flight.failure or DeadlineExceeded("the call that this request shared was given up")
        told = flight.facts
        facts = dataclasses.replace(told, cache="miss" if is_first else "coalesced", cost_usd=0.0, usage=None)
        facts.ttft_s = ctx.elapsed_s()
        return flight.answer(member, facts)

    def _flight(self, ctx: RequestContext, asked: _Asked, call_next: ChatHandler) -> tuple[Flight, bool]:
        key = asked.flight_key(ctx)
        known = self._flights.get(key)
        if known is not None and known.can_be_joined and not known.is_over and not ctx.cache.is_fresh_wanted:
            return known, False
        flight = Flight(ctx)
        self._flights[key] = flight

        async def ask(own: RequestContext) -> EventStream | Found:
            # Also here, where all wait for it once: it may be kept elsewhere, or only just have been.
            found = None if own.cache.is_fresh_wanted else await self._find(own, asked)
            return await call_next(own, asked.request) if found is None else found

        async def run() -> None:
            try:
                await flight.run(
                    ask,
                    lambda events, facts: self._keep(ctx, asked, events, facts),
                )
            finally:
                if self._flights.get(key) is flight:
                    del self._flights[key]

        flight.begin(lambda _: self._spawn(run()))
        return flight, True

    async def _renew(self, ctx: RequestContext, asked: _Asked, call_next: ChatHandler) -> None:
        """Make the answer anew, for those who come later; what fails is made by one of them."""
        if asked.flight_key(ctx) in self._flights:
            return
        allowed_s = ctx.deadline_s - ctx.started_s
        own = dataclasses.replace(
            ctx, trail=Trail(), started_s=ctx.clock(), deadline_s=ctx.clock() + allowed_s, cache=FRESH
        )
        flight, _ = self._flight(own, asked, call_next)
        member = flight.enter(own)
        try:
            async with asyncio.timeout_at(own.deadline_s):
                await flight.opened.wait()
                if flight.facts is not None and flight.failure is None:
                    async with flight.answer(member, dataclasses.replace(flight.facts)) as answer:
                        async for _ in answer:
                            pass
        except Exception as error:  # noqa: BLE001 - nobody waits for it, and its attempts are in the ledger
            ctx.note("not_renewed", error=str(error))
        finally:
            await flight.leave(member)

    async def _keep(
        self, ctx: RequestContext, asked: _Asked, events: Sequence[ChatEvent], facts: AnswerFacts
    ) -> None:
        usage = facts.usage
        if usage is None or not cache_rules.may_keep(events, facts, is_retrieved=asked.is_retrieving):
            return
        choices, more = cached_answers.parts(cached_answers.completion(events))
        answer = CachedAnswer(
            asked.made_s,
            cache_rules.kept_for_s(ctx.tenant.cache.ttl_s, JITTER_RATIO, self._tiers.rng),
            asked.position.generation,
            asked.position.unchanged_since,
            asked.position.region,
            facts.model,
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_tokens,
            facts.cost_usd,
            choices,
            more,
        )
        await self._tiers.keep(asked.place, answer)

    # --- Something was -----------------------------------------------------------------------

    def _replay(
        self, ctx: RequestContext, asked: _Asked, answer: CachedAnswer, verdict: Verdict
    ) -> EventStream:
        now_s = self._tiers.wall_clock()
        facts = AnswerFacts(
            route=asked.request.model,
            model=answer.model,
            usage=cached_answers.usage(answer),
            cache="stale" if verdict is Verdict.STALE else "hit",
            cache_age_s=max(now_s - answer.made_s, 0.0),
            saved_usd=answer.cost_usd,
            ttft_s=ctx.elapsed_s(),
        )
        if asked.is_retrieving:
            position = asked.position
            facts.source = Source(RegionId(answer.region), position.lsn, position.staleness_s)
        events = cached_answers.replay(
            answer, request_id=ctx.request_id, created=int(now_s), is_streamed=asked.request.stream
        )
        return EventStream(facts, events)
