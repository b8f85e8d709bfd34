"""Breakers: a dependency that fails too often is left alone for a while, then tried by a few probes.

  closed     every call is let through; enough failures, by number and by share of a window -> open
  open       none is let through; when its time is over -> half_open
  half_open  at most `probes` at a time; `probes` successes -> closed, one failure -> open

pybreaker is the state machine. It counts consecutive failures, reads the clock by itself and knows calls that
return or raise; so it stands behind an adapter here. It asks its storage whether enough has failed (`counter`
against `fail_max=1`), and the storage answers from a window; its own clock is never consulted, because
`opened_at` is always None; and a call is two acts: `admit`, and a word of what became of it. Pure: time is
handed in.

Invariants: a permit counts once; a permit from before the last move of the state changes nothing; what is
neutral (a caller that left, a request that was wrong) neither opens nor closes; a time that was promised to
stay open is never shortened.

Source: Nygard, Release It!, 2nd ed., "Circuit Breaker"; pybreaker 1.4.1.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NoReturn

import pybreaker
from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import CircuitOpen

SLOTS: Final = 10
"""The window forgets in tenths: counting is cheap, and it covers between 0.9 and 1.0 of `window_s`."""

PROBE_AGAIN_S: Final = 1.0
"""What a caller is told while all probes are out: how long they take is not known."""


class BreakerTerms(BaseModel):
    """When a breaker opens, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_s: float = Field(30, gt=0, description="Only what failed within this time counts.")
    min_failures: int = Field(5, ge=1, description="Fewer failures than this in the window never open.")
    failure_ratio: float = Field(
        0.5, gt=0, le=1, description="The share of the window's calls that must have failed."
    )
    open_s: float = Field(
        30, gt=0, description="How long nothing is sent; a longer Retry-After of the dependency lengthens it."
    )
    probes: int = Field(
        1, ge=1, description="Calls at a time that try it out after that; as many successes close it."
    )


class State(StrEnum):
    """What a breaker does with calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


OnChange = Callable[[str, State], None]
"""Told a breaker's name and its new state, whenever it moves."""


class Breaker:
    """One dependency's breaker. `name` is for operators; times are seconds of one clock."""

    def __init__(self, name: str, terms: BreakerTerms, on_change: OnChange | None = None) -> None:
        self.name, self.terms = name, terms
        self._on_change = on_change
        self._storage = _Storage(terms)
        self._machine = pybreaker.CircuitBreaker(
            fail_max=1,
            success_threshold=terms.probes,
            state_storage=self._storage,
            throw_new_error_on_trip=False,
            listeners=[_Listener(self._moved)],
        )
        self._generation = 0
        self._probes_out = 0

    def admit(self, now_s: float) -> "Permit":
        """Leave to make one call; its holder must tell what became of it.

        Raises: CircuitOpen: not now; `retry_after_s` says when.
        """
        wait_s = self.wait_s(now_s)
        if wait_s > 0:
            raise CircuitOpen(f"{self.name} failed too often and is left alone", retry_after_s=wait_s)
        self._storage.now_s = now_s
        if self._storage.state == pybreaker.STATE_OPEN:
            self._machine.half_open()
        if self._storage.state == pybreaker.STATE_HALF_OPEN:
            self._probes_out += 1
        return Permit(self, self._generation)

    def wait_s(self, now_s: float) -> float:
        """How long until `admit` may be asked again, in seconds; 0: it would let a call through now."""
        match self.state(now_s):
            case State.OPEN:
                return self._storage.open_until_s - now_s
            case State.HALF_OPEN if self._probes_out >= self.terms.probes:
                return PROBE_AGAIN_S
            case _:
                return 0.0

    def state(self, now_s: float) -> State:
        """What it is at `now_s`: an open one whose time is over counts as half open already."""
        if self._storage.state == pybreaker.STATE_OPEN:
            return State.OPEN if now_s < self._storage.open_until_s else State.HALF_OPEN
        return _STATES[self._storage.state]

    def settle(self, generation: int, now_s: float, is_ok: bool | None, retry_after_s: float | None) -> None:
        """What became of a call; for `Permit`. `is_ok` None: neutral."""
        if generation != self._generation:
            return
        if self._storage.state == pybreaker.STATE_HALF_OPEN:
            self._probes_out -= 1
        if is_ok is None:
            return
        self._storage.now_s = now_s
        if is_ok:
            self._storage.saw(is_ok=True)
            if self._storage.state == pybreaker.STATE_HALF_OPEN:  # closed, a success moves nothing
                self._machine.call(_succeed)
            return
        if retry_after_s is not None:
            self._storage.promise(now_s + retry_after_s)
        with suppress(_CallFailed):
            self._machine.call(_fail)

    def _moved(self, state: State) -> None:
        self._generation += 1
        self._probes_out = 0
        if self._on_change is not None:
            self._on_change(self.name, state)


