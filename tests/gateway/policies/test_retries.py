"""The retry budget and the backoff: retries are a share of what succeeds, and crowds are spread."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.backoff import LONGEST_S, full_jitter_s
from gateway.policies.retry_budget import BudgetTerms, RetryBudget

TERMS = BudgetTerms(ratio=0.2, floor=8, floor_s=60)


def test_a_quiet_process_may_retry_a_little_and_an_outage_uses_that_up() -> None:
    budget = RetryBudget(TERMS)
    assert [budget.take(0.0) for _ in range(10)] == [True] * 8 + [False] * 2
    assert not budget.take(7.0)
    assert budget.take(8.0)


def test_successes_earn_their_share() -> None:
    budget = RetryBudget(TERMS)
    for _ in range(8):
        budget.take(0.0)
    for _ in range(11):
        budget.earn()
    assert [budget.take(0.0) for _ in range(3)] == [True, True, False]


@given(st.lists(st.one_of(st.just("earn"), st.floats(0, 5)), max_size=300))
def test_no_more_is_spent_than_the_floor_its_refill_and_what_was_earned(acts: list[str | float]) -> None:
    budget, now_s, spent, earned = RetryBudget(TERMS), 0.0, 0, 0
    for act in acts:
        if isinstance(act, str):
            budget.earn()
            earned += 1
        else:
            now_s += act
            spent += budget.take(now_s)
    assert spent <= TERMS.floor * (1 + now_s / TERMS.floor_s) + TERMS.ratio * earned + 1e-6


@given(st.integers(1, 10_000), st.integers())
def test_a_backoff_is_drawn_from_nothing_up_to_a_doubling_bound(retry: int, seed: int) -> None:
    wait_s = full_jitter_s(retry, Random(seed))
    assert 0 <= wait_s <= min(LONGEST_S, 0.2 * 2 ** min(retry - 1, 20))
