"""Every scenario in every mode, some at a time, and the table of their verdicts."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.faults.llm.failures import OWN
from tests.faults.llm.published import PUBLISHED
from tests.faults.llm.scenarios import Result, Scenario, play
from tests.faults.llm.verdicts import Mode, Verdict
from tests.faults.llm.wall import Wall

SCENARIOS: Final = (*PUBLISHED, *OWN)
AT_A_TIME: Final = 10
"""Gateways side by side in this process: more would measure each other."""
LIMIT_S: Final = 40.0
"""One scenario's whole time; it ends calls that hang long before."""


async def run(scenarios: Sequence[Scenario], directory: Path, *, at_a_time: int = AT_A_TIME) -> list[Result]:
    """All results, in the order of the scenarios and their modes. `directory` holds the gateways' files."""
    free = asyncio.Semaphore(at_a_time)

    async def one(scenario: Scenario, mode: Mode, wall: Wall) -> Result:
        async with free:
            async with asyncio.timeout(LIMIT_S):
                return await play(scenario, mode, wall, directory)

    async with Wall.open() as wall, asyncio.TaskGroup() as group:
        # The longest first, so that the end does not wait for one of them alone.
        pairs = [(scenario, mode) for scenario in scenarios for mode in scenario.modes]
        ordered = sorted(pairs, key=lambda pair: pair[0].id not in ("S15", "F10"))
        tasks = {(s.id, mode): group.create_task(one(s, mode, wall)) for s, mode in ordered}
        return [await tasks[s.id, mode] for s, mode in pairs]


def is_good(result: Result) -> bool:
    """What we promise: pass wherever the answer is held back, nothing worse than safe where it is not."""
    if result.mode is Mode.LIVE:
        return result.judged.verdict is not Verdict.FAIL
    return result.judged.verdict is Verdict.PASS


def table(results: Sequence[Result]) -> str:
    """The verdicts as a Markdown table: a row a scenario, a column a mode."""
    rows = ["| scenario | fault | live | whole | not streamed | attempts, slowest | why not pass |"]
    rows.append("|---|---|---|---|---|---|---|")
    by_id: dict[str, list[Result]] = {}
    for result in results:
        by_id.setdefault(result.scenario.id, []).append(result)
    for id_, group in by_id.items():
        verdicts = {result.mode: result.judged for result in group}
        cells = [str(verdicts[mode].verdict) if mode in verdicts else "" for mode in Mode]
        most = max(group, key=lambda result: result.primary + result.fallback)
        effort = f"{most.primary}+{most.fallback}, {max(r.wall_s for r in group):.1f} s"
        why = "; ".join(f"{r.mode}: {', '.join(r.judged.why)}" for r in group if r.judged.why)
        rows.append(f"| {id_} | {group[0].scenario.title} | {' | '.join(cells)} | {effort} | {why} |")
    return "\n".join(rows)


def totals(results: Sequence[Result]) -> str:
    """How many verdicts of each kind, a line a mode."""
    lines = []
    for mode in Mode:
        counted = Counter(result.judged.verdict for result in results if result.mode is mode)
        lines.append(f"- {mode}: " + ", ".join(f"{counted[v]} {v}" for v in Verdict))
    return "\n".join(lines)
