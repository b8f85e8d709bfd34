"""`python -m bench.fairness`: what a tenant notices of another that asks fifty times too much.

A real gateway process before a scripted LLM whose answers take half a second to one and a half, and no work.
The quiet tenant asks at random moments at a steady mean pace, alone and beside a noisy one, in alternating
rounds; what is compared is its own p99, callers' clock, all rounds together. The noisy tenant is a process of
its own with a low priority, so that it loads the gateway and not the measurement.

1. A full gateway: nobody has a limit, slots are few, the noisy tenant asks 50 times its half of them.
2. A limit: slots are many, the noisy tenant asks 50 times its requests per minute and is refused; measured
   once it has spent what its bucket held (a minute's worth, which is its right).
3. Ingestion: text records as fast as they are taken, and questions beside them, on the embedded model.
   Every record that was acknowledged is looked for afterwards.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import fairness_ingestion
from bench.serving import Call, Gateway, Seen, gateway, metric, neighbour, offer, scripted_llm

RESULTS = Path(__file__).parent / "results" / "fairness.md"
NOISY, QUIET = "noisy00000000000", "quiet00000000000"
LLM_S, SPREAD_S = 1.0, 0.5
SLOTS = 32
FAIR_PER_S = SLOTS / 2 / LLM_S
LIMIT_PER_MIN = 360
TIMES = 50
QUIET_PER_S = 10.0
WORST_RATIO = 1.2

CHAT = json.dumps(
    {"model": "big", "messages": [{"role": "user", "content": "Who won?"}], "rag": {"mode": "off"}}
).encode()


class Report:
    """Lines for the terminal and the file."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.is_good = True

    def say(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)

    def judge(self, is_good: bool, line: str) -> None:
        self.is_good &= is_good
        self.say(f"{'Met' if is_good else 'NOT met'}: {line}")


async def rounds(
    server: Gateway, per_s: float, count: int, seconds: float, report: Report
) -> tuple[Seen, Seen, Seen]:
    """What the quiet tenant saw alone and beside the noisy one, and what that one saw."""
    quiet, noisy = (Call("/v1/chat/completions", tenant, [CHAT]) for tenant in (QUIET, NOISY))
    alone, beside, other = Seen(), Seen(), Seen()
    await offer(server.url, quiet, per_s=QUIET_PER_S, seconds=2, seed=0)  # connections, caches
    for number in range(count):
        alone.add(await offer(server.url, quiet, per_s=QUIET_PER_S, seconds=seconds, seed=number))
        async with neighbour(server.url, noisy, per_s=per_s, seconds=seconds + 6) as its:
            await asyncio.sleep(4.5)  # until it is at work and has spent what it may
            cpu_s = server.cpu_s()
            beside.add(await offer(server.url, quiet, per_s=QUIET_PER_S, seconds=seconds, seed=number))
            busy = (server.cpu_s() - cpu_s) / seconds
        other.add(its)
        report.say(f"- round {number + 1}: gateway {busy:.0%} of a core beside the noisy tenant")
    return alone, beside, other


def compare(alone: Seen, beside: Seen, other: Seen, report: Report) -> None:
    report.say(
        "\n| the quiet tenant | answered | refused | p50 ms | p90 ms | p99 ms |\n|---|---|---|---|---|---|"
    )
    for name, seen in (("alone", alone), ("beside the noisy one", beside)):
        refused = sum(seen.statuses.values()) - len(seen.took_s)
        quantiles = " | ".join(f"{seen.quantile_ms(share):.0f}" for share in (0.5, 0.9, 0.99))
        report.say(f"| {name} | {len(seen.took_s)} | {refused} | {quantiles} |")
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(other.statuses.items()))
    report.say(f"\nThe noisy tenant got {statuses}; {other.skipped} were not sent for want of sockets.")
    ratio = beside.quantile_ms(0.99) / alone.quantile_ms(0.99)
    refused = sum(beside.statuses.values()) - len(beside.took_s)
    report.judge(
        ratio <= WORST_RATIO and refused == 0 and other.without_retry_after == 0,
        f"p99 ratio **{ratio:.3f}** (at most {WORST_RATIO}), {refused} of the quiet tenant's refused, "
        f"{other.without_retry_after} refusals without Retry-After.\n",
    )


async def full_gateway(folder: Path, llm: str, count: int, seconds: float, report: Report) -> None:
    per_s = FAIR_PER_S * TIMES
    report.say(f"## A full gateway\n\n{SLOTS} slots of {LLM_S:g} s; {QUIET_PER_S:g}/s against {per_s:g}/s.\n")
    tenants = [{"id": tenant, "name": tenant} for tenant in (NOISY, QUIET)]
    async with gateway(folder, tenants, {"max_in_flight": SLOTS}, models=models(llm)) as server:
        alone, beside, other = await rounds(server, per_s, count, seconds, report)
        waited_s = await metric(server, 'meridian_stage_seconds_sum{stage="queue"}')
        waits = await metric(server, 'meridian_stage_seconds_count{stage="queue"}')
    report.say(
        f"- {waits:.0f} requests waited for a slot, {waited_s / max(1.0, waits) * 1000:.0f} ms in the mean"
    )
    compare(alone, beside, other, report)


async def a_limit(folder: Path, llm: str, count: int, seconds: float, report: Report) -> None:
    per_s, limit = LIMIT_PER_MIN / 60 * TIMES, LIMIT_PER_MIN
    report.say(f"## A limit\n\n{limit} requests a minute; {QUIET_PER_S:g}/s against {per_s:g}/s.\n")
    tenants: list[dict[str, Any]] = [
        {"id": NOISY, "name": NOISY, "limits": {"requests_per_min": limit}},
        {"id": QUIET, "name": QUIET},
    ]
    async with gateway(folder, tenants, {}, models=models(llm)) as server:
        alone, beside, other = await rounds(server, per_s, count, seconds, report)
    compare(alone, beside, other, report)


def models(llm: str) -> dict[str, object]:
    return {"big": {"upstreams": [{"kind": "openai", "base_url": llm, "model": "gpt-4o"}]}}


async def main(count: int, seconds: float, write: Callable[[str], object]) -> int:
    report = Report()
    report.say("# One tenant's load and another's answers\n")
    report.say(f"`python -m bench.fairness`. {(__doc__ or '').split(chr(10), 2)[2].strip()}\n")
    with tempfile.TemporaryDirectory(prefix="bench-fairness-") as folder:
        async with scripted_llm(LLM_S, SPREAD_S) as llm:
            await full_gateway(Path(folder) / "full", llm, count, seconds, report)
            await a_limit(Path(folder) / "limit", llm, count, seconds, report)
        await fairness_ingestion.run(Path(folder) / "ingestion", count, seconds, report)
    write("\n".join(report.lines) + "\n")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--dry", action="store_true", help="do not write the report")
    arguments = parser.parse_args()
    raise SystemExit(
        asyncio.run(
            main(
                arguments.rounds,
                arguments.seconds,
                (lambda text: None) if arguments.dry else RESULTS.write_text,
            )
        )
    )
