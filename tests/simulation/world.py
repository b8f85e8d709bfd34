"""A seed's world: three regions with logs, registers, indexes, daemons, clients, bad luck; what must hold.

Faults last `storm_s`, then everything heals, and all replicas must come to equal the truth. Effects at an
index later than the settle time after their caller gave up are not in the model: no replicator could be right
under those, and `meridian verify` is for them.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

import msgspec

from regions.changes import (
    Change,
    Delete,
    DeleteAll,
    DeleteByFilter,
    Update,
    UpdateByFilter,
    Upsert,
)
from regions.errors import AppendUnknown, LogRecreated, LogUnavailable, ReplicaError
from regions.logs.base import Append, Entry, Fence
from regions.logs.memory import MemoryLog
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import NO_LSN, Epoch, Lsn, sequence_of
from regions.records import Record
from regions.registers.memory import MemoryRegisters
from regions.replicas.memory import MemoryReplica
from regions.replicator import moves
from regions.replicator.canary import CANARIES_PREFIX, Canary, decode_canary
from regions.replicator.daemon import Daemon, Surroundings, Terms
from regions.replicator.driver import Cut, Tell
from regions.replicator.follower import Pace
from regions.replicator.snapshot import Site
from regions.replicator.watermarks import Progress, decode, key_of, progress_key
from regions.selection import Bounds, rank_namespace
from regions.topology import Home, Term, Topology, shard_of
from tests.regions.strategies import listed
from tests.simulation.clock import run
from tests.simulation.network import Network, Process, Weather
from tests.simulation.remote import RemoteLog, RemoteRegisters, RemoteReplica
from tests.simulation.truth import History, histories

REGIONS: Final = ("us", "eu", "ap")
WALL_S: Final = 1_000_000.0
IDS: Final = tuple(f"r{n}" for n in range(6))
APPEND_S: Final = 2.0
PACE: Final = Pace(
    call_timeout_s=0.8,
    apply_settle_s=1.0,
    clock_skew_s=0.1,
    ask_again_s=1.0,
    look_every_s=2.0,
    retry_max_s=2.0,
)
TERMS: Final = Terms(lease_s=3.0, beat_s=1.0, hold_s=2.0, keep_s=10_000.0)
CANARY_EVERY_S: Final = 2.0


class Violation(AssertionError):
    """An invariant that does not hold."""


@dataclass(frozen=True)
class Plan:
    """What a seed does."""

    seed: int
    shards: int = 1
    homes: tuple[str, ...] = ("us",)
    namespaces: int = 2
    remembers: bool = True
    visible_after_s: float = 0.0
    storm_s: float = 8.0
    write_every_s: float = 0.35
    read_every_s: float = 0.5
    weather: Weather = field(default_factory=Weather)
    daemons: int = 1
    kills: int = 0
    stops: int = 0
    """How often a daemon is told to stop, and lets its region go on at once."""
    cuts: int = 0
    isolations: int = 0
    poison: bool = False
    trim: bool = False
    tear: bool = False
    resync: bool = False
    wipe: bool = False
    skew_s: float = 0.0
    canary: bool = True
    die_in: tuple[str, int, bool] | None = None
    """A region whose first daemon dies in its n-th call, and whether that call still takes effect."""


def plan(seed: int) -> Plan:
    """A seed's plan: each fault in some of them, so that they meet in all ways."""
    rng = Random(seed)
    rough = rng.random() < 0.7
    weather = Weather(
        lost_request=rng.choice((0.0, 0.03, 0.1)) if rough else 0.0,
        lost_answer=rng.choice((0.0, 0.03, 0.1)) if rough else 0.0,
        late=rng.choice((0.0, 0.05, 0.15)) if rough else 0.0,
        settle_s=PACE.apply_settle_s,
    )
    return Plan(
        seed,
        shards=rng.choice((1, 1, 2)),
        homes=rng.choice((("us",), ("us",), ("eu",), ("us", "eu"))),
        namespaces=rng.choice((1, 2, 3)),
        remembers=rng.random() < 0.5,
        visible_after_s=rng.choice((0.0, 0.0, 0.3, 1.2)),
        weather=weather,
        daemons=rng.choice((1, 1, 2)),
        kills=rng.choice((0, 1, 3, 5)),
        cuts=rng.choice((0, 1, 2)),
        isolations=rng.choice((0, 0, 1, 2)),
        poison=rng.random() < 0.25,
        trim=rng.random() < 0.25,
        tear=rng.random() < 0.25,
        resync=rng.random() < 0.25,
        wipe=rng.random() < 0.2,
        skew_s=rng.choice((0.0, 0.4)),
        canary=rng.random() < 0.5,
        stops=rng.choice((0, 0, 1, 3)),
    )


