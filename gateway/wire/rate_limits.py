"""What an upstream says is left of our rate there: `x-ratelimit-{remaining,reset}-{requests,tokens}`.

Pure. Read from every answer, so that we slow down before the provider refuses. Source: OpenAI's rate limit
guide (durations like "6m0s" or "20ms"); others of the dialect send plain seconds. A moment in time (a date,
or seconds since 1970) is taken for no duration: it is by a clock that we do not know.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.wire.retry_after import LONGEST_S

_UNITS_S: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_AMOUNT: Final = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)"
_PART: Final = re.compile(_AMOUNT + r"(ms|us|ns|d|h|m|s)")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern}){{1,6}}")
_SECONDS: Final = re.compile(_AMOUNT)
_MOMENT_S: Final = 1e9
"""From here on a number of seconds is a moment since 1970, not a duration."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What is left until the reset, and how long that takes; None: not said."""

    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    reset_requests_s: float | None = None
    reset_tokens_s: float | None = None

    def wait_s(self, tokens: int) -> float:
        """How long until a request of that many tokens would be taken; 0 when it would be now.

        0 also when there is too little left and nobody says until when.
        """
        waits = [0.0]
        if self.remaining_requests is not None and self.remaining_requests < 1:
            waits.append(self.reset_requests_s or 0.0)
        if self.remaining_tokens is not None and self.remaining_tokens < tokens:
            waits.append(self.reset_tokens_s or 0.0)
        return max(waits)


def read(headers: Mapping[str, str]) -> RateLimits | None:
    """The limits that an answer tells of; None: of none. `headers` finds names in any case."""
    limits = RateLimits(
        remaining_requests=_count(headers.get("x-ratelimit-remaining-requests", "")),
        remaining_tokens=_count(headers.get("x-ratelimit-remaining-tokens", "")),
        reset_requests_s=duration_s(headers.get("x-ratelimit-reset-requests", "")),
        reset_tokens_s=duration_s(headers.get("x-ratelimit-reset-tokens", "")),
    )
    return None if limits == RateLimits() else limits


def wait_after_refusal_s(limits: RateLimits) -> float | None:
    """How long a 429 without Retry-After means: the longest reset of what is used up.

    Where nothing is said of what is left, any reset may be the one. None: no reset is told.
    """
    told = [
        reset_s
        for left, reset_s in (
            (limits.remaining_requests, limits.reset_requests_s),
            (limits.remaining_tokens, limits.reset_tokens_s),
        )
        if reset_s is not None and not left
    ]
    return max(told, default=None)


def duration_s(text: str) -> float | None:
    """Seconds of "6m0s", "1.5s", "20ms" or "12", up to `LONGEST_S`; None for anything else."""
    text = text.strip().lower()
    if _DURATION.fullmatch(text):
        seconds = sum(float(amount) * _UNITS_S[unit] for amount, unit in _PART.findall(text))
    elif _SECONDS.fullmatch(text) and float(text) < _MOMENT_S:
        seconds = float(text)
    else:
        return None
    return min(seconds, LONGEST_S)


def _count(text: str) -> int | None:
    text = text.strip()
    if not re.fullmatch(r"-?[0-9]{1,15}", text):
        return None
    return max(0, int(text))
