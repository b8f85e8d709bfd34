"""Guard: ask a dependency under its breaker, and tell the breaker whose fault the outcome was.

What an error means is known by who asks, so they hand in `blame`. What all dependencies share is here: an
answer is a success, a caller that leaves teaches nothing, and nobody is slow because a caller was in haste.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final

from gateway.policies.breaker import Breaker

NEARLY: Final = 0.99
"""Timers may go off a little early."""


class Blame(Enum):
    """What an error says of the dependency that was asked."""

    DEPENDENCY = auto()  # it failed
    NOBODY = auto()  # it answered, and did its part by refusing
    CALLER = auto()  # nothing: the caller's request, or our own queue, was the reason


@contextmanager
def guarded(
    breaker: Breaker,
    clock: Callable[[], float],
    blame: Callable[[Exception], Blame],
    *,
    patience_s: float,
    fair_s: float,
) -> Iterator[None]:
    """The block asks the dependency, and waits for `patience_s` at most.

    With less patience than `fair_s`, an error after all of it is the caller's haste and counts for nothing.
    An error's `retry_after_s`, where it has one, lengthens the time that the breaker stays open.
    Raises: CircuitOpen: the block was not run; and whatever the block raises.
    """
    permit, began_s = breaker.admit(clock()), clock()
    try:
        yield
    except Exception as error:
        now_s = clock()
        was_hasty = patience_s < fair_s and now_s - began_s >= patience_s * NEARLY
        found = blame(error)
        if found is Blame.NOBODY:
            permit.ok(now_s)
        elif found is Blame.DEPENDENCY and not was_hasty:
            permit.fail(now_s, getattr(error, "retry_after_s", None))
        else:
            permit.neutral(now_s)
        raise
    except BaseException:
        permit.neutral(clock())
        raise
    else:
        permit.ok(clock())
