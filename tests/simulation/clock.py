"""A loop whose clock jumps when all tasks sleep: an hour of faults takes milliseconds and never waits.

Our own thirty lines rather than looptime: nothing here has a socket, so the selector can be left out, and a
program in which nobody can ever wake up is an error at once instead of a hang.
"""

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

T = TypeVar("T")


_TURN_S: Final = 1e-6
"""What a turn of the loop takes: who computes a time by adding fractions gets past it, as in real time."""


class NothingLeft(RuntimeError):
    """All tasks wait for something that can never happen."""


class _Skipper(selectors.SelectSelector):
    """Instead of waiting for files, moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft
        self.now_s += max(timeout, 0.0) + _TURN_S
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return super().get_map()


class VirtualLoop(asyncio.SelectorEventLoop):
    """The standard loop on a clock that only moves when nothing else is to be done."""

    def __init__(self) -> None:
        self._skipper = _Skipper()
        super().__init__(self._skipper)

    def time(self) -> float:
        return self._skipper.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, in no time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