class Permit:
    """Leave to make one call. The first word about it counts, later ones are ignored."""

    __slots__ = ("_breaker", "_generation", "_is_settled")

    def __init__(self, breaker: Breaker, generation: int) -> None:
        self._breaker, self._generation, self._is_settled = breaker, generation, False

    def ok(self, now_s: float) -> None:
        """The dependency did its part."""
        self._settle(now_s, True)

    def fail(self, now_s: float, retry_after_s: float | None = None) -> None:
        """The dependency is to blame; `retry_after_s` is how long it asked to be left alone."""
        self._settle(now_s, False, retry_after_s)

    def neutral(self, now_s: float) -> None:
        """Nothing was learnt of the dependency: the caller left, or its request was at fault."""
        self._settle(now_s, None)

    def _settle(self, now_s: float, is_ok: bool | None, retry_after_s: float | None = None) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._breaker.settle(self._generation, now_s, is_ok, retry_after_s)


class Breakers:
    """Every breaker of a process, by name: what operators see, and how one name has one breaker."""

    def __init__(self, terms: BreakerTerms | None = None, on_change: OnChange | None = None) -> None:
        self._terms, self._on_change = terms or BreakerTerms(), on_change
        self._breakers: dict[str, Breaker] = {}

    def of(self, name: str, terms: BreakerTerms | None = None) -> Breaker:
        """The breaker of that name, with its history; a new one when there is none under these terms.

        `name` comes from the configuration, never from a request. Without `terms`: the common ones.
        """
        wanted = terms or self._terms
        known = self._breakers.get(name)
        if known is None or known.terms != wanted:
            known = self._breakers[name] = Breaker(name, wanted, self._on_change)
        return known

    def states(self, now_s: float) -> Mapping[str, State]:
        """Every breaker's state, by name."""
        return {name: breaker.state(now_s) for name, breaker in sorted(self._breakers.items())}


_STATES: Final = {
    pybreaker.STATE_CLOSED: State.CLOSED,
    pybreaker.STATE_OPEN: State.OPEN,
    pybreaker.STATE_HALF_OPEN: State.HALF_OPEN,
}


@dataclass(slots=True)
class _Slot:
    """Calls that ended in one tenth of the window."""

    number: int
    ok: int = 0
    failed: int = 0


class _Storage(pybreaker.CircuitBreakerStorage):
    """pybreaker's memory: its state, a window of outcomes, and until when it stays open.

    `now_s` is set before the machine is asked anything.
    """

    def __init__(self, terms: BreakerTerms) -> None:
        super().__init__("window")
        self.now_s = 0.0
        self.open_until_s = -math.inf
        self._terms = terms
        self._state = pybreaker.STATE_CLOSED
        self._successes = 0
        self._slots: deque[_Slot] = deque(maxlen=SLOTS)

    def saw(self, *, is_ok: bool) -> None:
        """Count a call into the window."""
        number = math.floor(self.now_s * SLOTS / self._terms.window_s)
        if not self._slots or self._slots[-1].number < number:
            self._slots.append(_Slot(number))
        self._slots[-1].ok += is_ok
        self._slots[-1].failed += not is_ok

    def promise(self, until_s: float) -> None:
        """Once open, stay so until then at least."""
        self.open_until_s = max(self.open_until_s, until_s)

    @property
    def state(self) -> str:
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state

    @property
    def counter(self) -> int:
        """1 when enough failed to open; the machine opens at `fail_max`, which is 1."""
        oldest = math.floor(self.now_s * SLOTS / self._terms.window_s) - SLOTS
        ok = sum(slot.ok for slot in self._slots if slot.number > oldest)
        failed = sum(slot.failed for slot in self._slots if slot.number > oldest)
        is_enough = failed >= self._terms.min_failures
        return int(is_enough and failed >= self._terms.failure_ratio * (ok + failed))

    def increment_counter(self) -> None:
        """A call failed."""
        self.saw(is_ok=False)

    def reset_counter(self) -> None:
        """A call succeeded, or the machine closed: a window forgets by time, not at the first success."""

    @property
    def success_counter(self) -> int:
        return self._successes

    def increment_success_counter(self) -> None:
        self._successes += 1

    def reset_success_counter(self) -> None:
        self._successes = 0

    @property
    def opened_at(self) -> datetime | None:
        """None: the machine takes this for "long ago", and the time is kept by `Breaker.admit`."""
        return None

    @opened_at.setter
    def opened_at(self, _opened_at: datetime) -> None:
        """The machine opens now: forget what led to it, and stay open for the usual time at least."""
        self._slots.clear()
        self.promise(self.now_s + self._terms.open_s)


class _Listener(pybreaker.CircuitBreakerListener):
    """Tells of the machine's moves."""

    def __init__(self, moved: Callable[[State], None]) -> None:
        self._moved = moved

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self._moved(_STATES[new_state.name])


class _CallFailed(Exception):
    """How the machine is told of a failure."""


def _succeed() -> None:
    """A call that succeeded, as the machine wants to see one."""


def _fail() -> NoReturn:
    raise _CallFailed
