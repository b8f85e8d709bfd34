"""Scouts: when a crowd falls back to an upstream that nobody knows, a few go ahead, the others wait for news.

Without them, 50 callers of a dead model with a dead fallback make 100 calls, because the second one's breaker
cannot open before the first of its failures has come. An upstream that answered of late needs no scouts.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

AT_A_TIME: Final = 3
NEWS_S: Final = 0.5
"""How long anybody waits: an upstream that says nothing for so long is asked by all."""


class Scouts:
    """Who is out at which upstream, by its name. `clock` is the loop's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._out: Counter[str] = Counter()
        self._news: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def turn(self, name: str, is_known: Callable[[], bool], until_s: float) -> AsyncIterator[None]:
        """The block may ask the upstream `name`: it is known by now, or too few are finding out.

        `until_s`: no longer is waited, nor longer than `NEWS_S`.
        """
        until_s = min(until_s, self._clock() + NEWS_S)
        while not is_known() and self._out[name] >= AT_A_TIME and self._clock() < until_s:
            try:
                async with asyncio.timeout_at(until_s):
                    await self._news.setdefault(name, asyncio.Event()).wait()
            except TimeoutError:
                break
        self._out[name] += 1
        try:
            yield
        finally:
            self._out[name] -= 1
            if (news := self._news.pop(name, None)) is not None:
                news.set()
