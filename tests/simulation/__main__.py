"""`python -m tests.simulation [seeds] [first]`: run many seeds on all cores; print those that fail."""

import sys

from tests.simulation.campaign import campaign, moving_campaign


def main() -> int:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    failures = campaign(range(first, first + seeds))
    moved, passed = moving_campaign(range(first, first + seeds))
    for failure in failures + moved:
        print(failure)
    print(f"{seeds} seeds from {first}, {len(failures)} failed")
    told = ", ".join(f"{count} {what}" for what, count in sorted(passed.items()))
    print(f"{seeds} seeds from {first} where homes move, {len(moved)} failed: {told}")
    return 1 if failures or moved else 0


if __name__ == "__main__":
    sys.exit(main())
