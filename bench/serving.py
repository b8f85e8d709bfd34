"""Real gateways and scripted models as child processes, and callers that ask at a pace whatever happens."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import psutil

from gateway.tenants import digest_key
from regions.runtime import lifecycle
from regions.runtime.strict_yaml import to_yaml

PEPPER = "salt"
READY_S = 60.0


@asynccontextmanager
async def child(
    *argv: str, stdout: int | None = None, stderr: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m argv…` for the block; SIGTERM ends it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *argv, cwd=Path(__file__).parent.parent, stdout=stdout, stderr=stderr
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGTERM)
        await process.wait()


@asynccontextmanager
async def scripted_llm(hold_s: float, spread_s: float) -> AsyncIterator[str]:
    """An LLM that answers after `hold_s` ± `spread_s`; its base URL."""
    port = lifecycle.free_port()
    async with child("bench.scripted_llm", str(port), str(hold_s), str(spread_s)):
        await until_answers(f"http://127.0.0.1:{port}/readyz")
        yield f"http://127.0.0.1:{port}/v1"


@dataclass(frozen=True)
class Gateway:
    """A gateway's process, and where it listens."""

    url: str
    operators_url: str
    process: psutil.Process

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@asynccontextmanager
async def gateway(
    folder: Path, tenants: Sequence[Mapping[str, Any]], server: Mapping[str, Any], **config: Any
) -> AsyncIterator[Gateway]:
    """`meridian serve` with that configuration. A tenant's key is its id."""
    port, operators_port = lifecycle.free_port(), lifecycle.free_port()
    whole = {
        "region": "us-east",
        "tenants": {"pepper": "file:pepper"},
        "log": {"level": "error"},
        "server": {"port": port, "operators_port": operators_port, "drain_s": 2, **server},
        **config,
    }
    path = write_files(folder, tenants, whole)
    log = asyncio.subprocess.DEVNULL  # a line for every refusal
    async with child("gateway", "serve", "--config", path, stdout=log, stderr=log) as process:
        url, operators_url = (f"http://127.0.0.1:{each}" for each in (port, operators_port))
        await until_answers(f"{operators_url}/readyz")
        yield Gateway(url, operators_url, psutil.Process(process.pid))


def write_files(folder: Path, tenants: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    """The tenants file, the pepper and the configuration, whose path is returned."""
    own = [{**tenant, "keys": [{"digest": digest_key(tenant["id"], PEPPER.encode())}]} for tenant in tenants]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tenants.yaml").write_text(to_yaml({"tenants": own}))
    (folder / "pepper").write_text(PEPPER)
    (folder / "gateway.yaml").write_text(to_yaml(config))
    return str(folder / "gateway.yaml")


async def until_answers(url: str) -> None:
    """Return once that address says 200. Raises: TimeoutError: not within `READY_S`."""
    async with asyncio.timeout(READY_S), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass  # not yet listening
            await asyncio.sleep(0.05)


async def metric(server: Gateway, name: str) -> float:
    """The sum of a metric's samples whose line begins with `name`."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.operators_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@dataclass
class Seen:
    """What a caller saw: how often each status came, how long good answers took (s), what was not sent."""

    statuses: Counter[int] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    skipped: int = 0
    without_retry_after: int = 0

    def add(self, other: "Seen") -> None:
        self.statuses += other.statuses
        self.took_s += other.took_s
        self.skipped += other.skipped
        self.without_retry_after += other.without_retry_after

    def quantile_ms(self, share: float) -> float:
        """Milliseconds within which that share of the good answers came."""
        ordered = sorted(self.took_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


@dataclass(frozen=True)
class Call:
    """One request, again and again: the path, the tenant that asks, the bodies in turn."""

    path: str
    tenant: str
    bodies: Sequence[bytes]


async def offer(
    url: str, call: Call, *, per_s: float, seconds: float, seed: int, most_open: int = 1000
) -> Seen:
    """Ask at that mean pace, at random moments, whether or not answers come.

    Beyond `most_open` at once a request is skipped and counted: a machine has only so many sockets.
    """
    rng, seen, loop = Random(seed), Seen(), asyncio.get_running_loop()
    headers = {"Authorization": f"Bearer {call.tenant}", "Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=0)
    opened = 0

    async def ask(body: bytes) -> None:
        nonlocal opened
        opened += 1
        began_s = time.perf_counter()
        try:
            async with session.post(f"{url}{call.path}", data=body) as answer:
                await answer.read()
                seen.statuses[answer.status] += 1
                if answer.status < 300:
                    seen.took_s.append(time.perf_counter() - began_s)
                elif "Retry-After" not in answer.headers:
                    seen.without_retry_after += 1
        except aiohttp.ClientError:
            seen.statuses[0] += 1
        finally:
            opened -= 1

    async with (
        aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session,
        asyncio.TaskGroup() as tasks,
    ):
        due_s, number = loop.time(), 0
        until_s = due_s + seconds
        while due_s < until_s:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if opened < most_open:
                tasks.create_task(ask(call.bodies[number % len(call.bodies)]))
                number += 1
            else:
                seen.skipped += 1
            due_s += rng.expovariate(per_s)
    return seen


@asynccontextmanager
async def neighbour(url: str, call: Call, *, per_s: float, seconds: float) -> AsyncIterator[Seen]:
    """Another process that offers the call beside the block; what it saw, once the block has ended.

    It yields the processor to those it loads: what is measured is them.
    """
    seen = Seen()
    told = json.dumps([url, call.path, call.tenant, [body.decode() for body in call.bodies], per_s, seconds])
    async with child("bench.serving", told, stdout=asyncio.subprocess.PIPE) as process:
        yield seen
        out, _ = await process.communicate()
    statuses, took_s, skipped, without = json.loads(out)
    counted = Counter({int(status): count for status, count in statuses.items()})
    seen.add(Seen(counted, took_s, skipped, without))


def _offer_and_tell(told: str) -> None:
    url, path, tenant, bodies, per_s, seconds = json.loads(told)
    os.nice(10)
    call = Call(path, tenant, [body.encode() for body in bodies])
    seen = asyncio.run(offer(url, call, per_s=per_s, seconds=seconds, seed=1))
    print(json.dumps([seen.statuses, seen.took_s, seen.skipped, seen.without_retry_after]))


if __name__ == "__main__":
    _offer_and_tell(sys.argv[1])
