"""Keeps a `Topology` up to date: watches the registers of every region, measures logs and replicas.

One task a region for what its registers tell, one for its log, one for every replica. A region that is down
costs nothing but the knowledge of it: what was known stays, and grows old by its own time stamps.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from regions import homes
from regions.errors import LogError, LogUnavailable, ReplicaError
from regions.logs.base import Log
from regions.names import IndexName, NamespaceRef, RegionId
from regions.registers.base import Register, Registers
from regions.replicator import watermarks
from regions.replicator.canary import CANARIES_PREFIX, decode_canary
from regions.topology import HOMES_PREFIX, Home, Topology, decide, decode_home, shard_of

PROGRESS_PREFIX: Final = "progress."
PROBE_S: Final = 5.0
"""Between two measurements of a log or a replica."""
AGAIN_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Between attempts to reach what is down."""
CALL_S: Final = 2.0
NEW_WEIGHT: Final = 0.3
"""Of the newest measurement in the running mean."""

Probe = Callable[[float], Awaitable[object]]
"""The cheapest real question to a replica; given its timeout (s)."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a region has of the product's state, started by whoever made it."""

    region: RegionId
    log: Log
    registers: Registers


class Live:
    """The present `topology`, and who waits for it to change."""

    def __init__(
        self,
        here: RegionId,
        places: Sequence[Place],
        probes: Mapping[tuple[IndexName, RegionId], Probe],
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        skew_s: float,
    ) -> None:
        self._places, self._probes, self._clock = places, probes, clock
        self._records: dict[tuple[RegionId, IndexName], Home] = {}
        self._revisions: dict[tuple[RegionId, str], int] = {}
        self._changed = asyncio.Event()
        replicas: dict[IndexName, list[RegionId]] = {}
        for index, region in probes:
            replicas.setdefault(index, []).append(region)
        self.topology = Topology(
            here,
            [place.region for place in places],
            places[0].log.shards,
            replicas,
            # Until a log was asked for its time, it is taken to have ours.
            clock_s={place.region: wall_clock() - clock() for place in places},
            skew_s=skew_s,
        )

    @property
    def registers(self) -> Mapping[RegionId, Registers]:
        return {place.region: place.registers for place in self._places}

    @property
    def logs(self) -> Mapping[RegionId, Log]:
        return {place.region: place.log for place in self._places}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch and measure until the block ends."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._watch(p, x)) for p in self._places for x in self._prefixes]
            tasks += [group.create_task(self._measure_log(place)) for place in self._places]
            tasks += [
                group.create_task(self._measure_replica(*key, ask)) for key, ask in self._probes.items()
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def until(self, is_so: Callable[[Topology], bool], timeout_s: float) -> bool:
        """Wait until the topology is as wanted; False when it is not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not is_so(self.topology):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def refresh(self, index: IndexName, timeout_s: float = CALL_S) -> None:
        """Learn who is home from the registers themselves. Raises: LogUnavailable: too few answer."""
        seen = await homes.look(self.registers, index, timeout_s=timeout_s)
        for region, (home, _) in seen.records.items():
            if home is not None:
                self._note_home(region, home)

    async def refresh_progress(self, region: RegionId, namespace: NamespaceRef, timeout_s: float) -> None:
        """Learn from a region's registers themselves how far its replica is in the namespace.

        Raises: LogUnavailable.
        """
        home = self.topology.homes.get(namespace.index)
        if home is None or region not in self.registers:
            raise LogUnavailable(f"nothing is known of {namespace.index} in {region}")
        key = watermarks.progress_key(home.region, shard_of(namespace, self.topology.shards))
        register = await self.registers[region].get(key, timeout_s=timeout_s)
        if register is not None:
            self._note(region, register)

    async def refresh_canaries(self, timeout_s: float = CALL_S) -> None:
        """Learn what the canaries tell from every region's registers that answer."""
        async with asyncio.TaskGroup() as group:
            for place in self._places:
                group.create_task(self._refresh_canaries(place, timeout_s))

    async def _refresh_canaries(self, place: Place, timeout_s: float) -> None:
        with suppress(LogUnavailable):  # then what was known of that region stays
            for register in await place.registers.scan(CANARIES_PREFIX, timeout_s=timeout_s):
                self._note(place.region, register)

    def took(self, index: IndexName, region: RegionId, seconds: float) -> None:
        """A replica's answer took so long from here."""
        key, known = (index, region), self.topology.answer_s
        mean = known[key] + NEW_WEIGHT * (seconds - known[key]) if key in known else seconds
        self._publish(replace(self.topology, answer_s={**known, key: mean}), is_news=False)

    # --- What the registers tell -------------------------------------------------------------

    _prefixes = (HOMES_PREFIX, PROGRESS_PREFIX, CANARIES_PREFIX)

    async def _watch(self, place: Place, prefix: str) -> None:
        failures = 0
        while True:
            try:
                # The server may be another one by now, which counts anew.
                self._revisions = {k: n for k, n in self._revisions.items() if k[0] != place.region}
                async with aclosing(place.registers.watch(prefix)) as changes:
                    async for register in changes:
                        failures = 0
                        self._note(place.region, register)
            except LogError:
                failures += 1
            await asyncio.sleep(_pause_s(failures))

    def _note(self, region: RegionId, register: Register) -> None:
        key = (region, register.key)
        if self._revisions.get(key, 0) >= register.revision:
            return  # a watch that trails what was asked for directly
        self._revisions[key] = register.revision
        try:
            if register.key.startswith(HOMES_PREFIX):
                self._note_home(region, decode_home(register.value))
            elif register.key.startswith(CANARIES_PREFIX):
                self._note_canary(region, register)
            else:
                self._note_progress(region, register)
        except (msgspec.DecodeError, ValueError):
            return  # of a program that is newer than this one: it tells us nothing

    def _note_home(self, region: RegionId, home: Home) -> None:
        index = IndexName(home.index)
        self._records[region, index] = home
        records = [record for (_, name), record in self._records.items() if name == index]
        decided, known = decide(records, len(self._places)), self.topology.homes.get(index)
        if decided is None or (known is not None and known.epoch >= decided.epoch):
            return
        self._publish(replace(self.topology, homes={**self.topology.homes, index: decided}))

    def _note_progress(self, region: RegionId, register: Register) -> None:
        _, home, shard = register.key.split(".")
        progress = {
            **self.topology.progress,
            (region, RegionId(home), int(shard)): watermarks.decode(register.value),
        }
        self._publish(replace(self.topology, progress=progress))

    def _note_canary(self, region: RegionId, register: Register) -> None:
        key = IndexName(register.key.removeprefix(CANARIES_PREFIX)), region
        canaries = {**self.topology.canaries, key: decode_canary(register.value)}
        self._publish(replace(self.topology, canaries=canaries))

    # --- What is measured --------------------------------------------------------------------

    async def _measure_log(self, place: Place) -> None:
        failures, region = 0, place.region
        while True:
            try:
                began_s = self._clock()
                state = await place.log.state(0, timeout_s=CALL_S)
                took_s = self._clock() - began_s
                # Cristian, 1989: the server looked at its clock somewhere within the round trip.
                offset_s = state.now_s - (began_s + took_s / 2)
                self._publish(
                    replace(
                        self.topology,
                        clock_s={**self.topology.clock_s, region: offset_s},
                        logs_s={**self.topology.logs_s, region: took_s},
                    )
                )
                failures = 0
                await asyncio.sleep(PROBE_S)
            except LogError:
                failures += 1
                left = {r: seconds for r, seconds in self.topology.logs_s.items() if r != region}
                self._publish(replace(self.topology, logs_s=left))
                await asyncio.sleep(_pause_s(failures))

    async def _measure_replica(self, index: IndexName, region: RegionId, ask: Probe) -> None:
        failures = 0
        while True:
            began_s = self._clock()
            try:
                await ask(CALL_S)
            except ReplicaError:
                failures += 1
            else:
                failures = 0
                self.took(index, region, self._clock() - began_s)
            await asyncio.sleep(_pause_s(failures) if failures else PROBE_S)

    def _publish(self, topology: Topology, *, is_news: bool = True) -> None:
        self.topology = topology
        if is_news:
            self._changed.set()
            self._changed = asyncio.Event()


def _pause_s(failures: int) -> float:
    return AGAIN_S[min(max(failures, 1), len(AGAIN_S)) - 1]
