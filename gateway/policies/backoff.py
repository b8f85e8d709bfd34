"""Full-jitter backoff: how long to wait before the same upstream is asked again. Pure.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: a wait drawn evenly from
nothing up to a doubling bound spreads a crowd of callers best.
"""

from typing import Final, Protocol

BASE_S: Final = 0.2
LONGEST_S: Final = 2.0


class Rng(Protocol):
    """What decisions need of a `random.Random`."""

    def uniform(self, a: float, b: float) -> float: ...


def full_jitter_s(retry: int, rng: Rng, base_s: float = BASE_S, longest_s: float = LONGEST_S) -> float:
    """Seconds to wait before retry number `retry`, counted from 1."""
    return rng.uniform(0.0, min(longest_s, base_s * 2 ** min(retry - 1, 30)))
