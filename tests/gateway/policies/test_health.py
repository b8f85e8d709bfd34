"""Health: weights hold among the healthy, the sick are avoided and tried again, and promises are kept."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.catalogue import ModelCard
from gateway.policies.health import ACCOUNT_OUT_S, FADES_S, KNOWN_S, LONGEST_PAUSE_S, Health
from gateway.routes import Tier, Upstream

CARD = ModelCard(input_usd=1, output_usd=1, window_tokens=1000)


def upstream(name: str, weight: float = 1.0, account: str = "", model: str = "") -> Upstream:
    return Upstream(name, model or name, CARD, Tier.EQUAL, weight, account or name)


A, B, C = upstream("a"), upstream("b"), upstream("c")


def shares(health: Health, *upstreams: Upstream, now_s: float = 0.0) -> Counter[str]:
    rng = Random(1)
    return Counter(health.choose(upstreams, now_s, rng).name for _ in range(2000))


def test_weights_hold_among_the_healthy() -> None:
    found = shares(Health(), upstream("a", 3.0), upstream("b", 1.0))
    assert 1400 < found["a"] < 1600


def test_small_differences_do_not_move_everybody_to_one() -> None:
    health = Health()
    health.answered(A, 0.0, 0.50)
    health.answered(B, 0.0, 0.45)
    assert 900 < shares(health, A, B)["a"] < 1100


def test_the_quicker_is_asked_when_it_is_clearly_so() -> None:
    health = Health()
    health.answered(A, 0.0, 2.0)
    health.answered(B, 0.0, 0.4)
    assert shares(health, A, B) == {"b": 2000}


def test_who_fails_is_avoided_and_asked_again_after_a_while() -> None:
    health = Health()
    for _ in range(3):
        health.failed(A, 0.0)
    assert shares(health, A, B) == {"b": 2000}
    assert health.error_ratio(A, FADES_S) == health.error_ratio(A, 0.0) / 2
    later_s = 20 * FADES_S
    health.answered(A, later_s, 0.5)
    health.answered(B, later_s, 0.5)
    assert 900 < shares(health, A, B, now_s=later_s)["a"] < 1100


def test_an_old_time_to_first_content_says_nothing() -> None:
    health = Health()
    health.answered(A, 0.0, 9.0)
    health.answered(B, KNOWN_S + 1, 0.1)
    assert health.ttft_s(A, KNOWN_S + 1) is None
    assert 900 < shares(health, A, B, now_s=KNOWN_S + 1)["a"] < 1100


def test_who_answered_of_late_and_mostly_is_proven() -> None:
    health = Health()
    assert not health.is_proven(A, 0.0)
    health.answered(A, 0.0, 0.2)
    assert health.is_proven(A, 1.0)
    for _ in range(5):
        health.failed(A, 1.0)
    assert not health.is_proven(A, 1.0)


def test_a_throttled_lane_is_of_an_account_and_a_model_whatever_the_route() -> None:
    health = Health()
    one, same = upstream("x/0", account="k", model="m"), upstream("y/0", account="k", model="m")
    other = upstream("y/1", account="k", model="n")
    health.throttled(one, 0.0, 7.0)
    assert health.wait_until_s(same) == 7.0
    assert health.wait_until_s(other) < 0


def test_without_a_retry_after_pauses_double_and_one_burst_counts_once() -> None:
    health = Health()
    for _ in range(10):
        health.throttled(A, 0.0)
    assert health.wait_until_s(A) == 1.0
    health.throttled(A, 1.0)
    assert health.wait_until_s(A) == 3.0
    for _ in range(20):
        health.throttled(A, health.wait_until_s(A))
    now_s = health.wait_until_s(A)
    health.throttled(A, now_s)
    assert health.wait_until_s(A) == now_s + LONGEST_PAUSE_S
    health.answered(A, now_s + LONGEST_PAUSE_S, 0.1)
    health.throttled(A, now_s + LONGEST_PAUSE_S)
    assert health.wait_until_s(A) == now_s + LONGEST_PAUSE_S + 1.0


@given(st.lists(st.tuples(st.floats(0, 100), st.one_of(st.none(), st.floats(0, 60)), st.booleans())))
def test_nothing_shortens_a_wait(told: list[tuple[float, float | None, bool]]) -> None:
    health, promised_s = Health(), float("-inf")
    for now_s, asked_s, is_429 in sorted(told, key=lambda t: t[0]):
        (health.throttled if is_429 else health.failed)(A, now_s, asked_s)
        if asked_s is not None:
            promised_s = max(promised_s, now_s + asked_s)
        health.answered(A, now_s, 0.1)
        assert health.wait_until_s(A) >= promised_s


def test_rate_headers_pace_before_the_provider_refuses() -> None:
    health = Health()
    health.told_limits(A, 0.0, requests=(2, 10.0), tokens=(1000, 5.0))
    assert health.paced_until_s(A, tokens=500) < 0
    assert health.paced_until_s(A, tokens=2000) == 5.0
    health.asking(A, 400)
    health.asking(A, 400)
    assert health.paced_until_s(A) == 10.0
    assert health.wait_until_s(A) < 0
    health.told_limits(A, 1.0, requests=(50, 10.0))
    assert health.paced_until_s(A) < 0


def test_an_account_is_out_for_a_while() -> None:
    health = Health()
    other = upstream("other", account="a")
    health.refused_account(A, 0.0)
    assert health.is_out(other, ACCOUNT_OUT_S - 1)
    assert not health.is_out(B, 0.0)
    assert not health.is_out(A, ACCOUNT_OUT_S)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=5), st.integers())
def test_one_of_those_given_is_chosen(weights: list[float], seed: int) -> None:
    upstreams = [upstream(str(number), weight) for number, weight in enumerate(weights)]
    assert Health().choose(upstreams, 0.0, Random(seed)) in upstreams
