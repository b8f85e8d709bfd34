"""What telemetry costs: CPU of the gateway's process a request, by what is switched on.

One gateway process answers a streamed RAG chat (embed, query, pack, 32 tokens); model, embedder, index and
collector are another process, and so is the load. Every setting gets a process of its own in every round, and
they take turns, so that a machine that warms up or slows down does so for all. A second table has the plain
proxy without retrieval, of which telemetry is the larger part.

    python -m bench.telemetry            prints, and writes bench/results/telemetry.md
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import structlog
import yaml
from aiohttp import web

from gateway.app import run_gateway
from gateway.cli.loading import load_gateway
from gateway.context import RequestContext
from gateway.observe import Observer
from gateway.tenants import digest_key
from regions.runtime import lifecycle

DIMENSION: Final = 384
TOKENS: Final = 32
AT_ONCE: Final = 8
KEY, PEPPER = "a key of the benchmark", "a pepper of the benchmark"
RESULTS: Final = Path(__file__).parent / "results" / "telemetry.md"

MODES: Final[Mapping[str, dict[str, Any]]] = {
    "everything off": {},
    "metrics and receipts": {"log": {"level": "error"}},
    "+ logs": {"log": {"level": "info"}},
    "+ traces at 1%": {"log": {"level": "info"}, "ratio": 0.01},
    "+ traces at 100%": {"log": {"level": "info"}, "ratio": 1.0},
}
"""In the order of the table. The first has an observer that looks away."""


def look_away(self: Observer, ctx: RequestContext, call: str, error: BaseException | None) -> None:
    """In the place of `Observer.ended`: nothing is counted, kept or said."""


# --- What stands around the gateway ---------------------------------------------------------------


def surroundings() -> web.Application:
    """Model, embedder, index and collector, as quick as they can be."""
    words = [_chunk({"role": "assistant"}), *(_chunk({"content": f"word{n} "}) for n in range(TOKENS))]
    end = b'data: {"choices":[],"usage":{"prompt_tokens":200,"completion_tokens":32,"total_tokens":232}}\n\n'
    vector = [1 / DIMENSION**0.5] * DIMENSION
    passage = {"text": "The Karst hills are made of limestone. " * 6, "title": "Hills"}
    embedded = json.dumps({"data": [{"index": 0, "embedding": vector}], "usage": {"total_tokens": 9}})
    matches = [{"id": f"r{n}", "score": 0.9 - n / 100, "metadata": passage} for n in range(8)]
    found = json.dumps({"matches": matches, "namespace": "", "usage": {"readUnits": 1}})

    async def chat(_: web.Request) -> web.StreamResponse:
        body = b"".join([*words, _chunk({}, "stop"), end, b"data: [DONE]\n\n"])
        return web.Response(body=body, content_type="text/event-stream")

    async def taken(http: web.Request) -> web.Response:
        await http.read()
        return web.Response(content_type="application/x-protobuf")

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/embeddings", lambda _: _json(embedded))
    app.router.add_post("/query", lambda _: _json(found))
    app.router.add_post("/v1/traces", taken)
    return app


async def _json(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def configure(directory: Path, around: str, mode: str, port: int) -> Path:
    """The gateway's file for one setting."""
    wanted = dict(MODES[mode])
    ratio = wanted.pop("ratio", None)
    digest = digest_key(KEY, PEPPER.encode())
    tenant = {"id": "tenant0000000001", "name": "bench", "keys": [{"digest": digest}]}
    (directory / "tenants.yaml").write_text(
        yaml.safe_dump({"tenants": [{**tenant, "defaults": {"index": "docs"}}]})
    )
    (directory / "pepper").write_text(PEPPER)
    endpoint = {"kind": "openai", "base_url": f"{around}/v1"}
    config = {
        "region": "us-east",
        "server": {"port": port, "operators_port": lifecycle.free_port()},
        "tenants": {"pepper": "file:pepper"},
        "embedders": {"words": {**endpoint, "model": "words", "dimension": DIMENSION}},
        "indexes": {
            "docs": {
                "dimension": DIMENSION,
                "embedder": "words",
                "replicas": [{"region": "us-east", "kind": "pinecone", "url": around}],
            }
        },
        "models": {"big": {"upstreams": [{**endpoint, "model": "gpt-4o"}]}},
        **({"tracing": {"endpoint": around, "sample_ratio": ratio}} if ratio is not None else {}),
        **(wanted or {"log": {"level": "error"}}),
    }
    file = directory / "meridian.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


