"""How long an upstream asks us to wait, from its headers. Pure."""

import math
from collections.abc import Mapping
from typing import Final

LONGEST_S: Final = 3600.0
"""Nobody is told to wait longer, whatever an upstream says."""


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms` or `Retry-After`, 0 to `LONGEST_S`; None: not said, or no number.

    A date is no number: clocks differ by more than such waits.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        try:
            wait_s = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if not math.isnan(wait_s):
            return min(max(wait_s, 0.0), LONGEST_S)
    return None
