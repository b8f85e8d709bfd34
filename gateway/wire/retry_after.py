"""How long an upstream asks us to wait, from its headers. Pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST_S: Final = 3600.0
"""Nobody is told to wait longer, whatever an upstream says."""

_NUMBER: Final = re.compile(r"[0-9]{1,400}(?:\.[0-9]{1,20})?")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms` or `Retry-After`, 0 to `LONGEST_S`; None: not said, or no wait.

    A date counts from the answer's own `Date` and from no other clock: clocks differ by more than such
    waits. `headers` finds names in any case.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        text = headers.get(name, "").strip()
        if _NUMBER.fullmatch(text):
            return min(float(text) * unit_s, LONGEST_S)
    wait_s = _between(headers.get("Date", ""), headers.get("Retry-After", ""))
    return None if wait_s is None else min(max(wait_s, 0.0), LONGEST_S)


def _between(earlier: str, later: str) -> float | None:
    """Seconds from one HTTP date to another; None when either is none."""
    try:
        return (_moment(later) - _moment(earlier)).total_seconds()
    except (ValueError, OverflowError):
        return None


def _moment(text: str) -> datetime:
    moment = parsedate_to_datetime(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """What `x-should-retry` says; None: nothing."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())
