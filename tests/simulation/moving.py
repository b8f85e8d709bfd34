"""A seed's world in which homes move: planned and forced promotions, some broken off, under the same faults.

Every log may be home, so every daemon follows all of them, and what it knows of epochs it learns as shipped:
from the registers of all regions (`regions.live`). Writers are gateways: they append where they believe the
home is, also in a region that is cut off and was replaced by force. When all is healed, with `terms` as the
registers have decided them:

- An acknowledged write of a term that was not ended by force lies within its term.
- One of a term that was ended by force lies within it, or is in the tail that its log exports.
- All replicas equal the terms' entries, applied one after the other: nothing beyond an end, anywhere.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from msgspec.structs import replace as replace_fields

from regions import promotion
from regions.changes import Resolved
from regions.errors import AppendUnknown, Conflict, LogError, LogUnavailable, StaleEpoch
from regions.fences import Fences
from regions.live import Live, Place
from regions.logs.base import Append, Entry
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import Lsn, epoch_of, sequence_of
from regions.promotion import NotCaughtUp
from regions.replicator import moves
from regions.replicator.daemon import Daemon, Surroundings
from regions.replicator.driver import Tell
from regions.replicator.epochs import LiveEpochs
from regions.replicator.snapshot import Site
from regions.replicator.watermarks import Progress
from regions.topology import Home, Term, decide, decode_home, home_key, shard_of
from tests.regions.strategies import listed
from tests.simulation.clock import run
from tests.simulation.network import Process, Weather
from tests.simulation.remote import RemoteLog, RemoteRegisters
from tests.simulation.truth import History
from tests.simulation.world import (
    APPEND_S,
    PACE,
    REGIONS,
    WALL_S,
    Acked,
    Plan,
    Region,
    Violation,
    World,
    first,
)

DOCS: Final = IndexName("docs")
DRAIN_S: Final = 3.0
FENCE_AGAIN_S: Final = 1.0


@dataclass(frozen=True)
class MovingPlan(Plan):
    """What a seed does; `homes` are those whose logs are followed: all."""

    homes: tuple[str, ...] = REGIONS
    canary: bool = False
    planned: int = 0
    forced: int = 0
    broken_off: int = 0
    """How many planned promotions end wherever they are after a while, for whoever tries next."""


def moving_plan(seed: int) -> MovingPlan:
    """A seed's plan. One promotion at least."""
    rng = Random(seed ^ 0xA0E)
    rough = rng.random() < 0.6
    weather = Weather(
        lost_request=rng.choice((0.0, 0.03)) if rough else 0.0,
        lost_answer=rng.choice((0.0, 0.03)) if rough else 0.0,
        late=rng.choice((0.0, 0.05)) if rough else 0.0,
        settle_s=PACE.apply_settle_s,
    )
    return MovingPlan(
        seed,
        shards=rng.choice((1, 1, 2)),
        namespaces=rng.choice((1, 2, 3)),
        remembers=rng.random() < 0.5,
        visible_after_s=rng.choice((0.0, 0.0, 0.3)),
        storm_s=14.0,
        weather=weather,
        daemons=rng.choice((1, 1, 2)),
        kills=rng.choice((0, 1, 3)),
        stops=rng.choice((0, 0, 2)),
        cuts=rng.choice((0, 1)),
        resync=rng.random() < 0.2,
        poison=rng.random() < 0.1,
        planned=rng.choice((1, 2, 3)),
        broken_off=rng.choice((0, 0, 1)),
    )


@dataclass
class Gone:
    """A term's place: which log, and which entries of it count."""

    term: Term
    entries: list[Entry] = field(default_factory=list)


