"""Breakers: when they open, for how long, whom they let through, and what cannot move them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic import ValidationError

from gateway.errors import CircuitOpen, Fault
from gateway.policies.breaker import PROBE_AGAIN_S, SLOTS, Breaker, Breakers, BreakerTerms, Permit, State

TERMS = BreakerTerms()
FEW = BreakerTerms(min_failures=2, open_s=10, probes=2)


def failed(times: int, terms: BreakerTerms = TERMS, *, at_s: float = 0.0) -> Breaker:
    """A breaker that has seen so many failures and nothing else."""
    breaker = Breaker("it", terms)
    for _ in range(times):
        breaker.admit(at_s).fail(at_s)
    return breaker


def test_it_opens_at_the_floor_of_failures_and_not_before() -> None:
    assert failed(4).state(0.0) is State.CLOSED
    breaker = failed(5)
    assert breaker.state(0.0) is State.OPEN
    with pytest.raises(CircuitOpen) as caught:
        breaker.admit(12.0)
    assert caught.value.retry_after_s == 18.0
    assert caught.value.fault is Fault.UPSTREAM
    assert caught.value.retryable


def test_many_failures_are_no_reason_while_most_calls_succeed() -> None:
    breaker = Breaker("it", TERMS)
    for _ in range(100):
        breaker.admit(1.0).ok(1.0)
        breaker.admit(1.0).ok(1.0)
        breaker.admit(1.0).fail(1.0)
    assert breaker.state(1.0) is State.CLOSED


def test_every_second_call_failing_opens_it_though_no_two_fail_in_a_row() -> None:
    breaker = Breaker("it", TERMS)
    for _ in range(5):
        breaker.admit(1.0).ok(1.0)
        breaker.admit(1.0).fail(1.0)
    assert breaker.state(1.0) is State.OPEN


def test_failures_older_than_the_window_are_forgotten() -> None:
    breaker = failed(4, at_s=0.0)
    breaker.admit(30.0).fail(30.0)
    assert breaker.state(30.0) is State.CLOSED
    breaker = failed(4, at_s=0.0)
    breaker.admit(26.9).fail(26.9)
    assert breaker.state(26.9) is State.OPEN


@given(
    times_s=st.lists(st.floats(0, 200), min_size=1, max_size=40),
    window_s=st.floats(0.5, 100),
    floor=st.integers(1, 6),
)
def test_it_opens_only_on_what_the_window_holds(times_s: list[float], window_s: float, floor: int) -> None:
    breaker = Breaker("it", BreakerTerms(window_s=window_s, min_failures=floor))
    seen_s: list[float] = []
    for now_s in sorted(times_s):
        breaker.admit(now_s).fail(now_s)
        seen_s.append(now_s)
        if breaker.state(now_s) is State.OPEN:
            # The window ends in whole tenths, to which rounding may add one bit.
            assert sum(now_s - at_s <= window_s * (1 + 1e-9) for at_s in seen_s) >= floor
            return
        surely_s = window_s * (SLOTS - 1) / SLOTS * (1 - 1e-9)
        assert sum(now_s - at_s < surely_s for at_s in seen_s) < floor


def test_one_failed_probe_opens_it_again_for_the_whole_time() -> None:
    breaker = failed(5)
    assert breaker.state(30.0) is State.HALF_OPEN
    breaker.admit(30.0).fail(31.0)
    assert breaker.wait_s(31.0) == 30.0


def test_as_many_successes_as_probes_close_it_and_what_was_is_forgotten() -> None:
    breaker = failed(2, FEW)
    first, second = breaker.admit(10.0), breaker.admit(10.0)
    first.ok(11.0)
    assert breaker.state(11.0) is State.HALF_OPEN
    second.ok(11.0)
    assert breaker.state(11.0) is State.CLOSED
    breaker.admit(11.0).fail(11.0)
    assert breaker.state(11.0) is State.CLOSED


def test_of_fifty_callers_at_once_only_the_probes_get_through() -> None:
    breaker, admitted = failed(2, FEW), 0
    waits_s: list[float | None] = []
    for _ in range(50):
        try:
            breaker.admit(10.0)
        except CircuitOpen as error:
            waits_s.append(error.retry_after_s)
        else:
            admitted += 1
    assert (admitted, waits_s) == (2, [PROBE_AGAIN_S] * 48)


def test_a_probe_whose_caller_left_makes_room_for_another_and_decides_nothing() -> None:
    breaker = failed(5)
    breaker.admit(30.0).neutral(30.5)
    assert breaker.state(30.5) is State.HALF_OPEN
    breaker.admit(30.5).ok(31.0)
    assert breaker.state(31.0) is State.CLOSED


def test_callers_that_leave_never_open_it() -> None:
    breaker = failed(4)
    for _ in range(100):
        breaker.admit(1.0).neutral(1.0)
    assert breaker.state(1.0) is State.CLOSED


def test_retry_after_lengthens_the_open_time_and_a_shorter_one_does_not_shorten_it() -> None:
    breaker = failed(4)
    breaker.admit(0.0).fail(0.0, retry_after_s=100.0)
    assert breaker.wait_s(0.0) == 100.0
    breaker.admit(100.0).fail(100.0, retry_after_s=1.0)
    assert breaker.wait_s(100.0) == TERMS.open_s


def test_a_wait_that_was_asked_for_before_it_opened_is_kept_when_it_opens() -> None:
    breaker = Breaker("it", TERMS)
    breaker.admit(0.0).fail(0.0, retry_after_s=120.0)
    for _ in range(4):
        breaker.admit(5.0).fail(5.0)
    assert breaker.wait_s(5.0) == 115.0


def test_stragglers_of_before_change_nothing() -> None:
    breaker = Breaker("it", TERMS)
    stragglers = [breaker.admit(0.0) for _ in range(10)]
    for straggler in stragglers[:5]:
        straggler.fail(1.0)
    assert breaker.wait_s(1.0) == 30.0
    stragglers[5].fail(20.0)
    stragglers[6].ok(20.0)
    assert breaker.wait_s(20.0) == 11.0
    probe = breaker.admit(31.0)
    stragglers[7].fail(31.0)  # it began before the probe did
    stragglers[8].ok(31.0)
    stragglers[9].neutral(31.0)
    assert (breaker.state(31.0), breaker.wait_s(31.0)) == (State.HALF_OPEN, PROBE_AGAIN_S)
    probe.ok(32.0)
    assert breaker.state(32.0) is State.CLOSED


def test_the_first_word_about_a_call_counts() -> None:
    breaker = Breaker("it", TERMS)
    for _ in range(20):
        permit = breaker.admit(0.0)
        permit.neutral(0.0)
        permit.fail(0.0)
        permit.fail(0.0)
    assert breaker.state(0.0) is State.CLOSED


def test_each_move_is_told_once() -> None:
    told: list[tuple[str, State]] = []
    breaker = Breaker("it", BreakerTerms(min_failures=1), lambda name, state: told.append((name, state)))
    breaker.admit(0.0).fail(0.0)
    breaker.admit(30.0).fail(30.0)
    breaker.admit(60.0).ok(60.0)
    assert told == [
        ("it", state) for state in (State.OPEN, State.HALF_OPEN, State.OPEN, State.HALF_OPEN, State.CLOSED)
    ]


def test_a_name_has_one_breaker_and_new_terms_begin_anew() -> None:
    breakers = Breakers(BreakerTerms(min_failures=1))
    breakers.of("b").admit(0.0).fail(0.0)
    assert breakers.of("b").state(0.0) is State.OPEN
    assert breakers.of("a", TERMS) is breakers.of("a", BreakerTerms())
    assert list(breakers.states(0.0).items()) == [("a", State.CLOSED), ("b", State.OPEN)]
    assert breakers.of("b", TERMS).state(0.0) is State.CLOSED


@pytest.mark.parametrize("terms", [{"window_s": 0}, {"failure_ratio": 1.1}, {"probes": 0}, {"x": 1}])
def test_terms_that_mean_nothing_are_refused(terms: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        BreakerTerms.model_validate(terms)


class AnyTraffic(RuleBasedStateMachine):
    """Calls begin, end in any order and way, and time passes; the invariants hold at every moment."""

    @initialize(probes=st.integers(1, 3), floor=st.integers(1, 4), ratio=st.sampled_from([0.1, 0.5, 1.0]))
    def begin(self, probes: int, floor: int, ratio: float) -> None:
        self.terms = BreakerTerms(
            window_s=20, min_failures=floor, failure_ratio=ratio, open_s=10, probes=probes
        )
        self.moves: list[State] = [State.CLOSED]
        self.breaker = Breaker("it", self.terms, lambda _, state: self.moves.append(state))
        self.now_s = 0.0
        self.promised_s = -math.inf
        self.under_way: list[tuple[Permit, int]] = []

    @rule(by_s=st.floats(0, 15))
    def time_passes(self, by_s: float) -> None:
        self.now_s += by_s

    @rule()
    def a_call_begins(self) -> None:
        wait_s = self.breaker.wait_s(self.now_s)
        if wait_s > 0:
            with pytest.raises(CircuitOpen) as caught:
                self.breaker.admit(self.now_s)
            assert caught.value.retry_after_s == wait_s
            return
        permit = self.breaker.admit(self.now_s)
        assert self.now_s >= self.promised_s or self.moves[-1] is State.CLOSED
        self.under_way.append((permit, len(self.moves)))

    @precondition(lambda self: self.under_way)
    @rule(at=st.integers(0, 1_000), how=st.sampled_from(["ok", "fail", "neutral"]), after_s=st.floats(0, 60))
    def a_call_ends(self, at: int, how: str, after_s: float) -> None:
        permit, of = self.under_way.pop(at % len(self.under_way))
        before = len(self.moves)
        match how:
            case "ok":
                permit.ok(self.now_s)
            case "neutral":
                permit.neutral(self.now_s)
            case _:
                permit.fail(self.now_s, after_s)
        if how == "neutral" or of != before:
            assert len(self.moves) == before, "neither a straggler nor a neutral end moves it"
        elif how == "fail":
            self.promised_s = max(self.promised_s, self.now_s + after_s)
            assert self.moves[-1] is not State.HALF_OPEN, "a failed probe opens"
        if len(self.moves) > before and self.moves[-1] is State.OPEN:
            self.promised_s = max(self.promised_s, self.now_s + self.terms.open_s)

    @invariant()
    def only_legal_moves(self) -> None:
        for was, now in zip(self.moves, self.moves[1:], strict=False):
            assert (was, now) in {
                (State.CLOSED, State.OPEN),
                (State.OPEN, State.HALF_OPEN),
                (State.HALF_OPEN, State.OPEN),
                (State.HALF_OPEN, State.CLOSED),
            }

    @invariant()
    def what_was_promised_is_kept(self) -> None:
        if self.moves[-1] is State.OPEN:
            is_over = self.now_s >= self.promised_s
            assert self.breaker.state(self.now_s) is (State.HALF_OPEN if is_over else State.OPEN)

    @invariant()
    def probes_are_capped(self) -> None:
        if self.moves[-1] is State.HALF_OPEN:
            assert sum(of == len(self.moves) for _, of in self.under_way) <= self.terms.probes


AnyTraffic.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestAnyTraffic = AnyTraffic.TestCase
