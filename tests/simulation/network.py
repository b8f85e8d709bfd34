"""The wires between regions: seeded delay, loss, cuts, and calls that arrive when nobody waits any more."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

RTT_S = {frozenset(("us", "eu")): 0.08, frozenset(("us", "ap")): 0.22, frozenset(("eu", "ap")): 0.16}


class Lost(Exception):
    """No answer: `may_land` says whether the call can still take effect."""

    def __init__(self, *, may_land: bool) -> None:
        super().__init__("no answer")
        self.may_land = may_land


@dataclass
class Weather:
    """How bad it is: chances of each call."""

    lost_request: float = 0.0
    lost_answer: float = 0.0
    late: float = 0.0
    """The call takes effect after its caller has given up, up to `settle_s` later."""
    settle_s: float = 1.0


class Process:
    """What can be killed: its calls are counted, and one of them can be its last."""

    def __init__(self, name: str, region: str) -> None:
        self.name, self.region = name, region
        self.calls = 0
        self.last_call: int | None = None
        self.lands = True
        """Whether its last call still takes effect."""
        self.died = asyncio.Event()

    def counts(self) -> bool:
        """Count a call; True when the process dies in it."""
        self.calls += 1
        return self.calls == self.last_call


class Network:
    """Calls between regions. Everything random comes from one seed, in the order of calls."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.weather = Weather()
        self.cut: set[frozenset[str]] = set()
        self.mute: set[str] = set()
        """Regions whose registers cannot be reached."""
        self.told: dict[tuple[str, int], int] = {}
        """The last sequence of each shard that somebody read, or was told is stored: it is never lost."""
        self.trace: list[str] = []

    def delay_s(self, a: str, b: str) -> float:
        """One way."""
        if a == b:
            return 0.0005 + self._rng.random() * 0.001
        return RTT_S[frozenset((a, b))] / 2 * (1 + self._rng.random() * 0.3)

    def is_cut(self, a: str, b: str) -> bool:
        return frozenset((a, b)) in self.cut

    def tell(self, region: str, shard: int, sequence: int) -> None:
        """Somebody knows of the entry."""
        self.told[region, shard] = max(sequence, self.told.get((region, shard), 0))

    def note(self, what: str) -> None:
        """Write it into the run's trace."""
        self.trace.append(f"{asyncio.get_running_loop().time():.4f} {what}")

    async def call(
        self,
        caller: Process,
        to: str,
        what: str,
        act: Callable[[], Coroutine[Any, Any, T]],
        *,
        timeout_s: float,
        is_late_possible: bool = False,
    ) -> T:
        """Perform `act` over there. Raises: Lost; whatever `act` raises."""
        loop = asyncio.get_running_loop()
        rng, weather, a = self._rng, self.weather, caller.region
        answer: asyncio.Future[T] = loop.create_future()
        dies = caller.counts()
        there_s, back_s, luck = self.delay_s(a, to), self.delay_s(to, a), rng.random()
        is_sent = not self.is_cut(a, to) and not (a != to and luck < weather.lost_request)
        is_late = is_late_possible and luck > 1 - weather.late
        if is_late:
            there_s = timeout_s + rng.random() * weather.settle_s * 0.98
        if dies:
            self.note(f"{caller.name} dies in {what}")
            caller.died.set()
            is_sent = is_sent and caller.lands
        is_answered = rng.random() >= weather.lost_answer

        def reply(result: T | None, error: BaseException | None) -> None:
            if answer.done() or self.is_cut(a, to):
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]  # it is the result

        def arrive() -> None:
            result, error = _at_once(act())
            self.note(f"{caller.name} {what}: {type(error).__name__ if error else 'done'}")
            if is_answered:
                loop.call_later(back_s, reply, result, error)

        if is_sent:
            loop.call_later(there_s, arrive)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise Lost(may_land=is_sent) from None


def _at_once(act: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """What the memory servers do needs no waiting: run it in one go."""
    try:
        act.send(None)
    except StopIteration as done:
        return done.value, None
    except Exception as error:  # noqa: BLE001 - it is raised again in the caller
        return None, error
    act.close()
    raise AssertionError("a server in memory waited")
