"""How late an index is, by what queries of it find: as values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.replicator.canary import Canary, Flock, decode_canary, encode_canary

EVERY_S = 5.0
LOG_S = 1_000_000.0
"""What the log's clock is ahead of ours."""


def flock(before: Canary | None = None) -> Flock:
    return Flock("one", EVERY_S, before)


def written(birds: Flock, at_s: float) -> str:
    """One that the index acknowledged at once."""
    token = birds.sent(at_s, LOG_S + at_s)
    birds.acknowledged(at_s)
    return token


def lag_s(birds: Flock, now_s: float) -> float | None:
    return birds.told.lag_s(LOG_S + now_s)


def test_nothing_is_told_before_anything_is_known() -> None:
    assert flock().told == Canary()
    assert lag_s(flock(), 5.0) is None


def test_a_canary_that_is_not_found_grows_old() -> None:
    birds = flock()
    written(birds, 10.0)
    birds.looked(None, 10.5)
    assert lag_s(birds, 12.0) == pytest.approx(2.0)
    assert lag_s(birds, 100.0) == pytest.approx(90.0)


def test_what_the_last_one_took_stays_told() -> None:
    birds = flock()
    token = written(birds, 10.0)
    birds.looked(token, 10.4)
    assert birds.told.unseen_s == 0
    assert lag_s(birds, 14.0) == pytest.approx(0.4)
    assert birds.wake_s == birds.write_s == 15.0


def test_whoever_finds_a_later_one_has_found_all_before() -> None:
    birds = flock()
    for at_s in (0.0, 5.0, 10.0):
        last = written(birds, at_s)
    birds.looked(last, 11.0)
    assert birds.told == Canary(delay_s=1.0)


def test_an_earlier_one_leaves_the_later_ones_unfound() -> None:
    birds = flock()
    first = written(birds, 1.0)
    written(birds, 6.0)
    birds.looked(first, 7.0)
    assert birds.told == Canary(delay_s=6.0, unseen_s=LOG_S + 6.0)
    assert birds.look_s < 7.1


def test_one_that_was_not_acknowledged_says_nothing() -> None:
    birds = flock()
    token = birds.sent(0.0, LOG_S)
    assert birds.told == Canary()
    assert birds.look_s == float("inf")
    written(birds, 5.0)
    birds.looked(token, 6.0)  # it came after all, before the one that was acknowledged
    assert birds.told.unseen_s == LOG_S + 5.0


def test_an_index_that_lost_it_gets_a_new_one() -> None:
    birds = flock()
    written(birds, 0.0)
    birds.looked(None, 4.0)
    assert birds.write_s == 5.0
    token = written(birds, 5.0)
    birds.looked(token, 5.1)
    assert lag_s(birds, 5.2) == pytest.approx(0.1)


def test_what_the_daemon_before_had_not_found_counts_until_ours_is() -> None:
    birds = flock(Canary(0.2, LOG_S + 10.0))
    assert lag_s(birds, 30.0) == pytest.approx(20.0)
    token = written(birds, 30.0)
    birds.looked("another:9", 30.5)
    assert lag_s(birds, 31.0) == pytest.approx(21.0)
    birds.looked(token, 31.0)
    assert lag_s(birds, 40.0) == pytest.approx(1.0)


@pytest.mark.parametrize("token", ["", "one", "one:", "one:x", "two:7", "one:-1", "None"])
def test_a_token_that_is_not_ours_finds_nothing(token: str) -> None:
    birds = flock()
    written(birds, 0.0)
    birds.looked(token, 1.0)
    assert birds.told == Canary(unseen_s=LOG_S)


def test_after_a_long_silence_the_next_one_is_due_at_once() -> None:
    """Otherwise an index that is well again would be told as late as it was."""
    birds = flock()
    token = written(birds, 0.0)
    birds.put_off(38.0)
    birds.looked(token, 40.0)
    assert birds.write_s == 40.0


def test_looks_become_rarer_and_begin_anew_with_what_is_found() -> None:
    birds = flock()
    written(birds, 0.0)
    pauses = []
    for _ in range(10):
        now_s = birds.look_s
        birds.looked(None, now_s)
        pauses.append(birds.look_s - now_s)
    assert pauses == pytest.approx(sorted(pauses))
    assert pauses[0] < 0.1
    assert pauses[-1] == pytest.approx(1.0)


def test_an_acknowledgement_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was sent"):
        flock().acknowledged(0.0)


@given(st.none() | st.floats(0, 1e6), st.floats(0, 1e10))
def test_what_is_told_survives_its_bytes(delay_s: float | None, unseen_s: float) -> None:
    assert decode_canary(encode_canary(Canary(delay_s, unseen_s))) == Canary(delay_s, unseen_s)


STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "fail", "look", "miss"]), st.floats(0.01, 30.0), st.floats(0, 1)),
    max_size=400,
)


@given(STEPS)
def test_the_lag_is_never_less_than_the_age_of_what_is_not_found(
    steps: list[tuple[str, float, float]],
) -> None:
    birds, now_s = flock(), 0.0
    sent: list[tuple[str, float]] = []
    found = 0
    for step, pause_s, share in steps:
        now_s += pause_s
        match step:
            case "write":
                sent.append((written(birds, now_s), now_s))
            case "fail":
                birds.sent(now_s, LOG_S + now_s)
            case "look" if (now_found := found + round(share * (len(sent) - found))) > found:
                found = now_found
                token, sent_s = sent[found - 1]
                birds.looked(token, now_s)
                told_s = lag_s(birds, now_s)
                assert told_s is not None
                assert told_s >= now_s - sent_s - 1e-3
                if found == len(sent):
                    assert birds.told.unseen_s == 0
            case _:
                birds.looked(None, now_s)
        told_s = lag_s(birds, now_s)
        if found < len(sent):
            assert told_s is not None
            assert told_s >= now_s - sent[found][1] - 1e-3


@given(st.floats(0, 100), st.floats(1, 20))
def test_of_an_index_that_is_always_late_the_lag_is_that_and_little_more(
    late_s: float, every_s: float
) -> None:
    birds, now_s = Flock("one", every_s), 0.0
    shown: list[tuple[float, str]] = []
    is_known = False
    while now_s < late_s + 100:
        now_s = max(now_s, birds.wake_s)
        if now_s >= birds.write_s:
            shown.append((now_s + late_s, written(birds, now_s)))
            continue
        visible = [token for at_s, token in shown if at_s <= now_s]
        birds.looked(visible[-1] if visible else None, now_s)
        is_known = is_known or bool(visible)
        told_s = lag_s(birds, now_s)
        assert told_s is not None or not is_known
        if is_known and told_s is not None:
            assert late_s - 1e-3 <= told_s <= max(late_s, 0.02) + every_s + 1.1


def test_an_index_that_never_shows_anything_costs_bounded_memory() -> None:
    birds = flock()
    for number in range(5_000):
        last = written(birds, number * EVERY_S)
        birds.looked(None, number * EVERY_S + 1)
    assert len(birds._unseen) <= 128
    assert birds.told.unseen_s == LOG_S
    birds.looked(last, 25_001.0)
    assert birds.told.unseen_s == 0
