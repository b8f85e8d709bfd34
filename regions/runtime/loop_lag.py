"""How late the event loop is: a timer that notices when it goes off late."""

import asyncio
from collections.abc import Callable
from typing import Final, NoReturn

TICK_S: Final = 0.05


async def watch_lag(tell: Callable[[float], None]) -> NoReturn:
    """Tell what each tick came late by (s), until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        tell(max(0.0, loop.time() - due_s))
