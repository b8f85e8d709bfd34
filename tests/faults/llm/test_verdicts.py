"""What is called pass, partial, safe and fail."""

import dataclasses
from typing import Any

import pytest

from tests.faults.llm.acts import ANSWER
from tests.faults.llm.caller import Ending, Outcome
from tests.faults.llm.verdicts import (
    Check,
    Mode,
    Run,
    Verdict,
    advisory,
    at_most_within,
    gap_after_first,
    judge,
    primary,
    whole,
)
from tests.faults.llm.wall import Attempt

GOOD = Outcome(Ending.SUCCESS, 200, ANSWER, finish="stop", has_done=True)
CLEAN = Outcome(Ending.ERROR, 503, error={"message": "m", "type": "t", "param": None, "code": "c"})
FAILS, HOLDS = Check("fails", lambda _: False), Check("holds", lambda _: True)


def run(*outcomes: Outcome, at_ms: tuple[float, ...] = (), **more: Any) -> Run:
    return Run(Mode.LIVE, outcomes, [Attempt("p", n, ms, {}) for n, ms in enumerate(at_ms)], [], **more)


@pytest.mark.parametrize(
    ("outcome", "checks", "verdict"),
    [
        (GOOD, [HOLDS], Verdict.PASS),
        (GOOD, [HOLDS, advisory(FAILS)], Verdict.PARTIAL),
        (GOOD, [FAILS], Verdict.FAIL),
        (CLEAN, [HOLDS, advisory(FAILS)], Verdict.SAFE),
        (CLEAN, [FAILS], Verdict.FAIL),
        (dataclasses.replace(GOOD, text=ANSWER[:-1]), [], Verdict.FAIL),
        (dataclasses.replace(GOOD, text=ANSWER + "."), [], Verdict.FAIL),
        (dataclasses.replace(GOOD, finish=None), [], Verdict.FAIL),
        (dataclasses.replace(GOOD, has_done=False), [], Verdict.FAIL),
        (dataclasses.replace(CLEAN, has_done=True), [], Verdict.FAIL),
        (dataclasses.replace(CLEAN, error={"message": "m"}), [], Verdict.FAIL),
        (Outcome(Ending.HANG), [], Verdict.FAIL),
        (Outcome(Ending.BROKEN), [], Verdict.FAIL),
    ],
)
def test_the_verdict_follows_from_the_answer_and_the_checks(
    outcome: Outcome, checks: list[Check], verdict: Verdict
) -> None:
    assert judge(run(outcome), whole, checks).verdict is verdict


def test_the_worst_call_of_several_decides() -> None:
    assert judge(run(GOOD, CLEAN, GOOD), whole, []).verdict is Verdict.SAFE
    assert judge(run(GOOD, Outcome(Ending.HANG), CLEAN), whole, []).verdict is Verdict.FAIL


def test_a_gateway_that_died_of_it_fails() -> None:
    judged = judge(run(GOOD, is_alive=False), whole, [])
    assert (judged.verdict, judged.why) == (Verdict.FAIL, ("not alive afterwards",))


def test_a_wait_that_was_asked_for_may_be_cut_by_a_tenth_and_no_more() -> None:
    check = gap_after_first(2.0)
    assert check.holds(run(GOOD, at_ms=(100, 1_900)))
    assert not check.holds(run(GOOD, at_ms=(100, 1_890)))
    assert not check.holds(run(GOOD, at_ms=(100,)))


def test_attempts_are_counted_in_all_and_in_a_window() -> None:
    played = run(GOOD, at_ms=(0, 500, 900, 4_000))
    assert primary(4, 4).holds(played)
    assert not primary(at_most=3).holds(played)
    assert at_most_within(3, 1).holds(played)
    assert not at_most_within(2, 1).holds(played)
