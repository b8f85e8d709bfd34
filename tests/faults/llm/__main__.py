"""`python -m tests.faults.llm [IDS]`: play scenarios, print the table of verdicts, write the report."""

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Final

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", nargs="*", help="scenarios to play; by default all, and the report is written")
    chosen = parser.parse_args().ids
    scenarios = [s for s in SCENARIOS if not chosen or any(s.id.startswith(id_) for id_ in chosen)]
    with tempfile.TemporaryDirectory(prefix="meridian-faults-") as scratch:
        results = asyncio.run(run(scenarios, Path(scratch)))
    report = f"{table(results)}\n\n{totals(results)}\n"
    print(report)
    if not chosen:
        REPORT.write_text(f"{ABOUT}\n{report}")
    return 0 if all(is_good(result) for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
