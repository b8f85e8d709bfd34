"""What makes a scenario pass, partial, safe or fail. Pure.

pass      the caller got what was ideal (the whole answer; of a content filter, the provider's clean error)
          and every check on conduct holds
partial   it did, but an advisory check failed
safe      it did not, but every call ended in time with a clean error, and every required check holds
fail      a hang, a broken connection, a truncated or altered answer shown as success, or a required check
          that failed

Source: failoverbench's methodology 0.1, whose checks on conduct are those of `published`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from tests.faults.llm.acts import ANSWER
from tests.faults.llm.caller import Ending, Outcome
from tests.faults.llm.wall import Attempt


class Verdict(StrEnum):
    PASS = "pass"
    PARTIAL = "partial"
    SAFE = "safe"
    FAIL = "fail"


class Mode(StrEnum):
    """How the caller asked."""

    LIVE = "live"
    WHOLE = "whole"
    JSON = "json"  # not streamed


@dataclass(slots=True)
class Run:
    """A scenario that was played: both views of it, the caller's and the provider's."""

    mode: Mode
    outcomes: Sequence[Outcome]
    primary: Sequence[Attempt]
    fallback: Sequence[Attempt]
    is_alive: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> Outcome:
        return self.outcomes[-1]


@dataclass(frozen=True, slots=True)
class Check:
    """One demand on conduct. An advisory one that fails makes `partial` of a `pass`."""

    name: str
    holds: Callable[[Run], bool]
    is_advisory: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    verdict: Verdict
    why: tuple[str, ...] = ()


Ideal = Callable[[Outcome], bool]

MIN_GAP_RATIO: Final = 0.9


def judge(run: Run, ideal: Ideal, checks: Sequence[Check]) -> Judged:
    """The verdict, and everything that spoke against a better one."""
    bad = [fault for outcome in run.outcomes if (fault := _intolerable(outcome, ideal))]
    bad += [check.name for check in checks if not check.is_advisory and not check.holds(run)]
    if not run.is_alive:
        bad.append("not alive afterwards")
    if bad:
        return Judged(Verdict.FAIL, tuple(bad))
    missed = [f"{o.ending}: {o.status} {o.code}" for o in run.outcomes if not ideal(o)]
    advice = tuple(check.name for check in checks if check.is_advisory and not check.holds(run))
    if missed:
        return Judged(Verdict.SAFE, (missed[0], *advice))
    return Judged(Verdict.PARTIAL if advice else Verdict.PASS, advice)


def _intolerable(outcome: Outcome, ideal: Ideal) -> str | None:
    match outcome.ending:
        case Ending.HANG:
            return "hang"
        case Ending.BROKEN:
            return f"broken connection after {len(outcome.text)} characters"
        case Ending.ERROR if outcome.has_done:
            return "an error and [DONE]"
        case Ending.ERROR if not {"message", "type", "param", "code"} <= set(outcome.error):
            return "an error that is not in the dialect"
        case Ending.SUCCESS if not ideal(outcome):
            return f"{len(outcome.text)} of {len(ANSWER)} characters shown as success"
    return None


def whole(outcome: Outcome) -> bool:
    """The whole answer, unaltered, and said to be whole."""
    return outcome.ending is Ending.SUCCESS and _is_whole(outcome, ANSWER)


def _is_whole(outcome: Outcome, text: str) -> bool:
    return outcome.text == text and outcome.finish == "stop" and outcome.has_done


def error(status: int, code: str | None) -> Ideal:
    """A clean error: what the provider said of the caller's request."""
    return lambda o: o.ending is Ending.ERROR and (o.status, o.error.get("code")) == (status, code)


def degraded(reason: str) -> Ideal:
    """A cited excerpt that says what it is and why."""

    def is_excerpt(o: Outcome) -> bool:
        marked = o.headers.get("x-meridian-degraded") == f"snippets; reason={reason}"
        said = o.facts.get("degraded") == {"kind": "snippets", "reason": reason}
        complete = o.has_done and o.finish == "stop" and bool(o.text)
        return o.ending is Ending.SUCCESS and o.model == "snippets" and marked and said and complete

    return is_excerpt


# Checks by name, so that a scenario reads as a list of demands.


def advisory(check: Check) -> Check:
    return Check(check.name, check.holds, is_advisory=True)


def primary(at_least: int = 0, at_most: int = 1_000) -> Check:
    """How many attempts the primary saw."""
    return Check(f"primary {at_least}..{at_most} attempts", lambda r: at_least <= len(r.primary) <= at_most)


def fallback(at_least: int = 0, at_most: int = 1_000) -> Check:
    return Check(f"fallback {at_least}..{at_most} attempts", lambda r: at_least <= len(r.fallback) <= at_most)


def gap_after_first(asked_s: float) -> Check:
    """The second attempt on the primary kept at least 90% of the wait that was asked for."""

    def holds(run: Run) -> bool:
        if len(run.primary) < 2:
            return False
        return run.primary[1].at_ms - run.primary[0].at_ms >= asked_s * 1000 * MIN_GAP_RATIO

    return Check(f"retried after {asked_s:g} s or more", holds)


def at_most_within(count: int, window_s: float) -> Check:
    """No tight loop: attempts on the primary since the first, within a window."""

    def holds(run: Run) -> bool:
        begin_ms = run.primary[0].at_ms if run.primary else 0.0
        return sum(a.at_ms - begin_ms <= window_s * 1000 for a in run.primary) <= count

    return Check(f"at most {count} attempts within {window_s:g} s", holds)


def within(seconds: float) -> Check:
    """Every call ended by then."""
    return Check(f"ended within {seconds:g} s", lambda r: all(o.wall_s <= seconds for o in r.outcomes))


def has_usage() -> Check:
    return Check("usage reported", lambda r: bool(r.last.usage and r.last.usage["total_tokens"] > 0))


def reports(model: str) -> Check:
    """The answer bears the name of the model that gave it."""

    def holds(run: Run) -> bool:
        return run.last.model == model

    return Check(f"reported model is {model}", holds)


def resent_whole() -> Check:
    """The fallback got the caller's own conversation, and no half answer to go on with."""

    def holds(run: Run) -> bool:
        return all(attempt.body["messages"][-1]["role"] == "user" for attempt in run.fallback)

    return Check("conversation resent as it was", holds)


def released_within(seconds: float) -> Check:
    """Every attempt on the primary that was given up was let go of: nothing runs on behind us."""

    def holds(run: Run) -> bool:
        ended_ms = run.last.began_ms + run.last.wall_s * 1000
        return all(a.left_ms is not None and a.left_ms <= ended_ms + seconds * 1000 for a in run.primary)

    return Check(f"primary released within {seconds:g} s", holds)


def fact(name: str, holds: Callable[[Any], bool]) -> Check:
    """A demand on what the scenario itself found out."""
    return Check(name, lambda run: holds(run.facts.get(name)))
