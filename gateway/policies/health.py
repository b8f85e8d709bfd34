"""Health: what is known of each upstream, and which of several to ask. Pure.

Two numbers are kept of an upstream, each a moving average: the time to its first content, and the share of
its calls that failed. The second fades while it is not asked, and the first is forgotten, so that one that
was sick is tried again. Beside them stands when it may be asked at all:

told to wait   it said Retry-After, or 429: not asked before, and nothing shortens that
paced          its rate headers say that nothing is left: others first, and only then it
account out    its key or its bill was refused: nothing of that account is asked for a while

The first two are of an account and a model, because that is what providers count; so two routes to the
same model share them. Times are absolute seconds of one clock.

Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001. Here the first of the
two, drawn by weight, stands unless the other is clearly healthier: so weights hold among the healthy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.policies.backoff import Rng
from gateway.routes import Upstream

SHARE: Final = 0.2
"""Of the newest call in a moving average."""
FADES_S: Final = 15.0
"""Half of an error share is forgotten in this time."""
KNOWN_S: Final = 60.0
"""A time to first content older than this says nothing."""
ERROR_COSTS_S: Final = 5.0
"""What a failed call costs a caller, as a time to first content."""
CLEARLY: Final = 0.75
"""One upstream is clearly healthier when it costs less than this share of the other."""
LONGEST_PAUSE_S: Final = 30.0
ACCOUNT_OUT_S: Final = 60.0
MOST_PACED_S: Final = 60.0

Lane = tuple[str, str]
"""(account, model)"""


@dataclass(slots=True)
class _Record:
    """One upstream. `errors` is as of `at_s`."""

    ttft_s: float | None = None
    ttft_at_s: float = -math.inf
    errors: float = 0.0
    at_s: float = -math.inf


@dataclass(slots=True)
class _Pace:
    """One lane. `throttled` counts refusals in a row; what is left is as last told, less what we sent."""

    wait_until_s: float = -math.inf
    throttled: int = 0
    requests_left: float = math.inf
    requests_reset_s: float = -math.inf
    tokens_left: float = math.inf
    tokens_reset_s: float = -math.inf


class Health:
    """The health of every upstream of a process."""

    def __init__(self, account_out_s: float = ACCOUNT_OUT_S) -> None:
        self._account_out_s = account_out_s
        self._records: dict[str, _Record] = {}
        self._paces: dict[Lane, _Pace] = {}
        self._accounts_out_s: dict[str, float] = {}

    # ---- what is learnt

    def answered(self, upstream: Upstream, now_s: float, ttft_s: float) -> None:
        """Its first content came."""
        record = self._count(upstream, now_s, failed=0.0)
        is_known = record.ttft_s is not None and now_s - record.ttft_at_s <= KNOWN_S
        record.ttft_s = _mixed(record.ttft_s, ttft_s) if record.ttft_s is not None and is_known else ttft_s
        record.ttft_at_s = now_s
        self._pace(upstream).throttled = 0

    def failed(self, upstream: Upstream, now_s: float, retry_after_s: float | None = None) -> None:
        """It did not answer; `retry_after_s` is how long it asked to be left alone."""
        self._count(upstream, now_s, failed=1.0)
        if retry_after_s is not None:
            self._wait(upstream, now_s + retry_after_s)

    def throttled(self, upstream: Upstream, now_s: float, retry_after_s: float | None = None) -> None:
        """It answered 429. Unless it says for how long, we guess: 1 s, and twice as long each time again."""
        pace = self._pace(upstream)
        if now_s >= pace.wait_until_s:  # not those that were already on their way
            pace.throttled += 1
        guess_s = min(LONGEST_PAUSE_S, 2.0 ** min(pace.throttled - 1, 10))
        self._wait(upstream, now_s + (guess_s if retry_after_s is None else retry_after_s))

    def refused_account(self, upstream: Upstream, now_s: float) -> None:
        """Its key or its bill was refused."""
        self._accounts_out_s[upstream.account] = now_s + self._account_out_s

    def told_limits(
        self,
        upstream: Upstream,
        now_s: float,
        *,
        requests: tuple[float, float] | None = None,
        tokens: tuple[float, float] | None = None,
    ) -> None:
        """Its rate headers: what is left, and in how many seconds that is whole again."""
        pace = self._pace(upstream)
        if requests is not None:
            pace.requests_left, pace.requests_reset_s = _told(requests, now_s)
        if tokens is not None:
            pace.tokens_left, pace.tokens_reset_s = _told(tokens, now_s)

    def asking(self, upstream: Upstream, tokens: int) -> None:
        """A call of about so many tokens goes out: less is left until it is told anew."""
        pace = self._pace(upstream)
        pace.requests_left -= 1
        pace.tokens_left -= tokens

    # ---- what is decided

    def is_out(self, upstream: Upstream, now_s: float) -> bool:
        """Whether its account was refused a short while ago."""
        return now_s < self._accounts_out_s.get(upstream.account, -math.inf)

    def wait_until_s(self, upstream: Upstream) -> float:
        """Before then it must not be asked; in the past when it may."""
        return self._pace(upstream).wait_until_s

    def paced_until_s(self, upstream: Upstream, tokens: int = 0) -> float:
        """Before then it would probably refuse a call of that many tokens."""
        pace = self._pace(upstream)
        dues = [pace.wait_until_s]
        if pace.requests_left < 1:
            dues.append(pace.requests_reset_s)
        if pace.tokens_left < max(1, tokens):
            dues.append(pace.tokens_reset_s)
        return max(dues)

    def error_ratio(self, upstream: Upstream, now_s: float) -> float:
        """The share of its latest calls that failed, 0 to 1; it fades while nothing is asked."""
        record = self._records.get(upstream.name)
        return 0.0 if record is None else _faded(record, now_s)

    def ttft_s(self, upstream: Upstream, now_s: float) -> float | None:
        """Its usual time to first content; None: not known of late."""
        record = self._records.get(upstream.name)
        return None if record is None or now_s - record.ttft_at_s > KNOWN_S else record.ttft_s

    def is_proven(self, upstream: Upstream, now_s: float) -> bool:
        """Whether it is known to answer: it did of late, and more often than not."""
        return self.ttft_s(upstream, now_s) is not None and self.error_ratio(upstream, now_s) < 0.5

    def choose(self, upstreams: Sequence[Upstream], now_s: float, rng: Rng) -> Upstream:
        """One of them, at least one given: drawn by weight, or another draw that is clearly healthier."""
        first = _drawn(upstreams, rng)
        others = [upstream for upstream in upstreams if upstream is not first]
        if not others:
            return first
        other = _drawn(others, rng)
        costs = self._cost_s(first, other, now_s), self._cost_s(other, first, now_s)
        return other if costs[1] < CLEARLY * costs[0] else first

    def _cost_s(self, upstream: Upstream, other: Upstream, now_s: float) -> float:
        """What it costs to ask it, in seconds; times count only when both are known."""
        ttft_s, other_s = self.ttft_s(upstream, now_s), self.ttft_s(other, now_s)
        waits_s = ttft_s if ttft_s is not None and other_s is not None else 0.0
        return waits_s + ERROR_COSTS_S * self.error_ratio(upstream, now_s)

    def _count(self, upstream: Upstream, now_s: float, *, failed: float) -> _Record:
        record = self._records.setdefault(upstream.name, _Record())
        record.errors = _mixed(_faded(record, now_s), failed)
        record.at_s = now_s
        return record

    def _pace(self, upstream: Upstream) -> _Pace:
        return self._paces.setdefault((upstream.account, upstream.model), _Pace())

    def _wait(self, upstream: Upstream, until_s: float) -> None:
        pace = self._pace(upstream)
        pace.wait_until_s = max(pace.wait_until_s, until_s)


def _mixed(old: float, new: float) -> float:
    return (1 - SHARE) * old + SHARE * new


def _faded(record: _Record, now_s: float) -> float:
    return record.errors * math.pow(0.5, max(0.0, now_s - record.at_s) / FADES_S)


def _told(left: tuple[float, float], now_s: float) -> tuple[float, float]:
    """What is left, and when that is whole again."""
    remaining, reset_s = left
    return remaining, now_s + min(max(reset_s, 0.0), MOST_PACED_S)


def _drawn(upstreams: Sequence[Upstream], rng: Rng) -> Upstream:
    """One of them, each as often as its weight says."""
    at = rng.uniform(0.0, sum(upstream.weight for upstream in upstreams))
    for upstream in upstreams:
        at -= upstream.weight
        if at < 0:
            return upstream
    return upstreams[-1]
