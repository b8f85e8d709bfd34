"""How long the event loop was held up: a clock that ticks on the loop and notices when it ticks late."""

import asyncio
from typing import Final

TICK_S: Final = 0.01


class Stalls:
    """The longest stall since somebody last asked; a stall is what a tick came late by."""

    def __init__(self) -> None:
        self._longest_s = 0.0

    def take_longest_ms(self) -> float:
        """The longest stall (ms), and forget it."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return round(longest_s * 1000, 1)

    async def watch(self) -> None:
        """Tick until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self._longest_s = max(self._longest_s, loop.time() - due_s)