@dataclass
class Region:
    """A region's servers; they outlive every process."""

    name: str
    log: MemoryLog
    registers: MemoryRegisters
    replicas: dict[IndexName, MemoryReplica]
    offset_s: float
    """What its log's clock is ahead of the loop's."""
    seen: dict[str, Progress] = field(default_factory=dict)
    """What the gateways of the others know of its followers, a little late."""
    canaries: dict[IndexName, Canary] = field(default_factory=dict)
    """And of its indexes. Where there is no log, none: there is no clock to go by."""


@dataclass
class Running:
    """A daemon, its process and its task."""

    process: Process
    daemon: Daemon
    stop: asyncio.Event
    task: asyncio.Task[None]
    alarmed: set[NamespaceRef]
    """What it says stands still."""


@dataclass(frozen=True)
class Acked:
    """A client's journal: what was acknowledged, and when (loop time)."""

    home: str
    shard: int
    namespace: NamespaceRef
    lsn: Lsn
    change: Change


@dataclass(frozen=True)
class Seen:
    """What a client read, and what it had asked for."""

    home: str
    namespace: NamespaceRef
    id: str
    record: Record | None
    floor: int
    not_before_s: float
    replica: str


class Epochs:
    """One term an index: nothing came before."""

    def __init__(self, fences: dict[IndexName, Fence]) -> None:
        self._fences = fences

    def is_history(self, home: RegionId, entry: Entry) -> bool:
        """No home is ever replaced here."""
        return True

    def cuts(self, home: RegionId, shard: int, indexes: Sequence[IndexName]) -> Sequence[Cut]:
        return ()

    def has_moved_on(self, home: RegionId, shard: int, index: IndexName) -> bool:
        return False

    def is_only_stream(self, home: RegionId, shard: int, indexes: Sequence[IndexName], stream: str) -> bool:
        return False

    async def ready(self, index: IndexName, epoch: Epoch) -> None:
        """At once."""

    async def fence(self, index: IndexName) -> Fence:
        return self._fences[index]


