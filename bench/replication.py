"""How late replicas are under sustained writes: three regions on this machine, WAN delays between them.

    python -m bench.replication [--seconds 120] [--one 1000 1150] [--each 300 340] [--report FILE]

Two loads at several rates: from one home, and from all three at once; vectors of 384 dimensions, upserted
through the home's gateway in batches, 20,000 records in each region to start with, graphs on. The generator
shares the machine.

A write is applied (queryable) in a region when the follower there has said so in its register, which it does
at most every 200 ms; lag counts from the client's acknowledgement. So the figures hold that delay too.
"""

import argparse
import asyncio
import os
import tempfile
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import numpy as np
import psutil
import uvloop

from bench.three_regions import Rig, running
from gateway.up import plan
from regions.names import IndexName, NamespaceRef, RegionId
from regions.pinecone_api import REQUEST_LSN_HEADER
from regions.positions import parse_lsn, sequence_of
from regions.registers import jetstream
from regions.replicator.watermarks import Progress, decode
from regions.topology import shard_of

HOMES: Final = {f"docs-{region}": region for region in plan.REGIONS}
SHARDS: Final = 4
NAMESPACES: Final = 4
"""Of each index."""
PRELOAD: Final = 20_000
"""Records a region before anything is measured, over all indexes."""
POOL: Final = 4_000
"""Different vectors."""
BATCH: Final = 50
PATIENCE_S: Final = 600.0
TARGET_S: Final = 2.0


class Pair(NamedTuple):
    """Writes at `home`, seen in `region`."""

    home: str
    region: str


@dataclass
class Lags:
    """Seconds from the acknowledgement of each write to where it was applied and where it was queryable."""

    applied: list[float] = field(default_factory=list)
    queryable: list[float] = field(default_factory=list)


class Waiting(NamedTuple):
    sequence: int
    acked_s: float


