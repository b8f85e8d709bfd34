"""`python -m bench.node`: recall, latency, throughput and memory of the node, over HTTP, in a real process.

Data: unit vectors with the traits of sentence embeddings that matter to a graph: topics (2,000 centres of
Zipf-like size), a low intrinsic dimension (variation within a topic spans 48 directions shared by all) and
a little noise in every direction. Queries are drawn from the same topics. The exact answers come from a
brute-force search over the same float32 values.
"""

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import faiss
import msgspec
import numpy as np
import numpy.typing as npt
import psutil

from bench.node_process import NodeProcess, call

DIMENSION = 384
BATCH = 200
TOP_K = 10
QUERIES = 200
SHARES = {"unfiltered": None, "50 %": 2, "10 %": 10, "1 %": 100, "0.1 %": 1_000}
RESULTS = Path(__file__).parent / "results" / "node.md"

Floats = npt.NDArray[np.float32]


def embeddings(count: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Endless portions of (count, DIMENSION) unit vectors from one set of topics."""
    centres = rng.standard_normal((2_000, DIMENSION)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    directions = rng.standard_normal((48, DIMENSION)).astype(np.float32) / np.sqrt(DIMENSION)
    sizes = 1 / np.arange(20, 2_020)
    while True:
        topics = rng.choice(2_000, count, p=sizes / sizes.sum())
        inner = rng.standard_normal((count, 48)).astype(np.float32) @ directions
        noise = rng.standard_normal((count, DIMENSION)).astype(np.float32) / np.sqrt(DIMENSION)
        vectors = centres[topics] + 0.11 * inner + 0.25 * noise
        yield (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@dataclass
class Bench:
    """One run over a node at `url`."""

    url: str
    session: aiohttp.ClientSession
    process: psutil.Process
    vectors: Floats
    queries: Floats
    labels: npt.NDArray[np.int64]
    lines: list[str] = field(default_factory=list)

    def say(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system

    async def create(self) -> None:
        body = {"name": "bench", "dimension": DIMENSION, "metric": "dotproduct", "spec": {"serverless": {}}}
        await call(self.session, "POST", f"{self.url}/indexes", body)

    def bodies(self, slots: npt.NDArray[np.int64]) -> Iterator[bytes]:
        for start in range(0, len(slots), BATCH):
            records = [self.record(slot) for slot in slots[start : start + BATCH].tolist()]
            yield msgspec.json.encode({"namespace": "n", "vectors": records})

    def record(self, slot: int) -> dict[str, Any]:
        values = np.round(self.vectors[slot].astype(np.float64), 6).tolist()
        return {"id": f"r{slot:06d}", "values": values, "metadata": self.metadata(slot)}

    def metadata(self, slot: int) -> dict[str, int]:
        return {f"of{share}": int(self.labels[slot] % share) for share in SHARES.values() if share}

    async def upsert(self, slots: npt.NDArray[np.int64]) -> None:
        """Send the records in batches, four in flight."""
        waiting = self.bodies(slots)

        async def sender() -> None:
            for body in waiting:
                await call(self.session, "POST", f"{self.url}/i/bench/vectors/upsert", body)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(sender())

    async def query(self, vector: Floats, share: int | None, **options: Any) -> list[str]:
        body: dict[str, Any] = {"namespace": "n", "topK": TOP_K, "vector": vector.tolist(), **options}
        if share is not None:
            body["filter"] = {f"of{share}": 0}
        answer = await call(self.session, "POST", f"{self.url}/i/bench/query", body)
        return [match["id"] for match in answer["matches"]]

    async def status(self) -> dict[str, Any]:
        return await call(self.session, "GET", f"{self.url}/statusz")

    async def settle(self) -> float:
        """Wait until no namespace is being maintained; the seconds that took."""
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        while (await self.status())["in_maintenance"]:  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(0.5)
        return loop.time() - start_s

    def exact(self, share: int | None) -> list[set[str]]:
        """The true answers, from the values that were sent."""
        kept = np.arange(len(self.vectors)) if share is None else np.flatnonzero(self.labels % share == 0)
        _, found = faiss.knn(
            self.queries, np.round(self.vectors[kept], 6), TOP_K, metric=faiss.METRIC_INNER_PRODUCT
        )
        return [{f"r{kept[slot]:06d}" for slot in row if slot >= 0} for row in found]

    async def measure(self, share: int | None, **options: Any) -> tuple[float, float, float, float]:
        """Recall, p50 and p99 (ms) and server CPU (ms) of a query; one in flight."""
        loop, truth = asyncio.get_running_loop(), self.exact(share)
        await self.query(self.queries[0], share, **options)  # builds the filter's column
        spent_s, hits, cpu_s = [], 0, self.cpu_s()
        for vector, right in zip(self.queries, truth, strict=True):
            start_s = loop.time()
            hits += len(right & set(await self.query(vector, share, **options)))
            spent_s.append(loop.time() - start_s)
        cpu_ms = (self.cpu_s() - cpu_s) / len(truth) * 1000
        cuts = statistics.quantiles(spent_s, n=100)
        return hits / sum(map(len, truth)), cuts[49] * 1000, cuts[98] * 1000, cpu_ms

    async def table(self) -> float:
        """Print recall and latency by filter; the lowest recall."""
        self.say("| records that match | recall@10 | p50 ms | p99 ms | server CPU ms a query |")
        self.say("|---|---|---|---|---|")
        lowest = 1.0
        for name, share in SHARES.items():
            recall, p50, p99, cpu = await self.measure(share)
            lowest = min(lowest, recall)
            self.say(f"| {name} | {recall:.4f} | {p50:.2f} | {p99:.2f} | {cpu:.2f} |")
        return lowest


async def ingest(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    count = len(bench.vectors)
    start_s, cpu_s = loop.time(), bench.cpu_s()
    await bench.upsert(np.arange(BATCH))
    await bench.query(bench.queries[0], None)  # so that the namespace is in memory while it grows
    await bench.upsert(np.arange(BATCH, count))
    spent_s = loop.time() - start_s
    stall = (await bench.status())["longest_stall_ms"]
    waited_s = await bench.settle()
    cpu_ms = (bench.cpu_s() - cpu_s) / count * 1000
    bench.say(
        f"- Upsert over HTTP, {BATCH} a request, 4 in flight, graph growing beside: "
        f"**{count / spent_s:,.0f} vectors/s** ({spent_s:.1f} s); longest event-loop stall {stall} ms."
    )
    bench.say(
        f"- The graph stood {waited_s:.0f} s after the last upsert; {cpu_ms:.2f} ms of server CPU a vector, "
        "graph included (until then the rest is scanned, so answers are exact)."
    )


async def rebuild(bench: Bench) -> float:
    """Overwrite a quarter, which triggers a rebuild; the longest stall (ms) while it ran under queries."""
    loop = asyncio.get_running_loop()
    quarter = np.arange(0, len(bench.vectors), 4)
    await bench.upsert(quarter)
    await bench.status()  # forgets the stalls of the upsert
    start_s, spent_s, longest = loop.time(), [], 0.0
    while (status := await bench.status())["in_maintenance"]:
        longest = max(longest, float(status["longest_stall_ms"]))
        for vector in bench.queries[:20]:
            asked_s = loop.time()
            await bench.query(vector, None)
            spent_s.append(loop.time() - asked_s)
    longest = max(longest, float(status["longest_stall_ms"]))
    cuts = statistics.quantiles(spent_s, n=100) if len(spent_s) > 2 else [0.0] * 99
    bench.say(
        f"- Rebuild after overwriting {len(quarter):,} records: {loop.time() - start_s:.0f} s beside, "
        f"**longest event-loop stall {longest} ms**; queries meanwhile p50 {cuts[49] * 1000:.2f} ms, "
        f"p99 {cuts[98] * 1000:.1f} ms."
    )
    return longest


async def main(count: int, write: Callable[[str], object]) -> int:
    rng = np.random.default_rng(7)
    portions = embeddings(count, rng)
    vectors, queries = next(portions), next(portions)[:QUERIES]
    labels = rng.permutation(count)
    with tempfile.TemporaryDirectory(prefix="bench-node-") as folder:
        node = NodeProcess(Path(folder) / "data", memory_limit_bytes=4 << 30)
        timeout = aiohttp.ClientTimeout(total=600)
        await node.start()
        async with aiohttp.ClientSession(timeout=timeout) as session:
            try:
                bench = Bench(node.url, session, psutil.Process(node.pid), vectors, queries, labels)
                bench.say(f"# The node at {count:,} x {DIMENSION}\n")
                about = (__doc__ or "").split("\n", 2)[2].strip()
                bench.say(f"`python -m bench.node`, {psutil.cpu_count()} cores. {about}\n")
                await bench.create()
                await ingest(bench)
                bench.say(f"- RSS with the graph: {bench.process.memory_info().rss / 2**20:,.0f} MiB.\n")
                lowest = await bench.table()
                bench.say()
                longest = await rebuild(bench)
                recall, p50, _, cpu = await bench.measure(None, includeMetadata=True)
                bench.say(
                    f"- After it: recall@10 {recall:.4f}; with metadata p50 {p50:.2f} ms, CPU {cpu:.2f} ms."
                )
                lowest = min(lowest, recall)
                await reopen(node, bench)
            finally:
                await node.stop()
    is_good = lowest >= 0.99 and longest <= 50
    bench.say(
        f"\n{'Met' if is_good else 'NOT met'}: recall@10 >= 0.99 everywhere, stall <= 50 ms in a rebuild."
    )
    write("\n".join(bench.lines) + "\n")
    return 0 if is_good else 1


async def reopen(node: NodeProcess, bench: Bench) -> None:
    """Stop, start, and ask at once."""
    loop = asyncio.get_running_loop()
    await node.stop()
    start_s = loop.time()
    await node.start()
    bench.url, bench.process = node.url, psutil.Process(node.pid)
    ready_s = loop.time() - start_s
    asked_s = loop.time()
    await bench.query(bench.queries[0], None)
    first_s = loop.time() - asked_s
    _, p50, _, _ = await bench.measure(None)
    waited_s = await bench.settle()
    rss = bench.process.memory_info().rss / 2**20
    bench.say(
        f"- Cold open: ready {ready_s:.2f} s after the process began, first query {first_s:.2f} s later "
        f"(it loads the namespace), then {p50:.2f} ms p50 while the graph grows; it stood {waited_s:.0f} s "
        f"later; RSS {rss:,.0f} MiB."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--dry", action="store_true", help="do not write the report")
    arguments = parser.parse_args()
    raise SystemExit(
        asyncio.run(main(arguments.records, (lambda text: None) if arguments.dry else RESULTS.write_text))
    )
