"""One budget of retries for a whole process: a share of what succeeded, and a small floor. Pure.

When an upstream dies, every caller's retry is a call more that it must refuse; 50 callers with three
attempts each make 150 calls. Retries that must be earned by successes end that: while things go well
there are always enough, and in an outage there soon are none.

Source: Finagle's RetryBudget; the floor keeps a quiet process, which has earned nothing, able to retry.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """`ratio` of successes may be spent on retries; `floor` of them come back over `floor_s` unearned."""

    ratio: float = 0.2
    floor: float = 8.0
    floor_s: float = 60.0
    most: float = 100.0


class RetryBudget:
    """How many retries may still be made. Times are absolute seconds of one clock."""

    def __init__(self, terms: BudgetTerms = BudgetTerms()) -> None:
        self._terms = terms
        self._level = terms.floor
        self._at_s: float | None = None

    def earn(self) -> None:
        """An answer came."""
        self._level = min(self._terms.most, self._level + self._terms.ratio)

    def take(self, now_s: float) -> bool:
        """Whether one more retry may be made; if so, it is spent."""
        self._refill(now_s)
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def _refill(self, now_s: float) -> None:
        passed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s
        if self._level < self._terms.floor:
            earned = self._terms.floor * passed_s / self._terms.floor_s
            self._level = min(self._terms.floor, self._level + earned)
