"""The chain: who is asked next after what, and that no request asks more than it may."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalogue import ModelCard
from gateway.policies.chain import LEAST_S, SHORT_S, Ask, Chain
from gateway.policies.failures import FailureClass
from gateway.policies.health import ACCOUNT_OUT_S, Health
from gateway.policies.retry_budget import BudgetTerms, RetryBudget
from gateway.routes import Route, Tier, Upstream

THROTTLED, CONTEXT, UNAVAILABLE, SLOW, ACCOUNT = (
    FailureClass.THROTTLED,
    FailureClass.CONTEXT,
    FailureClass.UNAVAILABLE,
    FailureClass.SLOW,
    FailureClass.ACCOUNT,
)


def upstream(name: str, tier: Tier = Tier.EQUAL, *, account: str = "", window: int = 1000) -> Upstream:
    card = ModelCard(input_usd=1, output_usd=1, window_tokens=window)
    return Upstream(name, name, card, tier, 1.0, account or name)


A, B = upstream("a"), upstream("b")
A2 = upstream("a2", account="a")
LONG, LONGEST = upstream("long", Tier.LONGER, window=4000), upstream("longest", Tier.LONGER, window=9000)
CHEAP = upstream("cheap", Tier.CHEAPER)
CHEAP_OF_A = upstream("cheap-of-a", Tier.CHEAPER, account="a")


class Walk:
    """A chain, and what a caller does with it: ask, fail, ask on. Time stands still but for the waits."""

    def __init__(
        self,
        *upstreams: Upstream,
        first: Tier = Tier.EQUAL,
        max_attempts: int = 5,
        give_up_s: float = 60.0,
        health: Health | None = None,
        budget: RetryBudget | None = None,
        tokens: int = 0,
        seed: int = 0,
    ) -> None:
        self.now_s = 0.0
        self.open: set[str] = set()
        self.health = health or Health()
        self.chain = Chain(
            Route("m", upstreams, max_attempts),
            first,
            health=self.health,
            budget=budget or RetryBudget(),
            open_s=lambda u, _: 30.0 if u.name in self.open else 0.0,
            rng=Random(seed),
            give_up_s=give_up_s,
            tokens=tokens,
        )

    def ask(self) -> Ask | None:
        ask = self.chain.next(self.now_s)
        if ask is not None:
            self.now_s = max(self.now_s, ask.at_s)
        return ask

    def next(self) -> Upstream | None:
        ask = self.ask()
        return None if ask is None else ask.upstream

    def fails(
        self, upstream: Upstream, failure: FailureClass, asked_s: float | None = None
    ) -> Upstream | None:
        """It fails so; who is next."""
        self.chain.sent(upstream)
        if failure is THROTTLED:
            self.health.throttled(upstream, self.now_s, asked_s)
        elif failure is ACCOUNT:
            self.health.refused_account(upstream, self.now_s)
        else:
            self.health.failed(upstream, self.now_s, asked_s)
        self.chain.failed(upstream, failure, asked_s=asked_s)
        return self.next()


def test_after_a_429_an_equal_on_another_account_is_asked_and_never_one_on_the_same() -> None:
    walk = Walk(A, A2, B, CHEAP)
    assert walk.fails(A, THROTTLED) is B
    assert walk.fails(B, UNAVAILABLE) is CHEAP


def test_after_a_429_a_cheaper_one_is_asked_when_no_equal_is_left_also_on_the_same_account() -> None:
    assert Walk(A, CHEAP_OF_A).fails(A, THROTTLED) is CHEAP_OF_A
    assert Walk(A, CHEAP).fails(A, THROTTLED, asked_s=30) is CHEAP


def test_an_equal_that_asks_for_a_short_wait_is_waited_for_rather_than_ask_a_weaker_model() -> None:
    walk = Walk(A, CHEAP)
    assert walk.fails(A, THROTTLED, asked_s=1.0) is A
    assert walk.now_s >= 1.0


def test_the_only_upstream_is_waited_for_as_long_as_it_asked_if_the_deadline_allows() -> None:
    walk = Walk(A)
    assert walk.fails(A, THROTTLED, asked_s=20) is A
    assert 20 <= walk.now_s < 22
    assert Walk(A, give_up_s=20).fails(A, THROTTLED, asked_s=20) is None


def test_a_prompt_that_is_too_long_goes_to_the_next_longer_window_and_to_no_shorter_one() -> None:
    walk = Walk(A, LONGEST, LONG, CHEAP)
    assert walk.fails(A, CONTEXT) is LONG
    assert walk.fails(LONG, CONTEXT) is LONGEST
    assert walk.fails(LONGEST, CONTEXT) is None


def test_a_longer_window_that_is_down_is_not_replaced_by_one_that_is_too_short() -> None:
    walk = Walk(A, LONG, CHEAP)
    assert walk.fails(A, CONTEXT) is LONG
    assert walk.fails(LONG, UNAVAILABLE) is LONG
    assert walk.fails(LONG, UNAVAILABLE) is None


def test_a_prompt_that_was_never_sent_is_no_attempt() -> None:
    walk = Walk(A, LONG, max_attempts=1)
    walk.chain.failed(A, CONTEXT)
    assert walk.next() is LONG


def test_an_equal_replaces_what_is_down_then_a_cheaper_one_then_one_more_try() -> None:
    walk = Walk(A, B, CHEAP)
    assert walk.fails(A, UNAVAILABLE) is B
    assert walk.fails(B, UNAVAILABLE) is CHEAP
    again = walk.fails(CHEAP, UNAVAILABLE)
    assert again in (A, B, CHEAP)
    assert walk.fails(again, UNAVAILABLE) is None


def test_the_only_equal_is_tried_once_more_after_a_backoff_before_a_cheaper_one() -> None:
    walk = Walk(A, CHEAP)
    assert walk.fails(A, UNAVAILABLE) is A
    assert 0 < walk.now_s <= 0.2
    assert walk.fails(A, UNAVAILABLE) is CHEAP


def test_what_is_slow_is_asked_again_only_when_nobody_else_is_left() -> None:
    assert Walk(A, CHEAP).fails(A, SLOW) is CHEAP
    assert Walk(A).fails(A, SLOW) is A


def test_who_asked_to_be_left_alone_for_long_is_left_for_a_cheaper_one() -> None:
    assert Walk(A, CHEAP).fails(A, UNAVAILABLE, asked_s=SHORT_S + 1) is CHEAP


def test_an_account_that_is_out_is_out_for_all_its_upstreams_and_for_the_next_requests() -> None:
    walk = Walk(A, A2, CHEAP_OF_A, B)
    walk.next()
    assert walk.fails(A, ACCOUNT) is B
    later = Walk(A, A2, B, health=walk.health)
    assert {later.next() for _ in range(20)} == {B}
    later.now_s = ACCOUNT_OUT_S + 1
    assert {later.next() for _ in range(50)} == {A, A2, B}


@pytest.mark.parametrize("failure", [FailureClass.CALLERS, FailureClass.CONTENT_FILTER])
def test_nobody_else_is_asked_about_what_is_the_callers_own(failure: FailureClass) -> None:
    assert Walk(A, B, CHEAP, LONG).fails(A, failure) is None


def test_an_upstream_that_is_set_up_wrong_is_not_asked_again() -> None:
    assert Walk(A).fails(A, FailureClass.MISCONFIGURED) is None
    assert Walk(A, B).fails(A, FailureClass.MISCONFIGURED) is B


def test_an_upstream_that_says_not_to_retry_is_not() -> None:
    walk = Walk(A, CHEAP)
    walk.chain.sent(A)
    walk.chain.failed(A, UNAVAILABLE, may_ask_again=False)
    assert walk.next() is CHEAP


@pytest.mark.parametrize(
    ("first", "order"),
    [
        (Tier.CHEAPER, [CHEAP, A]),
        (Tier.LONGER, [LONG, A, CHEAP]),
        (Tier.EQUAL, [A, CHEAP]),
    ],
)
def test_a_request_begins_in_the_tier_that_it_hints_at(first: Tier, order: list[Upstream]) -> None:
    walk = Walk(LONG, CHEAP, A, first=first)
    asked: list[Upstream] = []
    chosen = walk.next()
    while chosen is not None and len(asked) < len(order):
        asked.append(chosen)
        chosen = walk.fails(chosen, SLOW)
    assert asked == order


def test_an_open_breaker_is_passed_over_and_not_waited_for() -> None:
    walk = Walk(A, B)
    walk.open.add("a")
    assert {walk.next() for _ in range(20)} == {B}
    walk.open.add("b")
    assert walk.next() is None


def test_a_breaker_that_opened_during_a_backoff_ends_the_retries() -> None:
    walk = Walk(A)
    assert walk.fails(A, UNAVAILABLE) is A
    walk.open.add("a")
    assert walk.next() is None


def test_who_has_little_left_is_asked_last_and_after_a_short_wait() -> None:
    walk = Walk(A, B)
    walk.health.told_limits(A, 0.0, requests=(0, 30.0))
    assert {walk.next() for _ in range(20)} == {B}
    alone = Walk(A)
    alone.health.told_limits(A, 0.0, requests=(0, 1.0))
    ask = alone.ask()
    assert ask is not None
    assert ask.at_s == 1.0
    alone = Walk(A, tokens=500)
    alone.health.told_limits(A, 0.0, tokens=(100, 30.0))
    ask = alone.ask()
    assert ask is not None
    assert ask.at_s == SHORT_S


def test_without_a_budget_nobody_is_asked_again_but_others_still_are() -> None:
    spent = RetryBudget(BudgetTerms(ratio=0.0, floor=0.0))
    assert Walk(A, budget=spent).fails(A, UNAVAILABLE) is None
    assert Walk(A, CHEAP, budget=spent).fails(A, UNAVAILABLE) is CHEAP


TOLD = st.one_of(st.none(), st.floats(0, 40))


@given(
    st.lists(st.sampled_from([A, A2, B, LONG, LONGEST, CHEAP, CHEAP_OF_A]), unique=True, min_size=1),
    st.sampled_from(Tier),
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from(FailureClass), TOLD, st.booleans()), min_size=8, max_size=8),
    st.floats(0.5, 60),
    st.integers(0, 1000),
)
def test_whatever_fails_attempts_waits_and_promises_are_kept(
    upstreams: list[Upstream],
    first: Tier,
    max_attempts: int,
    failures: list[tuple[FailureClass, float | None, bool]],
    give_up_s: float,
    seed: int,
) -> None:
    walk = Walk(*upstreams, first=first, max_attempts=max_attempts, give_up_s=give_up_s, seed=seed)
    left_alone: dict[str, float] = {}
    sent = 0
    over = False
    for failure, asked_s, opens in failures:
        ask = walk.ask()
        if ask is None:
            break
        assert not over
        assert ask.at_s <= max(0.0, give_up_s - LEAST_S)
        assert ask.at_s >= left_alone.get(ask.upstream.name, 0.0)
        assert ask.upstream.name not in walk.open
        sent += 1
        if asked_s is not None and failure in (THROTTLED, UNAVAILABLE, SLOW):
            left_alone[ask.upstream.name] = walk.now_s + asked_s
        if opens:
            walk.open.add(ask.upstream.name)
        over = failure in (FailureClass.CALLERS, FailureClass.CONTENT_FILTER)
        walk.chain.sent(ask.upstream)
        if failure is THROTTLED:
            walk.health.throttled(ask.upstream, walk.now_s, asked_s)
        elif failure in (UNAVAILABLE, SLOW):
            walk.health.failed(ask.upstream, walk.now_s, asked_s)
        walk.chain.failed(ask.upstream, failure, asked_s=asked_s)
    assert sent <= max_attempts
