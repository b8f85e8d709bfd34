"""The change log on one JetStream server: appends a second, their latency, and how fast it is read back.

    python -m bench.log [--seconds 5] [--write]

Server, appenders and readers share the machine. An append is one change with one record of 384 dimensions and
a passage of text, 2 KB encoded; it is acknowledged after an fsync of the server.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from regions.change_codec import encode
from regions.changes import Upsert
from regions.logs.base import Append, Fence, Log
from regions.logs.jetstream import Config, JetStreamLog
from regions.names import IndexName, RegionId
from regions.positions import Epoch
from regions.records import Record
from regions.registers.memory import MemoryRegisters
from regions.retention import Retention
from regions.runtime import lifecycle
from regions.runtime.children import ChildEvent, keep_running
from regions.runtime.nats_server import server_child, wait_ready

REPORT: Final = Path(__file__).parent / "results" / "log.md"
REGION: Final = RegionId("us-east")
INDEX: Final = IndexName("docs")
SHARDS: Final = 4
CONCURRENT: Final = (1, 16, 128)
TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Appended:
    """What one run of appenders measured."""

    shards: int
    concurrent: int
    count: int
    took_s: float
    latencies_s: Sequence[float]

    def row(self) -> str:
        ordered = sorted(self.latencies_s)
        p50, p99 = (1_000 * ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
        per_s = self.count / self.took_s
        return f"| {self.concurrent} | {self.shards} | {per_s:,.0f} | {p50:.2f} | {p99:.2f} |"


@asynccontextmanager
async def a_log(directory: Path) -> AsyncIterator[JetStreamLog]:
    """A log on a server process of its own."""
    port, stop = lifecycle.free_port(), asyncio.Event()
    url = f"nats://127.0.0.1:{port}"
    spec = server_child("log", domain=REGION, directory=directory, port=port, log=directory / "server.log")

    def ignore(_: ChildEvent) -> None:
        """A server that ends makes the benchmark fail by itself."""

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_running(spec, stop, ignore))
        await wait_ready(url, domain=REGION, timeout_s=10)
        config = Config(urls=[url], shards=SHARDS, retention=Retention(age_s=0.001))
        log = JetStreamLog(config, region=REGION, registers=MemoryRegisters(), token=None)
        await log.start()
        try:
            yield log
        finally:
            await log.close()
            stop.set()


async def run_appenders(
    log: Log, fence: Fence, change: Append, *, shards: int, concurrent: int, seconds: float
) -> Appended:
    """Appenders that each wait for their acknowledgement before the next append."""
    latencies: list[float] = []
    begin_s = time.perf_counter()

    async def appender(shard: int) -> None:
        while (now_s := time.perf_counter()) < begin_s + seconds:
            await log.append(fence, shard, [change], timeout_s=TIMEOUT_S)
            latencies.append(time.perf_counter() - now_s)

    async with asyncio.TaskGroup() as tasks:
        for number in range(concurrent):
            tasks.create_task(appender(number % shards))
    return Appended(shards, concurrent, len(latencies), time.perf_counter() - begin_s, latencies)


async def read_all(log: Log) -> tuple[int, float]:
    """Read every shard from its origin at the same time: how many entries, and in how many seconds."""
    begin_s = time.perf_counter()

    async def read_shard(shard: int) -> int:
        state = await log.state(shard, timeout_s=TIMEOUT_S)
        async with aclosing(log.read(shard, state.first - 1, state.incarnation)) as entries:
            async for entry in entries:
                if entry.sequence == state.last:
                    break
        return state.last - state.first + 1

    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(read_shard(shard)) for shard in range(log.shards)]
    return sum(task.result() for task in made), time.perf_counter() - begin_s


def sample(rng: random.Random) -> Append:
    text = " ".join(f"word{rng.randrange(1000)}" for _ in range(50))
    record = Record("passage-000001", [rng.gauss(0, 0.05) for _ in range(384)], None, {"_m.text": text})
    return Append("tenant0000000000.docs", Upsert([record]))


async def measure(seconds: float) -> str:
    change = sample(random.Random(1))
    lines = []
    with tempfile.TemporaryDirectory() as directory:
        async with a_log(Path(directory)) as log:
            fence = await log.open_epoch(INDEX, Epoch(1), timeout_s=TIMEOUT_S)
            for shards in (1, SHARDS):
                for concurrent in CONCURRENT:
                    found = await run_appenders(
                        log, fence, change, shards=shards, concurrent=concurrent, seconds=seconds
                    )
                    lines.append(found.row())
                    print(lines[-1], flush=True)
            count, took_s = await read_all(log)
            begin_s = time.perf_counter()
            await log.trim()
            trimmed_s = time.perf_counter() - begin_s
    size = len(encode(Epoch(1), change.namespace, change.body))
    rows = "\n".join(lines)
    rate = f"{count / took_s:,.0f}"
    return f"""\
# The change log on one server

`python -m bench.log --write`, {os.cpu_count()} cores, which server, appenders and readers share;
`sync_interval: always`, one copy. An append is one change of {size:,} bytes, acknowledged after the server's
fsync. Each appender waits for its acknowledgement before the next append.

| appenders | shards | appends/s | p50 ms | p99 ms |
|---|---|---|---|---|
{rows}

- Reading {count:,} entries of {SHARDS} shards at the same time, checked and decoded: **{rate} entries/s**.
- Trimming all of them, the fence kept: {trimmed_s:.2f} s.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each row is measured")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT}")
    args = parser.parse_args()
    report = uvloop.run(measure(args.seconds))
    print(report)
    if args.write:
        REPORT.write_text(report, "utf-8")


if __name__ == "__main__":
    main()
