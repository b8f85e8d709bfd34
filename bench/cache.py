"""`python -m bench.cache`: what the prompt cache finds, what it saves, and what finding costs.

1. Traffic as it is recorded, before the memory tier itself: a share of the requests repeats the bundled
   questions, by Zipf's law (internal users 40 %, external ones 15 to 25 %), the others are asked once. Hit
   ratios at several sizes, and what a thousand requests cost with and without.
2. A real gateway before a real node and a scripted LLM: CPU of the gateway's process per request, for hits,
   misses and with the cache asked to stay out.
"""

import argparse
import asyncio
import itertools
import json
import tempfile
from bisect import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from bench.fairness import Report
from bench.node_process import NodeProcess
from bench.serving import Gateway, gateway, scripted_llm
from gateway.caches.base import Place
from gateway.caches.memory import MemoryCache
from gateway.catalogue import SEED_MODELS
from gateway.data import corpus_path, questions_path

RESULTS = Path(__file__).parent / "results" / "cache.md"
TENANT = "cached0000000000"
REQUESTS = 50_000
ZIPF = 1.1
REPEATS = {"internal": 0.40, "external, busy": 0.25, "external": 0.20, "external, quiet": 0.15}
SIZES_MIB = (0.25, 1, 4, 64)
ANSWER_BYTES = 1_800
INPUT_TOKENS, OUTPUT_TOKENS = 1_200, 150
MIB = 1024 * 1024
PASSAGES, ASKED = 400, 400


def traffic(repeats: float, questions: Sequence[str], rng: Random) -> Iterator[str]:
    """Questions, one after the other: that share of them by Zipf's law, the others never seen again."""
    weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, len(questions) + 1)))
    for number in range(REQUESTS):
        if rng.random() < repeats:
            yield questions[bisect(weights, rng.random() * weights[-1])]
        else:
            yield f"once-{number}"


async def hit_ratio(max_bytes: int, asked: Iterator[str]) -> float:
    """The share that a memory tier of that size answers."""
    cache, hits, answer = MemoryCache(max_bytes, lambda: 0.0), 0, b"x" * ANSWER_BYTES
    for question in asked:
        place = Place(TENANT, question)
        if await cache.get(place) is not None:
            hits += 1
        else:
            await cache.put(place, answer, ttl_s=3600)
    return hits / REQUESTS


async def ratios(report: Report) -> None:
    questions = [json.loads(line)["question"] for line in questions_path().read_text().splitlines()]
    card = SEED_MODELS["gpt-4o"]
    usd = (INPUT_TOKENS * card.input_usd + OUTPUT_TOKENS * card.output_usd) / 1e6
    report.say(
        f"\n## What is found: {REQUESTS:,} requests, Zipf {ZIPF} over {len(questions)} questions, one-offs\n"
    )
    report.say(
        "| traffic | repeated | "
        + " | ".join(f"hits at {size:g} MiB" for size in SIZES_MIB)
        + " | USD per 1,000 without | with |"
    )
    report.say("|---" * (4 + len(SIZES_MIB)) + "|")
    for name, repeats in REPEATS.items():
        found = [
            await hit_ratio(int(size * MIB), traffic(repeats, questions, Random(1))) for size in SIZES_MIB
        ]
        report.say(
            f"| {name} | {repeats:.0%} | "
            + " | ".join(f"{ratio:.1%}" for ratio in found)
            + f" | {1000 * usd:.2f} | {1000 * usd * (1 - found[-1]):.2f} |"
        )
    report.say(
        f"\nAnswers of {ANSWER_BYTES} bytes, {INPUT_TOKENS} tokens in and {OUTPUT_TOKENS} out, gpt-4o."
    )


async def ask(
    session: aiohttp.ClientSession, server: Gateway, texts: Sequence[str], **headers: str
) -> tuple[float, dict[str, int]]:
    """Gateway CPU per request (µs) while all are asked, eight at a time; what the cache did with them."""
    did: dict[str, int] = {}
    todo = iter(texts)

    async def worker() -> None:
        for text in todo:
            body = {"model": "big", "messages": [{"role": "user", "content": text}]}
            url = f"{server.url}/v1/chat/completions"
            async with session.post(url, json=body, headers=headers) as answer:
                await answer.read()
                if answer.status != 200:
                    raise RuntimeError(await answer.text())
                result = answer.headers["x-meridian-cache"]
                did[result] = did.get(result, 0) + 1

    began_s = server.cpu_s()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(worker())
    return (server.cpu_s() - began_s) / len(texts) * 1e6, did


