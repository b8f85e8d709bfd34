import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.timers import Expired, Timers, Watch

FOREVER = 1e9
TIMERS = Timers(first_content_s=5, gap_s=8, min_tokens_per_s=1, rate_window_s=10, total_s=100)

# Whole milliseconds, so that shrunk examples can be read.
GAPS = st.lists(st.integers(0, 12_000), max_size=40)
Events = Sequence[tuple[float, int]]


@st.composite
def answers(draw: st.DrawFn) -> Events:
    """Times and tokens of content events, from a start at 0."""
    times = itertools.accumulate(draw(GAPS))
    return [(time / 1000, draw(st.integers(0, 20))) for time in times]


def watch_of(events: Events, timers: Timers = TIMERS, deadline_s: float = FOREVER) -> Watch:
    watch = Watch(timers, 0.0, deadline_s)
    for time_s, tokens in events:
        watch.saw(time_s, tokens)
    return watch


def told(events: Events, now_s: float, timers: Timers, deadline_s: float) -> set[Expired]:
    """Every clock that has run out, straight from the definitions and over all events."""
    out = set()
    if now_s >= deadline_s:
        out.add(Expired.DEADLINE)
    if now_s >= timers.total_s:
        out.add(Expired.TOTAL)
    if not events:
        return out | ({Expired.FIRST_CONTENT} if now_s >= timers.first_content_s else set())
    if now_s >= events[-1][0] + timers.gap_s:
        out.add(Expired.GAP)
    recent = sum(tokens for time_s, tokens in events if time_s + timers.rate_window_s > now_s)
    is_full = now_s >= events[0][0] + timers.rate_window_s
    if is_full and recent < timers.min_tokens_per_s * timers.rate_window_s:
        out.add(Expired.THROUGHPUT)
    return out


@given(answers(), st.integers(0, 30_000), st.integers(0, 200_000))
def test_a_clock_is_named_exactly_when_one_has_run_out(
    events: Events, later_ms: int, deadline_ms: int
) -> None:
    now_s = (events[-1][0] if events else 0.0) + later_ms / 1000
    deadline_s = deadline_ms / 1000
    due = told(events, now_s, TIMERS, deadline_s)
    named = watch_of(events, deadline_s=deadline_s).expired(now_s)
    assert (named is None) == (not due)
    assert named is None or named in due


@given(answers(), st.integers(0, 200_000))
def test_the_deadline_always_wins(events: Events, deadline_ms: int) -> None:
    deadline_s = deadline_ms / 1000
    watch = watch_of(events, deadline_s=deadline_s)
    assert watch.due_s() <= deadline_s
    assert watch.expired(deadline_s) is Expired.DEADLINE
    assert watch.expired(deadline_s + 1000) is Expired.DEADLINE


@given(answers())
def test_nothing_expires_before_it_is_due_and_something_does_then(events: Events) -> None:
    watch = watch_of(events)
    assert watch.expired(watch.due_s()) is not None
    assert watch.expired(watch.due_s() - 0.001) is None


@given(st.lists(st.integers(1, 900), min_size=1, max_size=110))
def test_a_fast_answer_never_expires(gaps_ms: list[int]) -> None:
    watch = Watch(TIMERS, 0.0, FOREVER)
    for time_ms in itertools.accumulate(gaps_ms):
        assert watch.expired(time_ms / 1000) is None
        watch.saw(time_ms / 1000, tokens=1)
        assert watch.expired(time_ms / 1000) is None


@given(st.integers(1, 7_999))
def test_a_drip_of_one_token_a_gap_is_caught_by_the_rate(gap_ms: int) -> None:
    timers = Timers(first_content_s=5, gap_s=8, min_tokens_per_s=1.0, rate_window_s=10, total_s=FOREVER)
    watch = Watch(timers, 0.0, FOREVER)
    watch.saw(0.0)
    dripped = gap_ms > 1000 * 10 / 9  # fewer than ten fall into any ten seconds
    for number in range(1, 60):
        now_s = number * gap_ms / 1000
        if watch.due_s() <= now_s:
            assert watch.expired(watch.due_s()) is Expired.THROUGHPUT
            assert watch.due_s() <= 10 + 2 * gap_ms / 1000
            return
        watch.saw(now_s)
    assert not dripped


def test_what_is_no_content_does_not_stop_the_first_clock() -> None:
    watch = Watch(TIMERS, 100.0, FOREVER)
    assert watch.due_s() == 105.0
    assert watch.expired(104.9) is None
    assert watch.expired(105.0) is Expired.FIRST_CONTENT


def test_the_first_content_sets_the_gap_going() -> None:
    watch = watch_of([(4.0, 50)])
    assert watch.expired(11.9) is None
    assert watch.expired(12.0) is Expired.GAP


def test_a_burst_pays_for_one_window_and_no_longer() -> None:
    timers = Timers(gap_s=50, min_tokens_per_s=1, rate_window_s=10)
    watch = watch_of([(0.0, 1000)], timers)
    assert watch.expired(9.9) is None
    assert watch.expired(10.0) is Expired.THROUGHPUT


def test_the_total_bounds_an_answer_that_never_stops() -> None:
    watch = watch_of([(second / 10, 1) for second in range(1000)])
    assert watch.expired(99.9) is None
    assert watch.expired(100.0) is Expired.TOTAL


def test_without_a_least_rate_a_drip_is_let_be() -> None:
    watch = Watch(Timers(gap_s=8, min_tokens_per_s=0, total_s=FOREVER), 0.0, FOREVER)
    for second in range(0, 700, 7):
        assert watch.expired(second) is None
        watch.saw(second)


def test_a_slow_callers_time_counts_for_neither_gap_nor_rate() -> None:
    watch = watch_of([(1.0, 1)])
    watch.excuse(60.0)
    assert watch.expired(60.0) is None
    assert watch.expired(1.0 + 60.0 + 8.0) is Expired.GAP
    watch.saw(68.0, 1)
    assert watch.expired(70.9) is None
    assert watch.expired(71.0) is Expired.THROUGHPUT
    assert watch.expired(100.0) is not None


def test_a_slow_callers_time_counts_for_total_and_deadline() -> None:
    watch = watch_of([(1.0, 100)], deadline_s=150.0)
    watch.excuse(1000.0)
    assert watch.expired(100.0) is Expired.TOTAL
    assert watch.expired(150.0) is Expired.DEADLINE


@pytest.mark.parametrize("tokens", [0, -3])
def test_content_of_no_tokens_moves_the_gap_alone(tokens: int) -> None:
    watch = watch_of([(0.0, 1), (7.0, tokens), (9.0, tokens)])
    assert watch.expired(9.9) is None
    assert watch.expired(10.0) is Expired.THROUGHPUT
