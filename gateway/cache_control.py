"""What a caller's Cache-Control asks of the prompt cache. Pure.

Source: RFC 9111, 5.2.1. Of its request directives the three that an answer of ours can follow are followed:
no-store (nothing is looked up, shared or kept), no-cache (nothing is looked up or shared; the new answer is
kept) and max-age (nothing older is given out). Others say nothing to us; a max-age that is no number is 0.
"""

from dataclasses import dataclass
from math import inf
from typing import Final


@dataclass(frozen=True, slots=True)
class CacheControl:
    """`max_age_s`: the oldest answer that is accepted (s)."""

    no_store: bool = False
    no_cache: bool = False
    max_age_s: float = inf

    @property
    def is_fresh_wanted(self) -> bool:
        """Nothing that was made before the request came will do."""
        return self.no_cache or self.max_age_s <= 0


ANYTHING: Final = CacheControl()
FRESH: Final = CacheControl(no_cache=True)


def parse_cache_control(header: str) -> CacheControl:
    """The directives of a header's value, "" for none. Of several max-age the least counts."""
    if not header:
        return ANYTHING
    names = [part.strip().partition("=") for part in header.lower().split(",")]
    ages_s = [_age_s(value) for name, _, value in names if name.strip() == "max-age"]
    told = {name.strip() for name, _, _ in names}
    return CacheControl("no-store" in told, "no-cache" in told, min(ages_s, default=inf))


def _age_s(value: str) -> float:
    digits = value.strip().strip('"')
    return float(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 12 else 0.0
