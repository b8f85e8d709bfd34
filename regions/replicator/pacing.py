"""How fast an index is written to: as fast as it takes it, up to a limit.

Additive increase, multiplicative decrease: each refusal for load halves the rate, each call that goes
through wins a little back. Source: Chiu and Jain, Computer Networks 17 (1989).
"""

from typing import Final

from aiolimiter import AsyncLimiter

_LOWEST_PER_S: Final = 1.0
_GAIN_PER_S: Final = 1.0
"""What one call that went through wins back."""


class Pacer:
    """The rate of calls on one index, shared by all of its followers."""

    def __init__(self, calls_per_s: float) -> None:
        self._highest_per_s = calls_per_s
        self._limiter = AsyncLimiter(calls_per_s, 1.0)

    @property
    def calls_per_s(self) -> float:
        return self._limiter.max_rate

    async def turn(self) -> None:
        """Wait until another call may be made."""
        await self._limiter.acquire()

    def went_well(self) -> None:
        self._set(min(self.calls_per_s + _GAIN_PER_S, self._highest_per_s))

    def was_refused(self) -> None:
        self._set(max(self.calls_per_s / 2, _LOWEST_PER_S))

    def _set(self, calls_per_s: float) -> None:
        if calls_per_s != self.calls_per_s:
            self._limiter.max_rate = calls_per_s
            self._limiter._rate_per_sec = calls_per_s
