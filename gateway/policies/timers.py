"""Timers: whether an upstream's answer comes too late, stalls, or drips, from its events' times alone.

Pure. Five clocks run beside each other, because one for all would be beaten by any of these ways to fail:

first_content  from the start to the first content event
gap            from each content event to the next
throughput     tokens of the last `rate_window_s`, once that much has passed since the first content
total          from the start to the end, whatever comes
deadline       the request's own absolute one, shared by all its stages and attempts

Only content moves them: comments, roles, empty and metadata events are never told to a `Watch`. Content
that did come counts, also when it is told a little after its clock ran out: the loop may have been busy.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum


class Expired(StrEnum):
    """Which clock ran out."""

    FIRST_CONTENT = "first_content"
    GAP = "gap"
    THROUGHPUT = "throughput"
    TOTAL = "total"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Timers:
    """How long an upstream may take. `min_tokens_per_s=0` switches the throughput's clock off."""

    first_content_s: float = 20.0
    gap_s: float = 30.0
    min_tokens_per_s: float = 1.0
    rate_window_s: float = 20.0
    total_s: float = 300.0


class Watch:
    """The clocks of one attempt. Times are absolute, in seconds of one clock, and never go back."""

    def __init__(self, timers: Timers, started_s: float, deadline_s: float) -> None:
        self._timers, self._deadline_s = timers, deadline_s
        self._total_due_s = started_s + timers.total_s
        self._needed = timers.min_tokens_per_s * timers.rate_window_s
        # Times of content are kept as if nobody had ever been excused; `_excused_s` is added when asked.
        self._excused_s = 0.0
        self._first_due_s = started_s + timers.first_content_s
        self._first_s: float | None = None
        self._last_s = started_s
        # The newest events that make up the needed tokens, (time, tokens): when its first one leaves the
        # window, the rest are too few.
        self._recent: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def saw(self, now_s: float, tokens: int = 1) -> None:
        """A content event came; `tokens` is about how many it holds."""
        self._last_s = now_s - self._excused_s
        if self._first_s is None:
            self._first_s = self._last_s
        if tokens <= 0 or self._needed <= 0:
            return
        self._recent.append((self._last_s, tokens))
        self._tokens += tokens
        while self._tokens - self._recent[0][1] >= self._needed:
            self._tokens -= self._recent.popleft()[1]

    def excuse(self, seconds: float) -> None:
        """Nobody asked the upstream for that long, because the caller was slow to take what there was.

        Neither gap nor throughput counts it; total and deadline do, for a slow caller holds resources.
        """
        self._excused_s += max(0.0, seconds)

    def due_s(self) -> float:
        """When the next clock runs out if no more content comes; it may lie in the past."""
        return min(due_s for due_s, _ in self._dues())

    def expired(self, now_s: float) -> Expired | None:
        """The clock that ran out first; the deadline whenever it has passed, for nobody waits any more."""
        if now_s >= self._deadline_s:
            return Expired.DEADLINE
        due_s, clock = min(self._dues(), key=lambda due: due[0])
        return clock if now_s >= due_s else None

    def _dues(self) -> list[tuple[float, Expired]]:
        dues = [(self._deadline_s, Expired.DEADLINE), (self._total_due_s, Expired.TOTAL)]
        if self._first_s is None:
            return [*dues, (self._first_due_s + self._excused_s, Expired.FIRST_CONTENT)]
        dues.append((self._last_s + self._timers.gap_s + self._excused_s, Expired.GAP))
        if self._needed > 0:
            since_s = self._recent[0][0] if self._tokens >= self._needed else self._first_s
            dues.append((since_s + self._timers.rate_window_s + self._excused_s, Expired.THROUGHPUT))
        return dues