class MovingWorld(World):
    """Runs one plan; the first home is us."""

    plan: MovingPlan

    def __init__(self, the_plan: MovingPlan) -> None:
        super().__init__(the_plan)
        self.homes = {DOCS: "us"}
        self.namespaces = [NamespaceRef(DOCS, f"t.n{n}") for n in range(the_plan.namespaces)]
        self.lives: dict[str, Live] = {}
        """What each daemon's process knows."""
        self.tails: set[Lsn] = set()
        self.done: list[str] = []
        """Promotions that ended well, for who looks at a run."""

    # --- Processes ---------------------------------------------------------------------------

    async def _open(self) -> None:
        await promotion.establish(self._places(Process("first", "us")), DOCS, RegionId("us"))

    def _places(self, process: Process) -> list[Place]:
        """Every region as a process sees it."""
        return [
            Place(
                RegionId(name),
                RemoteLog(self.regions[name].log, self.network, process, self._offset_s(name)),
                RemoteRegisters(self.regions[name].registers, name, self.network, process),
            )
            for name in REGIONS
        ]

    def _live(self, process: Process) -> Live:
        loop = asyncio.get_running_loop()
        return Live(
            RegionId(process.region),
            self._places(process),
            {},
            clock=loop.time,
            wall_clock=lambda: loop.time() + WALL_S,
            skew_s=0.05,
        )

    async def _alive(self, process: Process, daemon: Daemon, stop: asyncio.Event) -> None:
        async with self.lives[process.name].running():
            await super()._alive(process, daemon, stop)

    def _surroundings(self, process: Process, sites: dict[str, Site], tell: Tell) -> Surroundings:
        live = self._live(process)
        self.lives[process.name] = live
        return Surroundings(
            here=sites[process.region],
            others=[sites[name] for name in REGIONS if name != process.region],
            logs=live.logs,
            homes={RegionId(name): [DOCS] for name in REGIONS},
            epochs=LiveEpochs(live, Fences(live.logs, lambda: live.topology)),
            tell=tell,
        )

    # --- The storm ---------------------------------------------------------------------------

    def _storm(self) -> list[Coroutine[Any, Any, None]]:
        rng, end_s = self.rng, self.plan.storm_s
        acts = [self._write(region) for region in REGIONS]
        acts += [self._keep_fenced(region) for region in REGIONS]
        acts += self._faults()
        acts += [self._move(rng.uniform(1, end_s - 1), None) for _ in range(self.plan.planned)]
        acts += [
            self._move(rng.uniform(1, end_s - 1), rng.uniform(0.05, 1.0)) for _ in range(self.plan.broken_off)
        ]
        acts += [self._replace(rng.uniform(1, end_s - 5), rng.uniform(2, 6)) for _ in range(self.plan.forced)]
        return acts

    async def _write(self, region: str) -> None:
        """A gateway: append at the home that it believes in; keep a journal of what was acknowledged."""
        process, rng = Process(f"writer-{region}", region), Random(self.rng.random())
        live = self._live(process)
        fences = Fences(live.logs, lambda: live.topology)
        async with live.running():
            while True:
                await asyncio.sleep(rng.expovariate(1 / self.plan.write_every_s))
                namespace, change = rng.choice(self.namespaces), self._change(rng)
                shard = shard_of(namespace, self.plan.shards)
                try:
                    fence, log = await fences.fence(DOCS, timeout_s=APPEND_S)
                    lsns = await log.append(
                        fence, shard, [Append(namespace.stored, change)], timeout_s=APPEND_S
                    )
                except StaleEpoch:
                    fences.forget(DOCS)
                    with suppress(LogUnavailable):
                        await live.refresh(DOCS)
                except (AppendUnknown, LogError):
                    continue  # the client was not told that it is stored
                else:
                    self.acked.append(Acked(log.region, shard, namespace, lsns[0], change))

    async def _keep_fenced(self, region: str) -> None:
        """What gateways do: close the logs of homes that were replaced by force, when they can be reached."""
        process = Process(f"fencer-{region}", region)
        live = self._live(process)
        async with live.running():
            while True:
                await asyncio.sleep(FENCE_AGAIN_S)
                if (home := live.topology.homes.get(DOCS)) is not None:
                    await self._fence_off(live, home)

    async def _fence_off(self, live: Live, home: Home) -> None:
        for region in {term.region for term in home.terms if term.is_forced}:
            with suppress(LogError):
                await promotion.fence_off(live.logs[RegionId(region)], home, RegionId(region))

    async def _move(self, at_s: float, patience_s: float | None) -> None:
        """A planned promotion, by an operator somewhere; cut short after `patience_s`."""
        await asyncio.sleep(at_s)
        to = RegionId(self.rng.choice(REGIONS))
        places = self._places(Process(f"operator-{at_s:.1f}", self.rng.choice(REGIONS)))
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._try(promotion.promote(places, DOCS, to, drain_s=DRAIN_S, say=self.network.note))

    async def _replace(self, at_s: float, for_s: float) -> None:
        """The home is cut off from the others for a while; one of them takes its place."""
        await asyncio.sleep(at_s)
        if (home := await self._decided()) is None:
            return
        to = self.rng.choice([name for name in REGIONS if name != home.region])
        pairs = [frozenset((home.region, name)) for name in REGIONS if name != home.region]
        self.network.cut.update(pairs)
        self.network.note(f"{home.region} is cut off")
        await asyncio.sleep(self.rng.uniform(0.2, 1.5))
        places = self._places(Process(f"operator-{at_s:.1f}", to))
        await self._try(
            promotion.force(places, DOCS, RegionId(to), drain_s=DRAIN_S / 2, say=self.network.note)
        )
        await asyncio.sleep(for_s)
        self.network.cut.difference_update(pairs)

    async def _try(self, promoting: Coroutine[Any, Any, promotion.Outcome]) -> None:
        try:
            home = (await promoting).home
        except (LogError, Conflict, NotCaughtUp) as error:
            self.network.note(f"no promotion: {error}")
        else:
            how = "forced" if len(home.terms) > 1 and home.terms[-2].is_forced else "planned"
            self.done.append(how)
            self.network.note(f"{home.region} is home of epoch {home.epoch}, {how}")

    async def _decided(self) -> Home | None:
        """What the registers have decided, as nobody in the world can see it."""
        found = [await region.registers.get(home_key(DOCS), timeout_s=1) for region in self.regions.values()]
        return decide([decode_home(each.value) for each in found if each is not None], len(REGIONS))

    # --- The end -----------------------------------------------------------------------------

    async def _converge(self) -> None:
        """An operator ends whatever was broken off, gateways fence what was replaced, then all wait."""
        process = Process("operator-last", "us")
        live = self._live(process)
        async with live.running():
            await self._settle(live)
            home = await self._decided()
            if home is None:
                raise Violation("nobody is home")
            self.terms = home
            await self._fence_off(live, home)
        for term in (term for term in home.terms if term.is_forced):
            tail = promotion.export_tail(self.regions[term.region].log, home, term)
            self.tails |= {entry.lsn async for entry in tail}
        await super()._converge()

    async def _settle(self, live: Live) -> None:
        """Promote the region that is home, or any other, until the present epoch is open at its home."""
        loop = asyncio.get_running_loop()
        places, until_s, told = self._places(Process("operator-last", "us")), loop.time() + 60.0, ""
        while loop.time() < until_s:
            if (home := await self._decided()) is None:
                raise Violation("nobody is home")
            try:
                await promotion.promote(places, DOCS, home.region, drain_s=DRAIN_S, say=self.network.note)
            except (LogError, Conflict, NotCaughtUp) as error:
                told = str(error)
                await asyncio.gather(*(self._unpark_all(region) for region in self.regions.values()))
            else:
                return
            await asyncio.sleep(0.5)
        raise Violation(f"no promotion ends what was broken off: {told}")

    def _waits(self, home: str, progress: Progress) -> bool:
        """A fence left behind undecided, in a log that is not home, stands until the next promotion.

        Nothing comes after it, and nobody reads by that log's positions.
        """
        gates = {
            index: gate
            for index, gate in progress.gates.items()
            if home == self.terms.region or gate.epoch <= self.terms.epoch
        }
        return super()._waits(home, replace_fields(progress, gates=gates))

    def _tell(self, region: str, namespace: NamespaceRef, event: moves.Resync | moves.Unpark) -> None:
        """An operator speaks to the follower of the log that is home now."""
        for running in self.running:
            home = self.lives[running.process.name].topology.homes.get(DOCS)
            if running.process.region != region or home is None:
                continue
            driver = running.daemon.drivers.get((home.region, shard_of(namespace, self.plan.shards)))
            if driver is not None and driver.follower.is_settled:
                driver.feed(event)

    def _unpark(self, region: str, namespace: NamespaceRef) -> None:
        """Wherever it is parked: `meridian replica unpark` does so too."""
        shard = shard_of(namespace, self.plan.shards)
        for running in self.running:
            for name in REGIONS:
                driver = running.daemon.drivers.get((RegionId(name), shard))
                if running.process.region != region or driver is None or not driver.follower.is_settled:
                    continue
                if driver.follower.is_parked(namespace):
                    driver.feed(moves.Unpark(namespace))

    async def _unpark_all(self, region: Region) -> None:
        for namespace in self.namespaces:
            self._unpark(region.name, namespace)

    def _compare(self) -> None:
        kept = {key: [entry for _, entry in entries] for key, entries in self.entries.items()}
        by_epoch = {term.epoch: term for term in self.terms.terms}
        for acked in self.acked:
            self._compare_acked(acked, kept[acked.home, acked.shard], by_epoch[epoch_of(acked.lsn)])
        for namespace in self.namespaces:
            shard, history = shard_of(namespace, self.plan.shards), History()
            for term in self.terms.terms:
                for entry in kept[term.region, shard]:
                    if entry.index == DOCS and entry.namespace == namespace.stored:
                        self._add(history, term, entry)
            self._compare_history(history)
            for region in self.regions.values():
                found = region.replicas[DOCS].contents(namespace.stored)
                if found != history.records:
                    raise Violation(f"{region.name}, {namespace}: {found} is not {history.records}")

    def _add(self, history: History, term: Term, entry: Entry) -> None:
        """Ids of an intent count wherever they stand: only those that were told first do."""
        lsn = Lsn(entry.body.intent) if isinstance(entry.body, Resolved) else entry.lsn
        if epoch_of(lsn) == term.epoch and self.terms.is_history(
            RegionId(term.region), term.epoch, entry.shard, sequence_of(lsn)
        ):
            history.add(entry)

    def _compare_acked(self, acked: Acked, kept: Sequence[Entry], term: Term) -> None:
        stored = next((e for e in kept if e.lsn == acked.lsn), None)
        if stored is None or listed(stored.body) != acked.change or term.region != acked.home:
            raise Violation(f"lost: {acked}")
        is_within = not term.ends or sequence_of(acked.lsn) <= term.ends[acked.shard]
        if not is_within and not term.is_forced:
            raise Violation(f"lost by a planned promotion: {acked}, {term}")
        if not is_within and acked.lsn not in self.tails:
            raise Violation(f"neither history nor in a tail: {acked}, {term}")


def run_moving(the_plan: MovingPlan) -> MovingWorld:
    """Run it to the end. Raises: Violation, with the seed."""
    world = MovingWorld(the_plan)
    try:
        run(world.run())
    except BaseExceptionGroup as group:
        raise Violation(f"seed {the_plan.seed}: {first(group)!r}") from first(group)
    except Violation as error:
        raise Violation(f"seed {the_plan.seed}: {error}") from error
    return world


def run_moving_seed(seed: int, **changes: object) -> MovingWorld:
    """Run a seed's plan, with changes. Raises: Violation, with the seed."""
    return run_moving(replace(moving_plan(seed), **changes))  # type: ignore[arg-type]