class Watch:
    """Listens to every region's followers, and knows when each write has come."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._latest: dict[tuple[str, str, int], Progress] = {}
        self._waiting: dict[tuple[str, NamespaceRef, str], deque[Waiting]] = defaultdict(deque)
        self.lags: dict[Pair, Lags] = defaultdict(Lags)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(self._watch(place)) for place in self._rig.places]
            yield
            for task in watching:
                task.cancel()

    async def _watch(self, place: plan.Place) -> None:
        config = jetstream.Config(urls=[self._rig.plan.log_url(place, place)])
        registers = jetstream.build(config, region=RegionId(place.region), resolve=str)
        try:
            async with aclosing(registers.watch("progress.")) as changes:
                async for register in changes:
                    _, home, shard = register.key.split(".")
                    self._latest[place.region, home, int(shard)] = decode(register.value)
                    self._settle(place.region, home, int(shard))
        finally:
            await registers.close()

    def acked(self, namespace: NamespaceRef, home: str, sequence: int) -> None:
        """A write was acknowledged just now."""
        waiting = Waiting(sequence, _now_s())
        for place in self._rig.places:
            for kind in ("applied", "queryable"):
                self._waiting[place.region, namespace, kind].append(waiting)
            self._settle(place.region, home, shard_of(namespace, SHARDS))

    def _settle(self, region: str, home: str, shard: int) -> None:
        """Take note of the writes that are there by now."""
        progress = self._latest.get((region, home, shard))
        if progress is None:
            return
        now_s, lags = _now_s(), self.lags[Pair(home, region)]
        for (where, namespace, kind), waiting in self._waiting.items():
            if where != region or HOMES[namespace.index] != home or shard_of(namespace, SHARDS) != shard:
                continue
            reached: int = getattr(progress.mark(namespace), kind)
            while waiting and waiting[0].sequence <= reached:
                getattr(lags, kind).append(now_s - waiting.popleft().acked_s)

    @property
    def missing(self) -> int:
        """Writes that are not queryable in some region."""
        return sum(len(waiting) for waiting in self._waiting.values())

    async def drained(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.missing:  # noqa: ASYNC110 - many registers, no single event
                await asyncio.sleep(0.05)


class Generator:
    """Upserts batches through the homes' gateways."""

    def __init__(self, rig: Rig, watch: Watch) -> None:
        self._rig, self._watch = rig, watch
        self._values = list(_encoded_vectors())
        self._next = 0
        self.acks_s: list[float] = []
        self.refused = 0

    async def steady(self, index: str, per_s: float, seconds: float) -> None:
        """So many vectors a second, whatever the answers take."""
        loop = asyncio.get_running_loop()
        begun, count = loop.time(), int(per_s * seconds / BATCH)
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                await asyncio.sleep(max(0.0, begun + number * BATCH / per_s - loop.time()))
                tasks.create_task(self.upsert(index, number))

    async def fill(self, index: str, records: int) -> None:
        """As fast as it goes, four at once."""
        numbers = iter(range(records // BATCH))

        async def hand() -> None:
            for number in numbers:
                await self.upsert(index, number)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(hand())

    async def upsert(self, index: str, number: int) -> None:
        name = f"n{number % NAMESPACES}"
        place = next(place for place in self._rig.places if place.region == HOMES[index])
        url = f"{place.gateway_url}/i/{index}/vectors/upsert"
        begun = _now_s()
        timeout = aiohttp.ClientTimeout(total=30)
        async with self._rig.http.post(
            url, data=self._body(name), headers=self._headers, timeout=timeout
        ) as answer:
            await answer.read()
        if answer.status != 200:
            self.refused += 1
            return
        self.acks_s.append(_now_s() - begun)
        namespace = NamespaceRef(IndexName(index), f"{plan.TENANT}.{name}")
        sequence = sequence_of(parse_lsn(answer.headers[REQUEST_LSN_HEADER]))
        self._watch.acked(namespace, HOMES[index], sequence)

    @property
    def _headers(self) -> Mapping[str, str]:
        return {**self._rig.headers, "Content-Type": "application/json"}

    def _body(self, namespace: str) -> bytes:
        """New ids, vectors from the pool: what costs is the index's work, not the generator's."""
        first, self._next = self._next, self._next + BATCH
        vectors = b",".join(
            b'{"id":"r%d","values":%b}' % (number, self._values[number % POOL])
            for number in range(first, first + BATCH)
        )
        return b'{"namespace":"%b","vectors":[%b]}' % (namespace.encode(), vectors)


def _encoded_vectors() -> Iterator[bytes]:
    vectors = np.random.default_rng(7).standard_normal((POOL, plan.SHAPE.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for vector in vectors:
        yield b"[%b]" % b",".join(b"%.6f" % value for value in vector)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


# --- What it costs -----------------------------------------------------------------------------------


def cpu_s(rig: Rig) -> dict[str, float]:
    """CPU seconds of every process so far, by name; `generator` is this one."""
    found = {"generator": _cpu_s(os.getpid())}
    for name in rig.processes.resident_bytes():
        pid = rig.processes.pid(name)
        if pid is not None:
            found[name] = _cpu_s(pid)
    return found


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@dataclass
class Measured:
    """One load: what was asked for, what came of it."""

    name: str
    vectors: int
    took_s: float
    lags: Mapping[Pair, Lags]
    cpu: Mapping[str, float]
    """CPU seconds by process."""
    acks_s: Sequence[float]
    refused: int
    drained_s: float

    @property
    def holds(self) -> bool:
        return not self.refused and all(_at(lags.applied, 0.99) < TARGET_S for lags in self.lags.values())

    def lines(self) -> list[str]:
        per_s = self.vectors / self.took_s
        kinds: dict[str, float] = defaultdict(float)
        for name, seconds in self.cpu.items():
            kinds[name.rpartition(" ")[2]] += seconds
        shares = ", ".join(
            f"{kind} {seconds / self.vectors * 1e6:.0f}" for kind, seconds in sorted(kinds.items())
        )
        busiest = max(self.cpu, key=lambda name: self.cpu[name])
        total = sum(self.cpu.values())
        return [
            f"## {self.name}",
            "",
            f"p99 applied under {TARGET_S:g} s everywhere: {'yes' if self.holds else 'no'}.",
            "",
            f"{self.vectors:,} vectors in {self.took_s:.0f} s: {per_s:,.0f}/s; {self.refused} refused, "
            f"acknowledged p50 {_ms(self.acks_s, 0.5)} ms, p99 {_ms(self.acks_s, 0.99)} ms; "
            f"everything queryable everywhere {self.drained_s:.1f} s after the last.",
            "",
            "| from | in | applied p50 | p99 | queryable p50 | p99 (ms) |",
            "|---|---|---:|---:|---:|---:|",
            *(
                f"| {pair.home} | {pair.region} | {_ms(lags.applied, 0.5)} | {_ms(lags.applied, 0.99)} "
                f"| {_ms(lags.queryable, 0.5)} | {_ms(lags.queryable, 0.99)} |"
                for pair, lags in sorted(self.lags.items())
                if lags.applied
            ),
            "",
            f"CPU: {total / self.took_s:.2f} of {os.cpu_count()} cores busy; microseconds a vector (three "
            f"regions together): {shares}; {total / self.vectors * 1e6:.0f} in all. The busiest process is "
            f"{busiest} with {self.cpu[busiest] / self.took_s:.0%} of a core.",
            "",
        ]


def _at(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else 0.0


def _ms(values: Sequence[float], part: float) -> str:
    return f"{1000 * _at(values, part):.0f}"


async def measure(rig: Rig, name: str, loads: Mapping[str, float], seconds: float) -> Measured:
    """Writes of so many vectors a second into each index, for so long."""
    watch = Watch(rig)
    async with watch.running():
        generator = Generator(rig, watch)
        before, begun = cpu_s(rig), _now_s()
        async with asyncio.TaskGroup() as tasks:
            for index, per_s in loads.items():
                tasks.create_task(generator.steady(index, per_s, seconds))
        took_s, cpu = _now_s() - begun, cpu_s(rig)
        ended = _now_s()
        await watch.drained()
    return Measured(
        name,
        len(generator.acks_s) * BATCH,
        took_s,
        watch.lags,
        {process: cpu[process] - before.get(process, 0.0) for process in cpu},
        generator.acks_s,
        generator.refused,
        _now_s() - ended,
    )


async def preload(rig: Rig) -> None:
    watch = Watch(rig)
    async with watch.running():
        generator = Generator(rig, watch)
        for index in HOMES:
            await generator.fill(index, PRELOAD // len(HOMES))
        await watch.drained()


async def run(args: argparse.Namespace) -> list[Measured]:
    with tempfile.TemporaryDirectory(prefix="meridian-replication-") as folder:
        print("starting three regions", flush=True)
        async with running(Path(folder) / "regions", homes=HOMES) as rig:
            print(f"{PRELOAD:,} records a region to start with", flush=True)
            await preload(rig)
            results = []
            first = next(iter(HOMES))
            for name, loads in (
                *((f"{rate:,.0f} vectors/s from one home", {first: rate}) for rate in args.one),
                *(
                    (f"{rate:,.0f} vectors/s from each of three homes at once", dict.fromkeys(HOMES, rate))
                    for rate in args.each
                ),
            ):
                measured = await measure(rig, name, loads, args.seconds)
                print("\n".join(measured.lines()), flush=True)
                results.append(measured)
            return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument(
        "--one", type=float, nargs="*", default=[1_000.0, 1_150.0], help="vectors/s from one home, in turn"
    )
    parser.add_argument(
        "--each", type=float, nargs="*", default=[300.0, 340.0], help="vectors/s from each home, in turn"
    )
    parser.add_argument("--report", type=Path, help="write it there too, as Markdown")
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(run(args))
    if args.report:
        intro = [
            "# Replication lag under sustained writes",
            "",
            f"384 dimensions, {BATCH} vectors a request, {PRELOAD:,} records a region to start with, round "
            f"trips of 80 (us-eu), 220 (us-ap) and 160 ms (eu-ap), {os.cpu_count()} cores for all this "
            "and the generator. Lag: from the acknowledgement to the follower's register (each 200 ms).",
            "",
        ]
        args.report.write_text("\n".join([*intro, *(line for each in results for line in each.lines())]))


if __name__ == "__main__":
    main()
