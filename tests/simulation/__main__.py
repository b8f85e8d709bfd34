"""`python -m tests.simulation [seeds] [first] [--forced]`: many seeds on all cores; prints those that fail.

With `--forced`, worlds in which a home is replaced by force; some are known to fail (`test_moving.KNOWN`).
"""

import argparse
import sys
from collections import Counter

from tests.simulation.campaign import campaign, moving_campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", type=int, nargs="?", default=1_000, help="how many worlds of each kind")
    parser.add_argument("first", type=int, nargs="?", default=0, help="the first one's number")
    parser.add_argument("--forced", action="store_true", help="worlds in which a home is replaced by force")
    chosen = parser.parse_args()
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    return forced(seeds) if chosen.forced else ordinary(seeds)


def ordinary(seeds: range) -> int:
    failures = campaign(seeds)
    moved, passed = moving_campaign(seeds)
    for failure in failures + moved:
        print(failure)
    print(f"{len(seeds)} seeds from {seeds.start}, {len(failures)} failed")
    print(f"{len(seeds)} seeds from {seeds.start} where homes move, {len(moved)} failed: {_told(passed)}")
    return 1 if failures or moved else 0


def forced(seeds: range) -> int:
    failures, passed = moving_campaign(seeds, forced=1)
    for failure in failures:
        print(failure)
    told = f"{len(seeds)} seeds from {seeds.start} where a home is replaced by force"
    print(f"{told}, {len(failures)} failed: {_told(passed)}")
    return 1 if failures else 0


def _told(passed: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(passed.items()))


if __name__ == "__main__":
    sys.exit(main())
