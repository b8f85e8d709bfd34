"""The fallback chain: who is asked next, after what failed how. Pure.

failure                       who is next
throttled                     an equal on another account; the same when it asks for a short wait; cheaper;
                              else wait as long as was asked
context                       a longer window
unavailable                   another equal, or the only one once more; cheaper
slow                          another equal; cheaper; else the same once more
account, misconfigured        as unavailable, but never the same account or upstream again
callers, content_filter       nobody

"Equal" stands for the tier in which the request began. Whoever asked to be left alone is not asked before;
whoever's breaker is open is not asked at all. An upstream is asked again only out of the retry budget.
What was never sent (an open breaker, a prompt that our own count finds too long) is no attempt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.policies.backoff import Rng, full_jitter_s
from gateway.policies.failures import FINAL, FailureClass
from gateway.policies.health import Health
from gateway.policies.retry_budget import RetryBudget
from gateway.routes import Route, Tier, Upstream

LEAST_S: Final = 0.25
"""Nobody is waited for when less than this would be left for the answer."""
SHORT_S: Final = 2.0
"""So long an equal is waited for rather than ask a weaker model, and one that only might refuse at all."""

_ORDERS: Final = {
    Tier.EQUAL: (Tier.EQUAL, Tier.CHEAPER),
    Tier.CHEAPER: (Tier.CHEAPER, Tier.EQUAL),
    Tier.LONGER: (Tier.LONGER, Tier.EQUAL, Tier.CHEAPER),
}
_GONE: Final = frozenset({FailureClass.CONTEXT, FailureClass.MISCONFIGURED, FailureClass.ACCOUNT})
_AGAIN: Final = frozenset({FailureClass.UNAVAILABLE, FailureClass.SLOW})


@dataclass(frozen=True, slots=True)
class Ask:
    """Send to `upstream`, not before `at_s`.

    `has_others`: somebody else could still be asked after it. `is_fallback`: another was asked before it.
    """

    upstream: Upstream
    at_s: float
    has_others: bool = False
    is_fallback: bool = False


class Chain:
    """One request on its way along its route. Times are absolute seconds of one clock.

    `open_s` says how long an upstream's breaker stays open yet, 0 when it lets calls through. `tokens` is
    about what the prompt has. No wait goes beyond `give_up_s`.
    """

    def __init__(
        self,
        route: Route,
        first: Tier,
        *,
        health: Health,
        budget: RetryBudget,
        open_s: Callable[[Upstream, float], float],
        rng: Rng,
        give_up_s: float,
        tokens: int = 0,
    ) -> None:
        self._route, self._order = route, _ORDERS[first]
        self._health, self._budget, self._open_s, self._rng = health, budget, open_s, rng
        self._give_up_s, self._tokens = give_up_s, tokens
        self._attempts = 0
        self._is_retried = False
        self._failed: dict[str, FailureClass] = {}
        self._gone: set[str] = set()
        self._accounts_gone: set[str] = set()
        self._accounts_throttled: set[str] = set()
        self._least_window = 0
        self._is_over = False
        self._last: Upstream | None = None
        self._asked_s: float | None = None

    def sent(self, upstream: Upstream) -> None:
        """An attempt was really made."""
        self._attempts += 1
        self._last = upstream

    def failed(
        self,
        upstream: Upstream,
        failure: FailureClass,
        *,
        asked_s: float | None = None,
        may_ask_again: bool = True,
    ) -> None:
        """Asking it failed so.

        `asked_s` is how long it asked to be left alone; `may_ask_again` is False when it said that this would
        be no use.
        """
        self._failed[upstream.name] = failure
        self._asked_s = asked_s
        self._is_over = self._is_over or failure in FINAL
        if failure in _GONE or not may_ask_again:
            self._gone.add(upstream.name)
        if failure is FailureClass.ACCOUNT:
            self._accounts_gone.add(upstream.account)
        elif failure is FailureClass.THROTTLED:
            self._accounts_throttled.add(upstream.account)
        elif failure is FailureClass.CONTEXT:
            self._least_window = max(self._least_window, upstream.card.window_tokens + 1)
            self._order = _ORDERS[Tier.LONGER]

    def next(self, now_s: float) -> Ask | None:
        """Whom to ask next and when; None: nobody any more."""
        if self._is_over or self._attempts >= self._route.max_attempts:
            return None
        for tier in self._order:
            if chosen := self._fresh(tier, now_s):
                return self._ask(chosen, now_s, now_s)
            if again := self._only_one(tier, now_s):
                return again
        return self._paced(now_s) or self._waited_for(now_s) or self._once_more(now_s)

    def _open(self, tier: Tier, now_s: float) -> list[Upstream]:
        """Those of a tier that could answer this request at all."""
        return [
            upstream
            for upstream in self._route.upstreams
            if upstream.tier is tier
            and upstream.name not in self._gone
            and upstream.account not in self._accounts_gone
            and upstream.card.window_tokens >= self._least_window
            and not self._health.is_out(upstream, now_s)
            and self._open_s(upstream, now_s) <= 0
        ]

    def _untried(self, tier: Tier, now_s: float) -> list[Upstream]:
        """As `_open`, not asked yet; after a 429 not an equal on the same account either."""
        is_first = tier is self._order[0]
        return [
            upstream
            for upstream in self._open(tier, now_s)
            if upstream.name not in self._failed
            and not (is_first and upstream.account in self._accounts_throttled)
        ]

    def _fresh(self, tier: Tier, now_s: float) -> Upstream | None:
        """The one to ask of those that may be asked now."""
        ready = [
            upstream
            for upstream in self._untried(tier, now_s)
            if self._health.paced_until_s(upstream, self._tokens) <= now_s
        ]
        if self._least_window and ready:
            shortest = min(upstream.card.window_tokens for upstream in ready)
            ready = [upstream for upstream in ready if upstream.card.window_tokens == shortest]
        return self._health.choose(ready, now_s, self._rng) if ready else None

    def _only_one(self, tier: Tier, now_s: float) -> Ask | None:
        """The same once more, when it can be asked soon and nobody else is in its tier.

        It just broke, or said itself for how short a time it takes no more of us.
        """
        last = self._last
        if last is None or last.tier is not tier or last not in self._open(tier, now_s):
            return None
        if any(upstream.tier is tier and upstream is not last for upstream in self._route.upstreams):
            return None
        failure, wait_s = self._failed.get(last.name), self._health.wait_until_s(last) - now_s
        is_told = failure is FailureClass.THROTTLED and self._asked_s is not None
        is_worth_it = wait_s <= SHORT_S and (is_told or failure is FailureClass.UNAVAILABLE)
        return self._again(last, now_s) if is_worth_it else None

    def _paced(self, now_s: float) -> Ask | None:
        """One that nobody asked yet and that has only said that it has little left."""
        paced = [
            upstream
            for tier in self._order
            for upstream in self._untried(tier, now_s)
            if self._health.wait_until_s(upstream) <= now_s
        ]
        if not paced:
            return None
        soonest = min(paced, key=lambda u: self._health.paced_until_s(u, self._tokens))
        until_s = self._health.paced_until_s(soonest, self._tokens)
        latest_s = max(now_s, min(now_s + SHORT_S, self._give_up_s - LEAST_S))
        return self._ask(soonest, min(until_s, latest_s), now_s)

    def _waited_for(self, now_s: float) -> Ask | None:
        """The one that will take calls again soonest, of those that asked to be left alone."""
        waiting = [
            upstream
            for tier in self._order
            for upstream in self._open(tier, now_s)
            if self._health.wait_until_s(upstream) > now_s
            and self._failed.get(upstream.name, FailureClass.THROTTLED) is FailureClass.THROTTLED
        ]
        if not waiting:
            return None
        soonest = min(waiting, key=self._health.wait_until_s)
        return self._again(soonest, now_s)

    def _once_more(self, now_s: float) -> Ask | None:
        """With everybody asked: once more one that was not there."""
        gone = [
            upstream
            for tier in self._order
            for upstream in self._open(tier, now_s)
            if self._failed.get(upstream.name) in _AGAIN
        ]
        return self._again(self._health.choose(gone, now_s, self._rng), now_s) if gone else None

    def _again(self, upstream: Upstream, now_s: float) -> Ask | None:
        """Ask it after a backoff and after the time it asked for, if that fits and the budget has it."""
        failure = self._failed.get(upstream.name)
        is_broken = failure in _AGAIN
        if is_broken and self._is_retried:
            return None
        wait_s = full_jitter_s(self._attempts or 1, self._rng)
        at_s = max(now_s, self._health.wait_until_s(upstream)) + wait_s
        if at_s > self._give_up_s - LEAST_S or (failure is not None and not self._budget.take(now_s)):
            return None
        self._is_retried = self._is_retried or is_broken
        return self._ask(upstream, at_s, now_s)

    def _ask(self, upstream: Upstream, at_s: float, now_s: float) -> Ask:
        is_last = self._attempts + 1 >= self._route.max_attempts
        others = (u for tier in self._order for u in self._untried(tier, now_s) if u is not upstream)
        return Ask(
            upstream,
            at_s,
            has_others=not is_last and any(True for _ in others),
            is_fallback=self._last is not None and self._last is not upstream,
        )
