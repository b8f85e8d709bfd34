"""The replicator of a region: one driver for each shard of each home, under one lease, in one TaskGroup.

The holder of the lease follows every home's log, writes a heartbeat into every shard of its own region's log
each second, so that silence has an age, and has every log keep what its followers have not applied. When the
lease is lost, or ends unrenewed, everything stops; another daemon goes on after the settle time. A daemon
that is told to stop lets its calls end and gives the lease back, so that the next one need not wait.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final, NoReturn

import msgspec

from regions.errors import Conflict, LogCorrupt, LogRecreated, LogTrimmed, LogUnavailable
from regions.logs.base import Log
from regions.names import IndexName, RegionId
from regions.orders import ORDERS_PREFIX, Act, decode_order
from regions.registers.base import Register
from regions.replicator import moves
from regions.replicator.calls import Calls
from regions.replicator.canaries import CanaryTerms, Keeper
from regions.replicator.driver import Driver, Epochs, Fenced, IndexWiped, Tell, TermCut, tell_nobody
from regions.replicator.follower import Pace
from regions.replicator.lease import Lease, LeaseLost
from regions.replicator.pacing import Pacer
from regions.replicator.snapshot import Route, Site
from regions.replicator.watermarks import Progress
from regions.runtime.tracing import Tracer

_CALL_S: Final = 2.0


class Terms(msgspec.Struct, frozen=True):
    """How a daemon keeps its place; seconds."""

    lease_s: float = 6.0
    """Without a renewal another daemon takes over after this and the settle time."""
    beat_s: float = 1.0
    hold_s: float = 10.0
    """Between two renewals of what the logs keep for us."""
    keep_s: float = 86_400.0
    """How long a log keeps what we have not read when we are gone."""
    canary_every_s: float = 5.0
    """Between two canaries in each index; 0: none."""
    drain_s: float = 1.5
    """How long a daemon that is told to stop waits for the calls that are under way."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a daemon works with: its own region, the others, every home's log."""

    here: Site
    others: Sequence[Site]
    logs: Mapping[RegionId, Log]
    homes: Mapping[RegionId, Sequence[IndexName]]
    """The indexes whose writes each log takes, or took."""
    epochs: Epochs
    calls_per_s: float = 100.0
    duties: Sequence[Callable[[], Coroutine[None, None, NoReturn]]] = ()
    """What else one process of the region has to do, and only one, until it is cancelled."""
    tracer: Tracer | None = None
    tell: Tell = tell_nobody


