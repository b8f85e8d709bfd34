"""Questions beside a saturating ingestion, on the embedded model; and whether what was taken is there."""

import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Protocol

import aiohttp

from bench.node_process import NodeProcess, call
from bench.serving import Call, Gateway, Seen, gateway, offer
from gateway.data import corpus_path, questions_path

TENANT, WRITERS = "quiet00000000000", 8
WRITING = "writer0000000000"
BATCH = 24
QUESTIONS_PER_S = 4.0
WORST_ADDED_MS = 500.0
"""What ingestion may add to a question's p99: a batch under way, and its part of two cores."""
DIMENSION = 384


class Report(Protocol):
    def say(self, line: str = "") -> None: ...

    def judge(self, is_good: bool, line: str) -> None: ...


class Ingestion:
    """Writers that send as fast as they are answered, and come back when a refusal says so."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.accepted: set[str] = set()
        self.refused = self.without_retry_after = 0
        self.slowest_refusal_s = 0.0
        self.is_over = False
        self._rng = Random(1)
        self._texts = [json.loads(line)["text"] for line in corpus_path().read_text("utf-8").splitlines()]

    def _batches(self, writer: int) -> Iterator[dict[str, str]]:
        rng, number = Random(writer), 0
        while True:
            number += 1
            batch = rng.sample(self._texts, BATCH)
            # A number in each text, so that none is there already.
            yield {f"w{writer}-{number}-{at}": f"{number}. {text}" for at, text in enumerate(batch)}

    async def write(self, session: aiohttp.ClientSession, writer: int) -> None:
        """Until it is over."""
        loop = asyncio.get_running_loop()
        for batch in self._batches(writer):
            body = b"\n".join(json.dumps({"_id": id_, "text": text}).encode() for id_, text in batch.items())
            while not self.is_over:
                began_s = loop.time()
                path = f"{self._url}/i/docs/records/namespaces/n/upsert"
                async with session.post(path, data=body) as answer:
                    await answer.read()
                    if answer.status == 201:
                        self.accepted.update(batch)
                        break
                    self.refused += 1
                    self.without_retry_after += "Retry-After" not in answer.headers
                    self.slowest_refusal_s = max(self.slowest_refusal_s, loop.time() - began_s)
                    # A hasty client: it comes back sooner than it is told.
                    wait_s = float(answer.headers.get("Retry-After", 1)) * self._rng.uniform(0.1, 0.3)
                await asyncio.sleep(wait_s)
            if self.is_over:
                return

    async def missing(self, session: aiohttp.ClientSession) -> int:
        """How many of the acknowledged records are not there."""
        left, ids = 0, iter(sorted(self.accepted))
        while some := list(islice(ids, 100)):
            params = [("namespace", "n"), *(("ids", id_) for id_ in some)]
            async with session.get(f"{self._url}/i/docs/vectors/fetch", params=params) as answer:
                left += len(set(some) - set((await answer.json())["vectors"]))
        return left


async def run(folder: Path, rounds: int, seconds: float, report: Report) -> None:
    """Alternate rounds without and with ingestion, and report."""
    report.say(
        f"## Ingestion\n\n{WRITERS} writers of {BATCH} records; {QUESTIONS_PER_S:g} questions a second.\n"
    )
    node = NodeProcess(folder / "node")
    await node.start()
    try:
        async with aiohttp.ClientSession() as session:
            spec = {
                "name": "docs",
                "dimension": DIMENSION,
                "metric": "dotproduct",
                "spec": {"serverless": {}},
            }
            await call(session, "POST", f"{node.url}/indexes", spec)
        async with gateway(
            folder,
            [{"id": tenant, "name": tenant} for tenant in (TENANT, WRITING)],
            {},
            embedders={"minilm": {"kind": "local", "max_waiting_passages": 128}},
            indexes={"docs": index(node.url)},
        ) as server:
            await _measure(server, rounds, seconds, report)
    finally:
        await node.stop()


def index(node_url: str) -> dict[str, Any]:
    replica = {"region": "us-east", "kind": "pinecone", "url": f"{node_url}/i/docs"}
    return {"dimension": DIMENSION, "embedder": "minilm", "replicas": [replica]}


async def _measure(server: Gateway, rounds: int, seconds: float, report: Report) -> None:
    questions = [json.loads(line)["question"] for line in questions_path().read_text("utf-8").splitlines()]
    bodies = [json.dumps({"query": {"inputs": {"text": q}, "top_k": 5}}).encode() for q in questions]
    asking = Call("/i/docs/records/namespaces/n/search", TENANT, bodies)
    ingestion, alone, beside, beside_s = Ingestion(server.url), Seen(), Seen(), 0.0
    headers = {"Authorization": f"Bearer {WRITING}"}
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=120)) as session:
        await offer(server.url, asking, per_s=QUESTIONS_PER_S, seconds=2, seed=0)
        for number in range(rounds):
            alone.add(await offer(server.url, asking, per_s=QUESTIONS_PER_S, seconds=seconds, seed=number))
            async with asyncio.TaskGroup() as tasks:
                began_s = loop.time()
                writers = [
                    tasks.create_task(ingestion.write(session, number * WRITERS + each))
                    for each in range(WRITERS)
                ]
                await asyncio.sleep(1)
                beside.add(
                    await offer(server.url, asking, per_s=QUESTIONS_PER_S, seconds=seconds, seed=number)
                )
                ingestion.is_over = True  # what is under way is still answered, and counts
                for writer in writers:
                    await writer
                ingestion.is_over = False
                beside_s += loop.time() - began_s
        missing = await ingestion.missing(session)
    report.say("| questions | answered | p50 ms | p90 ms | p99 ms |\n|---|---|---|---|---|")
    for name, seen in (("alone", alone), ("beside ingestion", beside)):
        quantiles = " | ".join(f"{seen.quantile_ms(share):.0f}" for share in (0.5, 0.9, 0.99))
        report.say(f"| {name} | {len(seen.took_s)} | {quantiles} |")
    count = len(ingestion.accepted)
    report.say(
        f"\n{count} records taken ({count / beside_s:.0f}/s), {ingestion.refused} batches pushed back "
        f"(the slowest refusal took {ingestion.slowest_refusal_s * 1000:.0f} ms)."
    )
    added_ms = beside.quantile_ms(0.99) - alone.quantile_ms(0.99)
    unanswered = sum(beside.statuses.values()) - len(beside.took_s)
    report.judge(
        added_ms <= WORST_ADDED_MS and missing == 0 and unanswered == 0 and not ingestion.without_retry_after,
        f"p99 of a question **+{added_ms:.0f} ms** (at most {WORST_ADDED_MS:.0f}), {unanswered} unanswered, "
        f"**{missing}** of the records taken missing, {ingestion.without_retry_after} refusals without "
        "Retry-After.",
    )
