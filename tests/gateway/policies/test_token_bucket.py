"""Token buckets: never more than capacity and refill, whatever the order, the estimates and the clock."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.allowances import Quota, Resource
from gateway.limiters.local import Bucket, LocalLimiter
from gateway.policies.token_bucket import Charge, duration

QUOTA = Quota("{t}:tenant:tokens", Resource.TOKENS, "the tenant", 600)


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


costs = st.floats(0, 600, allow_nan=False)
steps = st.lists(st.tuples(st.floats(-30, 60), costs, st.none() | costs), max_size=60)
"""Seconds until it is asked, the estimate, and what was really used: None when that is never settled."""


@given(steps)
def test_what_is_let_through_is_at_most_capacity_and_refill(
    told: list[tuple[float, float, float | None]],
) -> None:
    clock = Clock()
    limiter = LocalLimiter(clock)
    limiter.take_now([Charge(QUOTA, 0)])  # the bucket is there from now on
    latest_s, taken = clock.now_s, 0.0
    for step_s, cost, _ in told:
        clock.now_s += step_s
        latest_s = max(latest_s, clock.now_s)  # a clock that goes back refills nothing
        verdict = limiter.take_now([Charge(QUOTA, cost)])
        taken += cost if verdict.refused is None else 0
        assert taken <= QUOTA.per_min + QUOTA.per_s * (latest_s - 1000.0) + 0.01


@given(steps)
def test_what_was_really_used_is_within_capacity_and_refill_and_one_debt(
    told: list[tuple[float, float, float | None]],
) -> None:
    clock = Clock()
    limiter = LocalLimiter(clock)
    used = most_over = 0.0
    for step_s, estimate, actual in told:
        clock.now_s += abs(step_s)
        if limiter.take_now([Charge(QUOTA, estimate)]).refused is None:
            really = estimate if actual is None else actual
            limiter.settle([Charge(QUOTA, really - estimate)])
            used, most_over = used + really, max(most_over, really - estimate)
        assert used <= QUOTA.per_min + QUOTA.per_s * (clock.now_s - 1000.0) + most_over + 0.01


@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), max_size=40))
def test_a_level_is_never_negative(told: list[tuple[float, float]]) -> None:
    bucket, now_s = Bucket(600, 60), 0.0
    for step_s, cost in told:
        now_s += step_s
        bucket.add(now_s, cost)
        assert bucket.level(now_s) >= 0


@given(costs, costs)
def test_what_is_given_back_can_be_taken_again_and_not_more(first: float, second: float) -> None:
    limiter = LocalLimiter(Clock())
    assert limiter.take_now([Charge(QUOTA, first)]).refused is None
    limiter.settle([Charge(QUOTA, -first), Charge(QUOTA, -second)])
    assert limiter.take_now([Charge(QUOTA, 600)]).refused is None
    assert limiter.take_now([Charge(QUOTA, 1)]).refused == QUOTA


def test_all_quotas_are_charged_or_none() -> None:
    limiter, small = LocalLimiter(Clock()), Quota("small", Resource.REQUESTS, "this key", 1)
    assert limiter.take_now([Charge(QUOTA, 100), Charge(small, 1)]).refused is None
    verdict = limiter.take_now([Charge(QUOTA, 100), Charge(small, 1)])
    assert (verdict.refused, verdict.wait_s) == (small, 60)
    assert [each.remaining for each in verdict.standings] == [500, 0]


def test_a_refusal_says_when_it_would_be_let_through() -> None:
    clock = Clock()
    limiter = LocalLimiter(clock)
    limiter.take_now([Charge(QUOTA, 600)])
    verdict = limiter.take_now([Charge(QUOTA, 50)])
    assert verdict.wait_s == pytest.approx(5)
    clock.now_s += verdict.wait_s
    assert limiter.take_now([Charge(QUOTA, 50)]).refused is None


def test_more_than_a_whole_quota_passes_a_full_bucket_and_leaves_a_debt() -> None:
    clock = Clock()
    limiter = LocalLimiter(clock)
    assert limiter.take_now([Charge(QUOTA, 900)]).refused is None
    clock.now_s += 29
    assert limiter.take_now([Charge(QUOTA, 0.1)]).refused == QUOTA
    clock.now_s += 31
    assert limiter.take_now([Charge(QUOTA, 300)]).refused is None


def test_a_changed_quota_holds_at_once_and_forgets_nothing() -> None:
    limiter, less = LocalLimiter(Clock()), Quota(QUOTA.key, Resource.TOKENS, "the tenant", 300)
    limiter.take_now([Charge(QUOTA, 250)])
    assert [s.remaining for s in limiter.take_now([Charge(less, 40)]).standings] == [10]
    assert limiter.take_now([Charge(less, 20)]).refused == less


def test_a_share_is_a_part_of_the_quota_and_is_told_as_the_whole() -> None:
    limiter = LocalLimiter(Clock(), lambda: 4)
    verdict = asyncio.run(limiter.take([Charge(QUOTA, 150)]))
    assert verdict.refused is None
    refused = limiter.take_now([Charge(QUOTA, 1)])
    assert refused.refused == QUOTA
    assert [each.quota for each in refused.standings] == [QUOTA]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0201, "21ms"),
        (1, "1s"),
        (1.54, "1.6s"),
        (59.99, "1m0s"),
        (360, "6m0s"),
        (83.2, "1m23.2s"),
    ],
)
def test_durations_read_as_openais(seconds: float, text: str) -> None:
    assert duration(seconds) == text