class Daemon:
    """One replicator process of a region; any number may run, one of them works."""

    def __init__(self, name: str, around: Surroundings, pace: Pace, terms: Terms) -> None:
        """`name` is of this process alone: no other run of any daemon ever has it."""
        self._process, self._around, self._pace, self._terms = name, around, pace, terms
        self._tenures, self._name = 0, name
        self.drivers: dict[tuple[RegionId, int], Driver] = {}
        """Those at work, by home and shard."""
        self._pacers = {index: Pacer(around.calls_per_s) for index in around.here.replicas}
        self._until_s = 0.0
        self._held: Lease | None = None
        self._calls = Calls(pace.apply_settle_s)

    @property
    def is_working(self) -> bool:
        """Whether this daemon holds the lease, as far as it knows."""
        return self._held is not None

    async def run_until(self, stop: asyncio.Event) -> None:
        """Work until `stop`; then let what is under way end, and give the lease back."""
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(self.run())
            await stop.wait()
            await self._calls.close(self._terms.drain_s)
            working.cancel()
        if self._held is not None:
            with suppress(LeaseLost, LogUnavailable):  # then it ends by itself
                await self._held.give_back(is_settled=self._calls.is_settled)

    async def run(self) -> NoReturn:
        """Work whenever the lease is ours, for ever."""
        while True:
            lease, calls = self._next_lease(), Calls(self._pace.apply_settle_s)
            self._until_s = await lease.acquire()
            self._held, self._calls = lease, calls
            try:
                await self._work(lease)
            except* (LeaseLost, Fenced, TimeoutError):
                self._held = None  # somebody else works now

    def _next_lease(self) -> Lease:
        """A lease under a new name: what we sent in the tenure before is waited for like anybody else's."""
        self._tenures += 1
        self._name = f"{self._process}.{self._tenures}"
        return Lease(
            self._around.here.registers,
            self._name,
            lease_s=self._terms.lease_s,
            settle_s=self._pace.apply_settle_s,
        )

    async def _work(self, lease: Lease) -> None:
        """Until the lease is lost."""
        self.drivers.clear()
        async with asyncio.TaskGroup() as tasks:
            if (own := self._around.logs.get(self._around.here.region)) is not None:
                tasks.create_task(self._beat(own))
                for keeper in self._keepers(own):
                    tasks.create_task(keeper.run())
            tasks.create_task(self._obey(tasks))
            for duty in self._around.duties:
                tasks.create_task(duty())
            for home, log in self._around.logs.items():
                tasks.create_task(self._hold(home, log))
                for shard in range(log.shards):
                    route = Route(
                        home, shard, self._around.here, self._around.others, self._around.homes[home]
                    )
                    tasks.create_task(self._follow(route, log))
            # In the group's body: when a task fails while its group only waits for the end, Python leaves the
            # parent marked as cancelled, and before 3.11.3 no timeout in a task so marked ever ends as one.
            await self._renew(lease)

    async def _follow(self, route: Route, log: Log) -> None:
        """One driver after the other, each after what the one before sent has settled."""
        reached: Progress | None = None
        while True:
            driver = Driver(
                route,
                log,
                self._around.epochs,
                self._pacers,
                writer=self._name,
                pace=self._pace,
                calls=self._calls,
                tracer=self._around.tracer,
                tell=self._around.tell,
                reached=reached,
            )
            driver.feed(moves.Leased(self._until_s))
            self.drivers[route.home, route.shard] = driver
            try:
                await driver.run()
            except (LogTrimmed, LogRecreated, LogCorrupt, IndexWiped, TermCut):
                del self.drivers[route.home, route.shard]
                reached = driver.reached
                await asyncio.sleep(self._pace.call_timeout_s + self._pace.apply_settle_s)

    async def _renew(self, lease: Lease) -> None:
        """Raises: LeaseLost; TimeoutError: it ended, and nobody could be asked."""
        while True:
            await asyncio.sleep(self._terms.lease_s / 4)
            async with asyncio.timeout_at(self._until_s):
                self._until_s = await self._renewed(lease)
            for driver in self.drivers.values():
                driver.feed(moves.Leased(self._until_s))

    async def _renewed(self, lease: Lease) -> float:
        while True:
            try:
                return await lease.renew()
            except LogUnavailable:
                await asyncio.sleep(self._terms.lease_s / 20)

    async def _beat(self, log: Log) -> None:
        while True:
            for shard in range(log.shards):
                try:
                    await log.beat(shard, timeout_s=_CALL_S)
                except LogUnavailable:
                    continue  # the age that readers see says so
            await asyncio.sleep(self._terms.beat_s)

    def _keepers(self, log: Log) -> list[Keeper]:
        """Who measures how late our indexes' queries are."""
        terms = CanaryTerms(self._name, self._terms.canary_every_s, self._pace.call_timeout_s)
        margin_s = self._pace.call_timeout_s + self._pace.clock_skew_s
        return [
            Keeper(
                index,
                self._around.here,
                log,
                pacer,
                terms,
                calls=self._calls,
                send_by_s=lambda: self._until_s - margin_s,
            )
            for index, pacer in self._pacers.items()
        ]

    async def _obey(self, tasks: asyncio.TaskGroup) -> None:
        """Take operators' orders as they come, and those that came while nobody worked."""
        while True:
            with suppress(LogUnavailable):
                async with aclosing(self._around.here.registers.watch(ORDERS_PREFIX)) as orders:
                    async for register in orders:
                        if register.value:
                            tasks.create_task(self._carry_out(register))
            await asyncio.sleep(self._terms.beat_s)

    async def _carry_out(self, register: Register) -> None:
        """Tell the follower, once it knows where it stands; then empty the order, so that it is done once.

        An order of a newer program, which we cannot read, is left to one that can.
        """
        try:
            order = decode_order(register.value)
        except msgspec.DecodeError:
            return
        place = (RegionId(order.home), order.shard)
        while not ((driver := self.drivers.get(place)) and driver.follower.is_settled):  # noqa: ASYNC110
            await asyncio.sleep(self._terms.beat_s / 4)
        if order.act is Act.RESYNC:
            driver.feed(moves.Resync(order.namespace))
        elif driver.follower.is_parked(order.namespace):  # else it goes on already, or is no namespace's name
            driver.feed(moves.Unpark(order.namespace))
        with suppress(LogUnavailable, Conflict):  # then it is done again, which does no harm
            await self._around.here.registers.swap(register.key, b"", register.revision, timeout_s=_CALL_S)

    async def _hold(self, home: RegionId, log: Log) -> None:
        """Have the log keep what our followers may still need."""
        while True:
            after = [self.drivers.get((home, shard)) for shard in range(log.shards)]
            if all(driver is not None and driver.follower.is_settled for driver in after):
                sequences = [driver.follower.progress.hold_after for driver in after if driver is not None]
                with suppress(LogUnavailable):  # the last one lasts for a day
                    await log.hold(self._around.here.region, sequences, lease_s=self._terms.keep_s)
            await asyncio.sleep(self._terms.hold_s)