class World:
    """Runs one plan."""

    def __init__(self, the_plan: Plan) -> None:
        self.plan = the_plan
        self.rng = Random(the_plan.seed ^ 0x5EED)
        self.network = Network(Random(the_plan.seed ^ 0xF00D))
        self.entries: dict[tuple[str, int], list[tuple[float, Entry]]] = {}
        self.acked: list[Acked] = []
        self.seen: list[Seen] = []
        self.poison: set[str] = set()
        self.wiped: set[str] = set()
        self.running: list[Running] = []
        self.fences: dict[IndexName, Fence] = {}
        self.homes = {IndexName(f"docs-{home}"): home for home in the_plan.homes}
        self.namespaces = [
            NamespaceRef(index, f"t.n{n}") for index in self.homes for n in range(the_plan.namespaces)
        ]
        self.written = 0
        self.started = 0

    # --- Running -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Storm, heal, compare. Raises: Violation."""
        self._build()
        async with asyncio.TaskGroup() as tasks:
            self.tasks = tasks
            background = [tasks.create_task(self._tap(home, s)) for home, s in self._home_shards()]
            background += [tasks.create_task(self._watch(region)) for region in self.regions.values()]
            background += [tasks.create_task(self._heed(region)) for region in self.regions.values()]
            await self._open()
            for name in REGIONS:
                for number in range(self.plan.daemons):
                    self._start(name, is_first=number == 0)
            self.network.weather = self.plan.weather
            storm = [tasks.create_task(each) for each in self._storm()]
            await asyncio.sleep(self.plan.storm_s)
            for task in storm:
                task.cancel()
            await self._heal()
            await asyncio.sleep(APPEND_S + PACE.apply_settle_s)  # until no append is under way any more
            await self._converge()
            for running in self.running:
                running.task.cancel()
            for task in background:
                task.cancel()
        self._compare()

    async def _open(self) -> None:
        """Give every index its home."""
        for index, home in self.homes.items():
            self.fences[index] = await self.regions[home].log.open_epoch(index, Epoch(1), timeout_s=1)

    def _build(self) -> None:
        loop = asyncio.get_running_loop()
        self.regions: dict[str, Region] = {}
        for name in REGIONS:
            offset_s = WALL_S + self.rng.uniform(-1, 1) * self.plan.skew_s
            registers = MemoryRegisters()

            def clock(offset_s: float = offset_s) -> float:
                return loop.time() + offset_s

            log = MemoryLog(RegionId(name), registers, clock, shards=self.plan.shards)
            replicas = {
                index: MemoryReplica(
                    index,
                    loop.time,
                    visible_after_s=self.plan.visible_after_s,
                    remembers_positions=self.plan.remembers,
                )
                for index in self.homes
            }
            self.regions[name] = Region(name, log, registers, replicas, offset_s)

    def _offset_s(self, region: str) -> float:
        return self.regions[region].offset_s

    def _home_shards(self) -> list[tuple[str, int]]:
        return [(home, shard) for home in self.plan.homes for shard in range(self.plan.shards)]

    def _start(self, region: str, *, is_first: bool = False) -> None:
        self.started += 1
        process = Process(f"{region}-{self.started}", region)
        if is_first and self.plan.die_in is not None and self.plan.die_in[0] == region:
            _, process.last_call, process.lands = self.plan.die_in
        alarmed: set[NamespaceRef] = set()
        daemon, stop = self._daemon(process, alarmed), asyncio.Event()
        task = self.tasks.create_task(self._alive(process, daemon, stop))
        self.running.append(Running(process, daemon, stop, task, alarmed))

    async def _alive(self, process: Process, daemon: Daemon, stop: asyncio.Event) -> None:
        """Until it is killed, dies in a call, or is told to stop; then another is started, a little later."""
        working = self.tasks.create_task(daemon.run_until(stop))
        dying = self.tasks.create_task(process.died.wait())
        try:
            await asyncio.wait((working, dying), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            working.cancel()
            dying.cancel()
        self.network.note(f"{process.name} is {'dead' if process.died.is_set() else 'stopped'}")
        await asyncio.sleep(self.rng.uniform(0.1, 2.0))
        self.running = [each for each in self.running if each.process is not process]
        self._start(process.region)

    def _daemon(self, process: Process, alarmed: set[NamespaceRef]) -> Daemon:
        def tell(told: moves.Alarm | moves.AllClear) -> None:
            if isinstance(told, moves.Alarm):
                alarmed.add(told.namespace)
            else:
                alarmed.discard(told.namespace)

        sites = {name: self._site(name, process) for name in REGIONS}
        around = self._surroundings(process, sites, tell)
        terms = msgspec.structs.replace(TERMS, canary_every_s=CANARY_EVERY_S if self.plan.canary else 0.0)
        return Daemon(process.name, around, PACE, terms)

    def _surroundings(self, process: Process, sites: dict[str, Site], tell: Tell) -> Surroundings:
        homes: dict[RegionId, list[IndexName]] = {RegionId(home): [] for home in self.plan.homes}
        for index, home in self.homes.items():
            homes[RegionId(home)].append(index)
        logs = {
            RegionId(home): RemoteLog(self.regions[home].log, self.network, process, self._offset_s(home))
            for home in self.plan.homes
        }
        return Surroundings(
            here=sites[process.region],
            others=[sites[name] for name in REGIONS if name != process.region],
            logs=logs,
            homes=homes,
            epochs=Epochs(self.fences),
            tell=tell,
        )

    def _site(self, name: str, process: Process) -> Site:
        region = self.regions[name]
        return Site(
            RegionId(name),
            RemoteRegisters(region.registers, name, self.network, process),
            {
                index: RemoteReplica(replica, name, self.network, process, self.poison)
                for index, replica in region.replicas.items()
            },
        )

    # --- Watching ----------------------------------------------------------------------------

    async def _tap(self, home: str, shard: int) -> None:
        """Note every entry the moment it is stored: the log itself may lose it later."""
        log, loop = self.regions[home].log, asyncio.get_running_loop()
        kept = self.entries.setdefault((home, shard), [])
        while True:
            state = await log.state(shard, timeout_s=1)
            after = kept[-1][1].sequence if kept else state.origin - 1
            try:
                async for entry in log.read(shard, after, state.incarnation):
                    kept.append((loop.time(), entry))
            except LogRecreated:
                while kept and kept[-1][1].sequence > (await log.state(shard, timeout_s=1)).last:
                    kept.pop()

    async def _watch(self, region: Region) -> None:
        """What followers publish: it must never go back."""
        async for register in region.registers.watch("progress."):
            progress = decode(register.value)
            before = region.seen.get(register.key)
            if before is not None:
                self._check_forward(region.name, before, progress)
            await asyncio.sleep(0)
            region.seen[register.key] = progress

    async def _heed(self, region: Region) -> None:
        """What canaries tell."""
        async for register in region.registers.watch(CANARIES_PREFIX):
            index = IndexName(register.key.removeprefix(CANARIES_PREFIX))
            region.canaries[index] = decode_canary(register.value)

    def _check_forward(self, region: str, before: Progress, now: Progress) -> None:
        if now.received < before.received:
            raise Violation(f"{region}: received went from {before.received} to {now.received}")
        for namespace in self.namespaces:
            key = key_of(namespace)
            if key not in before.behind and key not in now.behind:
                continue
            was, is_ = before.mark(namespace), now.mark(namespace)
            if is_.applied < was.applied or is_.queryable < was.queryable:
                raise Violation(f"{region}, {key}: went from {was} to {is_}")

    # --- Bad luck ----------------------------------------------------------------------------

    def _storm(self) -> list[Coroutine[Any, Any, None]]:
        acts = [act(region) for region in REGIONS for act in (self._write, self._read)]
        return acts + self._faults()

    def _faults(self) -> list[Coroutine[Any, Any, None]]:
        """What goes wrong, and when."""
        plan, times = self.plan, self.rng.uniform
        end_s = plan.storm_s
        acts: list[Coroutine[Any, Any, None]] = []
        acts += [self._kill(times(1, end_s)) for _ in range(plan.kills)]
        acts += [self._stop(times(1, end_s)) for _ in range(plan.stops)]
        acts += [self._cut(times(0, end_s * 0.7), times(1, 6)) for _ in range(plan.cuts)]
        acts += [self._isolate(times(1, end_s * 0.7), times(3, 8)) for _ in range(plan.isolations)]
        if plan.poison:
            acts.append(self._poison(times(1, end_s * 0.6)))
        if plan.wipe and not plan.trim and not plan.resync:  # they too need a copy that is whole
            acts.append(self._wipe(times(2, end_s * 0.7)))
        if plan.trim:
            acts.append(self._trim(times(3, end_s)))
        if plan.tear:
            acts.append(self._tear(times(2, end_s)))
        if plan.resync:
            acts.append(self._resync(times(2, end_s)))
        return acts

    async def _kill(self, at_s: float) -> None:
        await asyncio.sleep(at_s)
        self.rng.choice(self.running).process.died.set()

    async def _stop(self, at_s: float) -> None:
        await asyncio.sleep(at_s)
        self.rng.choice(self.running).stop.set()

    async def _cut(self, at_s: float, for_s: float) -> None:
        pair = frozenset(self.rng.sample(REGIONS, 2))
        await asyncio.sleep(at_s)
        self.network.cut.add(pair)
        await asyncio.sleep(for_s)
        self.network.cut.discard(pair)

    async def _isolate(self, at_s: float, for_s: float) -> None:
        """A region's registers are gone for a while: its daemon cannot renew its lease."""
        region = self.rng.choice(REGIONS)
        await asyncio.sleep(at_s)
        self.network.mute.add(region)
        await asyncio.sleep(for_s)
        self.network.mute.discard(region)

    async def _poison(self, at_s: float) -> None:
        await asyncio.sleep(at_s)
        self.poison.add(self.rng.choice(IDS))

    async def _wipe(self, at_s: float) -> None:
        """An index comes back empty. Until that is noticed its reads are wrong, and nobody can know."""
        await asyncio.sleep(at_s)
        region = self.regions[self.rng.choice(REGIONS)]
        told = [region.seen.get(progress_key(*key)) for key in self._home_shards()]
        if not all(each is not None and each.markers for each in told):
            return  # what was never marked is not known to be gone
        self.wiped.add(region.name)
        for replica in region.replicas.values():
            replica.wipe()

    async def _trim(self, at_s: float) -> None:
        """The log loses what only the most advanced follower has: the others need a copy."""
        await asyncio.sleep(at_s)
        for home, shard in self._home_shards():
            told = [region.seen.get(progress_key(home, shard)) for region in self.regions.values()]
            whole = [each for each in told if each is not None and not each.is_resyncing]
            readable = [each for each in whole if all(mark.is_readable for mark in each.behind.values())]
            best = max((each.hold_after for each in readable), default=0)
            self.regions[home].log.trim_before(shard, best + 1)

    async def _tear(self, at_s: float) -> None:
        """A log server loses what it never acknowledged and nobody has read."""
        await asyncio.sleep(at_s)
        for home, shard in self._home_shards():
            kept = [self.network.told.get((home, shard), 0)]
            just_now_s = asyncio.get_running_loop().time() - 0.5
            kept += [e.sequence for at_s, e in self.entries[home, shard] if at_s > just_now_s and e.namespace]
            fence = max(token for each in self.fences.values() for token in each.tokens)
            log = self.regions[home].log
            log.tear(shard, max(*kept, fence))

    async def _resync(self, at_s: float) -> None:
        await asyncio.sleep(at_s)
        namespace = self.rng.choice(self.namespaces)
        self._tell(self.rng.choice(REGIONS), namespace, moves.Resync(namespace))

    def _tell(self, region: str, namespace: NamespaceRef, event: moves.Resync | moves.Unpark) -> None:
        """An operator speaks to the daemon that works."""
        route = RegionId(self.homes[namespace.index]), shard_of(namespace, self.plan.shards)
        for running in self.running:
            driver = running.daemon.drivers.get(route)
            if running.process.region == region and driver is not None and driver.follower.is_settled:
                driver.feed(event)

    # --- Clients -----------------------------------------------------------------------------

    async def _write(self, region: str) -> None:
        """Append changes at their homes; keep a journal of what was acknowledged."""
        process, rng = Process(f"writer-{region}", region), Random(self.rng.random())
        while True:
            await asyncio.sleep(rng.expovariate(1 / self.plan.write_every_s))
            namespace = rng.choice(self.namespaces)
            home = self.homes[namespace.index]
            shard = shard_of(namespace, self.plan.shards)
            change = self._change(rng)
            log = RemoteLog(self.regions[home].log, self.network, process, self._offset_s(home))
            try:
                lsns = await log.append(
                    self.fences[namespace.index],
                    shard,
                    [Append(namespace.stored, change)],
                    timeout_s=APPEND_S,
                )
            except (AppendUnknown, LogUnavailable):
                continue  # the client was not told that it is stored
            self.acked.append(Acked(home, shard, namespace, lsns[0], change))

    def _change(self, rng: Random) -> Change:
        self.written += 1
        kind = rng.random()
        if kind < 0.55:
            return Upsert([self._record(rng, id_) for id_ in rng.sample(IDS, rng.randint(1, 3))])
        if kind < 0.7:
            return Delete(rng.sample(IDS, rng.randint(1, 2)))
        if kind < 0.8:
            return Update(id=rng.choice(IDS), set_metadata={"patched": self.written})
        if kind < 0.88:
            return DeleteByFilter({"group": rng.randint(0, 2)})
        if kind < 0.96:
            return UpdateByFilter({"group": rng.randint(0, 2)}, {"marked": self.written})
        return DeleteAll()

    def _record(self, rng: Random, id_: str) -> Record:
        return Record(
            id_, values=[float(self.written), 1.0], metadata={"group": rng.randint(0, 2), "n": self.written}
        )

    async def _read(self, region: str) -> None:
        """Read as a gateway does: by what it knows, within what the caller asked for."""
        process, rng, loop = Process(f"reader-{region}", region), Random(self.rng.random()), None
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(rng.expovariate(1 / self.plan.read_every_s))
            namespace, id_ = rng.choice(self.namespaces), rng.choice(IDS)
            mine = [a.lsn for a in self.acked if a.namespace == namespace]
            floor = rng.choice((NO_LSN, mine[-1])) if mine else NO_LSN
            bound_s = rng.choice((2.0, 5.0, 10_000.0))
            began_s = loop.time()
            topology = self._topology(region, rng)
            ranked = rank_namespace(topology, namespace, Bounds(bound_s, floor), began_s)
            if not ranked.fresh:
                continue
            standing = ranked.fresh[rng.randrange(len(ranked.fresh))]
            chosen = standing.region
            replica = self.regions[chosen].replicas[namespace.index]
            remote = RemoteReplica(replica, chosen, self.network, process, set())
            try:
                fetched = await remote.fetch(namespace, [id_], timeout_s=2.0)
            except ReplicaError:
                continue
            if not standing.is_of(remote.incarnation):
                continue  # a gateway asks another one
            if chosen in self.wiped and not self.plan.remembers:
                continue  # an index that does not tell its incarnation is found out by its mark alone
            home = self.homes[namespace.index]
            self.seen.append(
                Seen(
                    home,
                    namespace,
                    id_,
                    fetched.records.get(id_),
                    sequence_of(floor),
                    began_s - bound_s,
                    chosen,
                )
            )

    def _topology(self, here: str, rng: Random) -> Topology:
        progress = {
            (RegionId(region.name), RegionId(home), shard): found
            for region in self.regions.values()
            for home, shard in self._home_shards()
            if (found := region.seen.get(progress_key(home, shard))) is not None
        }
        skew_s = 0.05
        return Topology(
            here=RegionId(here),
            regions=[RegionId(name) for name in REGIONS],
            shards=self.plan.shards,
            replicas={index: [RegionId(name) for name in REGIONS] for index in self.homes},
            homes={index: Home(index, [Term(1, home)]) for index, home in self.homes.items()},
            progress=progress,
            canaries={
                (index, RegionId(region.name)): told
                for region in self.regions.values()
                for index, told in region.canaries.items()
            },
            clock_s={
                RegionId(home): self._offset_s(home) + rng.uniform(-skew_s, skew_s)
                for home in self.plan.homes
            },
            skew_s=skew_s,
        )

    # --- The end -----------------------------------------------------------------------------

    async def _heal(self) -> None:
        self.network.weather = Weather()
        self.network.cut.clear()
        self.poison.clear()
        self.network.mute.clear()
        self.network.note("healed")

    async def _converge(self) -> None:
        """Wait until every follower has everything; an operator unparks what is parked."""
        loop = asyncio.get_running_loop()
        ends = {}
        for home, shard in self._home_shards():
            ends[home, shard] = (await self.regions[home].log.state(shard, timeout_s=1)).last
        until_s = loop.time() + 60.0
        while loop.time() < until_s:
            await asyncio.sleep(0.25)
            done = [self._is_done(region, ends) for region in self.regions.values()]
            if all(done):  # every region was looked at, so that in each what is parked gets unparked
                return
        told = {region.name: region.seen for region in self.regions.values()}
        raise Violation(f"not converged: {told}, the logs end at {ends}")

    def _is_done(self, region: Region, ends: dict[tuple[str, int], int]) -> bool:
        told = [(key[0], region.seen.get(progress_key(*key)), end) for key, end in ends.items()]
        for namespace in self.namespaces:
            if any(each is not None and each.mark(namespace).parked for _, each, _ in told):
                self._unpark(region.name, namespace)
        return self._is_shown(region) and all(
            each is not None and each.received >= end and not self._waits(home, each)
            for home, each, end in told
        )

    def _waits(self, _home: str, progress: Progress) -> bool:
        """Whether a follower of that home's log has something left to do."""
        return bool(progress.is_resyncing or progress.gates or progress.behind)

    def _is_shown(self, region: Region) -> bool:
        """Whether every index has a canary that queries find as soon as they can."""
        if not self.plan.canary or region.name not in self.plan.homes:
            return True
        told = [region.canaries.get(index, Canary()) for index in self.homes]
        log_now_s = asyncio.get_running_loop().time() + region.offset_s
        lags_s = [each.lag_s(log_now_s) for each in told]
        return all(lag_s is not None and lag_s < CANARY_EVERY_S + 1.0 for lag_s in lags_s)

    def _unpark(self, region: str, namespace: NamespaceRef) -> None:
        for running in self.running:
            route = RegionId(self.homes[namespace.index]), shard_of(namespace, self.plan.shards)
            driver = running.daemon.drivers.get(route)
            if running.process.region != region or driver is None or not driver.follower.is_settled:
                continue
            if driver.follower.is_parked(namespace):
                if namespace not in running.alarmed:
                    raise Violation(f"{region} does not say that {namespace} is parked")
                driver.feed(moves.Unpark(namespace))

    def _compare(self) -> None:
        kept = {
            (home, shard): [entry for _, entry in entries] for (home, shard), entries in self.entries.items()
        }
        truth = histories(entry for entries in kept.values() for entry in entries)
        for acked in self.acked:
            if not any(
                e.lsn == acked.lsn and listed(e.body) == acked.change for e in kept[acked.home, acked.shard]
            ):
                raise Violation(f"lost: {acked}")
        for (index, stored), history in truth.items():
            self._compare_history(history)
            for region in self.regions.values():
                found = region.replicas[IndexName(index)].contents(stored)
                if found != history.records:
                    raise Violation(f"{region.name}, {index}/{stored}: {found} is not {history.records}")
        for seen in self.seen:
            self._compare_read(seen, truth)

    def _compare_history(self, history: History) -> None:
        for lsn, matched in history.matched.items():
            if lsn in history.announced and history.resolved[lsn] != matched:
                raise Violation(f"the filter at {lsn} gave {history.resolved[lsn]}, not {matched}")

    def _compare_read(self, seen: Seen, truth: dict[tuple[str, str], History]) -> None:
        history = truth.get((seen.namespace.index, seen.namespace.stored), History())
        shard = shard_of(seen.namespace, self.plan.shards)
        old = [
            entry.sequence
            for at_s, entry in self.entries[seen.home, shard]
            if at_s < seen.not_before_s and entry.namespace == seen.namespace.stored
        ]
        lowest = max([seen.floor, *old[-1:]])
        if not history.was_at_or_after(seen.id, seen.record, lowest, strictly=self.plan.remembers):
            raise Violation(f"read below its floor {seen.floor} or bound, {lowest}: {seen}")


def run_plan(the_plan: Plan) -> World:
    """Run it to the end. Raises: Violation, with the seed."""
    world = World(the_plan)
    try:
        run(world.run())
    except BaseExceptionGroup as group:
        raise Violation(f"seed {the_plan.seed}: {first(group)!r}") from first(group)
    except Violation as error:
        raise Violation(f"seed {the_plan.seed}: {error}") from error
    return world


def run_seed(seed: int, **changes: object) -> World:
    """Run a seed's plan, with changes. Raises: Violation, with the seed."""
    return run_plan(replace(plan(seed), **changes))  # type: ignore[arg-type]


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the others."""
    error = group.exceptions[0]
    return first(error) if isinstance(error, BaseExceptionGroup) else error
