"""`python -m tests.faults.llm [IDS]`: play scenarios, print the table of verdicts, write the report."""

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Final

from tests.faults.llm import outage
from tests.faults.llm.campaign import SCENARIOS, is_good, run, table, totals

REPORT: Final = Path(__file__).parents[3] / "bench" / "results" / "faults.md"
ABOUT: Final = """# What callers get while LLM endpoints misbehave

`make faults`. Each row is a real gateway between a real caller and two scripted endpoints on sockets, a
primary and a fallback, played in each way of asking: a `live` stream (what breaks after the first token is
not taken back), a `whole` stream (held back until it is complete) and not streamed. S01-S16 are the scenarios
of failoverbench 0.1 with its checks on conduct, on a shorter clock; F01-F26 are failure modes that other
gateways shipped.

pass: the caller got the whole answer (or, where nobody could answer or should, the right error), and every
check on conduct holds. partial: the same, but an advisory check failed. safe: no answer, but in time a clean
error, and every required check holds. fail: a hang, a truncated or altered answer shown as success, or a
required check failed. Attempts are those on the primary + those on the fallback, the most of any mode.
"""
ABOUT_OUTAGE: Final = f"""## Everything behind it down, in turn and at once

{outage.CALLERS} callers ask at the same time, live, whole and not streamed, each with a deadline of
{outage.DEADLINE_S:g} s, while one thing is down for {outage.PHASE_S:g} s; then it comes back. degraded: an
answer that says so (an excerpt, or a search by words alone). wrong: a hang, a broken connection, an answer
later than its deadline, or one that falls short and does not say so.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", nargs="*", help="scenarios to play; by default all, and the report is written")
    chosen = parser.parse_args().ids
    scenarios = [s for s in SCENARIOS if not chosen or any(s.id.startswith(id_) for id_ in chosen)]
    with tempfile.TemporaryDirectory(prefix="meridian-faults-") as scratch:
        results = asyncio.run(run(scenarios, Path(scratch)))
        report = f"{table(results)}\n\n{totals(results)}\n"
        print(report)
        if chosen:
            return 0 if all(map(is_good, results)) else 1
        phases = asyncio.run(outage.run(Path(scratch)))
    down = outage.table(phases)
    print(down)
    REPORT.write_text(f"{ABOUT}\n{report}\n{ABOUT_OUTAGE}\n{down}\n")
    has_wrong = any(phase.wrong or phase.recovered_s is None for phase in phases)
    return 0 if all(map(is_good, results)) and not has_wrong else 1


if __name__ == "__main__":
    raise SystemExit(main())
