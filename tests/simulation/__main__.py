"""`python -m tests.simulation [seeds] [first]`: run many seeds on all cores; print those that fail."""

import sys
from collections import Counter

from tests.simulation.campaign import campaign, moving_campaign


def main() -> int:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    failures = campaign(range(first, first + seeds))
    moved, passed = moving_campaign(range(first, first + seeds))
    forced, happened = moving_campaign(range(first, first + seeds), forced=1)
    for failure in failures + moved + forced:
        print(failure)
    print(f"{seeds} seeds from {first}, {len(failures)} failed")
    print(f"{seeds} seeds from {first} where homes move, {len(moved)} failed: {_told(passed)}")
    print(
        f"{seeds} seeds from {first} where one is replaced by force, {len(forced)} failed: {_told(happened)}"
    )
    return 1 if failures or moved or forced else 0


def _told(passed: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(passed.items()))


if __name__ == "__main__":
    sys.exit(main())