# --- Processes ------------------------------------------------------------------------------------


def child_surroundings(port: int) -> None:
    async def main(stop: asyncio.Event) -> None:
        runner = web.AppRunner(surroundings(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await stop.wait()
        await runner.cleanup()

    lifecycle.run(main)


def child_gateway(file: Path, *, is_blind: bool) -> None:
    if is_blind:
        Observer.ended = look_away  # type: ignore[method-assign]
    structlog.configure(cache_logger_on_first_use=True)
    config = load_gateway(file)
    sock = lifecycle.bind(config.server.host, config.server.port)
    lifecycle.run(lambda stop: run_gateway(config, config_dir=file.parent, worker=0, sock=sock, stop=stop))


@asynccontextmanager
async def child(*args: str, port: int) -> AsyncIterator[psutil.Process]:
    """This module as a process, once it listens; what it logs goes where logs cost what they cost: a file."""
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.telemetry", *args), stderr=log, env=os.environ
        )
        try:
            async with asyncio.timeout(60):
                while not _listens(port):  # noqa: ASYNC110 - another process opens it
                    await asyncio.sleep(0.05)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            await process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


# --- Measuring ------------------------------------------------------------------------------------


async def cpu_us(around: str, mode: str, requests: int, *, is_plain: bool) -> float:
    """CPU (µs) of the gateway's process a request, exporter and all."""
    port = lifecycle.free_port()
    with tempfile.TemporaryDirectory() as directory:
        file = configure(Path(directory), around, mode, port)
        args = ["--gateway", str(file), *(["--blind"] if not MODES[mode] else [])]
        async with child(*args, port=port) as process, aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            await load(session, url, requests // 5, is_plain=is_plain)
            before = process.cpu_times()
            await load(session, url, requests, is_plain=is_plain)
            await asyncio.sleep(1.5)  # what waits to be exported is a part of the cost
            after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) * 1e6 / requests


async def load(session: aiohttp.ClientSession, url: str, requests: int, *, is_plain: bool) -> None:
    left = iter(range(requests))
    body: dict[str, Any] = {
        "model": "big",
        "stream": True,
        "messages": [{"role": "user", "content": "Hills?"}],
    }
    if is_plain:
        body["rag"] = {"mode": "off"}
    headers = {"Authorization": f"Bearer {KEY}"}

    async def one_after_the_other() -> None:
        for _ in left:
            async with session.post(url, json=body, headers=headers) as response:
                text = await response.read()
                if response.status != 200 or b"[DONE]" not in text:
                    raise RuntimeError(f"{response.status}: {text[:300]!r}")

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_the_other())


KINDS: Final = {"RAG chat": False, "plain proxy": True}


async def measure(rounds: int, requests: int, only: str | None) -> str:
    port = lifecycle.free_port()
    tables = []
    async with child("--surroundings", str(port), port=port):
        for title, is_plain in KINDS.items():
            if only not in (None, title):
                continue
            found: dict[str, list[float]] = {mode: [] for mode in MODES}
            for _ in range(rounds):
                for mode in MODES:
                    found[mode].append(
                        await cpu_us(f"http://127.0.0.1:{port}", mode, requests, is_plain=is_plain)
                    )
            tables.append(table(title, found))
    head = f"{rounds} rounds of {requests} streamed chats of {TOKENS} tokens, {AT_ONCE} at a time; medians."
    return "\n".join(["# What telemetry costs", "", head, "", *tables])


def table(title: str, found: Mapping[str, Sequence[float]]) -> str:
    off = statistics.median(found["everything off"])
    lines = [
        f"## {title}",
        "",
        "| on | CPU a request, µs | lowest, highest | above off |",
        "|---|---|---|---|",
    ]
    for mode, values in found.items():
        middle = statistics.median(values)
        spread = f"{min(values):.0f}, {max(values):.0f}"
        lines.append(f"| {mode} | {middle:.0f} | {spread} | {(middle / off - 1) * 100:+.1f}% |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--surroundings", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--gateway", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--blind", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.surroundings:
        child_surroundings(given.surroundings)
    elif given.gateway:
        child_gateway(given.gateway, is_blind=given.blind)
    else:
        report = asyncio.run(measure(given.rounds, given.requests, given.only))
        print(report)
        RESULTS.write_text(report)


if __name__ == "__main__":
    main()