async def costs(folder: Path, report: Report) -> None:
    node = NodeProcess(folder / "node")
    await node.start()
    try:
        async with scripted_llm(0.001, 0.0) as llm, aiohttp.ClientSession() as session:
            config = await _config(session, node.url, llm)
            tenant: dict[str, Any] = {"id": TENANT, "name": "cached", "defaults": {"index": "docs"}}
            async with gateway(folder / "gateway", [tenant], {}, **config) as server:
                session.headers["Authorization"] = f"Bearer {TENANT}"
                await _ingest(session, server)
                await _measure(session, server, report)
    finally:
        await node.stop()


async def _config(session: aiohttp.ClientSession, node_url: str, llm: str) -> dict[str, Any]:
    spec = {"name": "docs", "dimension": 384, "metric": "dotproduct", "spec": {"serverless": {}}}
    async with session.post(f"{node_url}/indexes", json=spec) as answer:
        if answer.status != 201:
            raise RuntimeError(await answer.text())
    replica = {"region": "us-east", "kind": "pinecone", "url": f"{node_url}/i/docs"}
    return {
        "indexes": {"docs": {"dimension": 384, "embedder": "minilm", "replicas": [replica]}},
        "embedders": {"minilm": {"kind": "local"}},
        "models": {"big": {"upstreams": [{"kind": "openai", "base_url": llm, "model": "gpt-4o"}]}},
    }


async def _ingest(session: aiohttp.ClientSession, server: Gateway) -> None:
    passages = [json.loads(line) for line in corpus_path().read_text().splitlines()[:PASSAGES]]
    for at in range(0, len(passages), 40):
        lines = [
            json.dumps({"_id": f"p-{at + n}", "text": passage["text"]})
            for n, passage in enumerate(passages[at : at + 40])
        ]
        url = f"{server.url}/records/namespaces/__default__/upsert"
        async with session.post(url, data="\n".join(lines).encode()) as answer:
            if answer.status != 201:
                raise RuntimeError(await answer.text())


async def _measure(session: aiohttp.ClientSession, server: Gateway, report: Report) -> None:
    questions = [json.loads(line)["question"] for line in questions_path().read_text().splitlines()]
    distinct = [f"{text} ({n})" for n, text in zip(range(ASKED), itertools.cycle(questions), strict=False)]
    await ask(session, server, ["warm up"] * 20)
    told: dict[str, float] = {}
    for name, texts, headers in (
        ("cache out of it (no-store)", distinct, {"Cache-Control": "no-store"}),
        ("miss, kept", distinct, {}),
        ("hit", distinct * 4, {}),
    ):
        told[name], did = await ask(session, server, texts, **headers)
        expected = {"cache out of it (no-store)": "off", "miss, kept": "miss", "hit": "hit"}[name]
        report.judge(did == {expected: len(texts)}, f"{name}: every answer says {expected}")
    report.say("\n| | gateway CPU µs a request | of one without the cache |\n|---|---|---|")
    without = told["cache out of it (no-store)"]
    for name, us in told.items():
        report.say(f"| {name} | {us:,.0f} | {us / without:.2f} |")
    report.say("\nThe embedded model runs in the gateway's process: most of what a hit saves is its work.")


async def run(report: Report) -> None:
    await ratios(report)
    report.say(f"\n## What it costs: a gateway, a node with {PASSAGES} passages, a scripted LLM\n")
    with tempfile.TemporaryDirectory(prefix="meridian-cache-") as name:
        await costs(Path(name), report)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, default=RESULTS, help="write it there too, as Markdown")
    args = parser.parse_args()
    report = Report()
    report.say("# The prompt cache")
    asyncio.run(run(report))
    args.report.write_text("\n".join(report.lines) + "\n")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
