"""Reload: the configuration's file changes, and the models follow while answers go on.

The whole file is validated before anything changes; a wrong one is refused, with every problem, and what runs
goes on. Only `RELOADED` sections are taken over; a change to any other is told to need a restart. It is the
directory that is watched, not the file, because that is what changes under a mounted ConfigMap.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
from watchfiles import awatch

from gateway.config import GatewayConfig
from regions.errors import ConfigError

RELOADED: Final = ("models", "catalogue")
DEBOUNCE_MS: Final = 100

Load = Callable[[], GatewayConfig]
Apply = Callable[[GatewayConfig], Awaitable[None]]


class Reloader:
    """Keeps what runs equal to the file; `current` is what runs."""

    def __init__(
        self, current: GatewayConfig, load: Load, apply: Apply, log: structlog.stdlib.BoundLogger
    ) -> None:
        self.current = current
        self._load, self._apply, self._log = load, apply, log
        self._waiting: tuple[str, ...] = ()

    async def watch(self, directory: Path) -> None:
        """Look whenever something in the directory changes or a SIGHUP comes, until cancelled."""
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, asked.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._notice(directory, asked))
                while True:
                    await asked.wait()
                    asked.clear()
                    await self.look()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def _notice(self, directory: Path, asked: asyncio.Event) -> None:
        async for _ in awatch(directory, recursive=False, debounce=DEBOUNCE_MS):
            asked.set()

    async def look(self) -> bool:
        """Take over what changed in the file; whether anything was."""
        try:
            found = await asyncio.to_thread(self._load)
        except ConfigError as error:
            self._log.error("config_refused", problems=[str(problem) for problem in error.problems])
            return False
        self._tell_waiting(found)
        changed = [name for name in RELOADED if getattr(found, name) != getattr(self.current, name)]
        if not changed:
            return False
        wanted = self.current.model_copy(update={name: getattr(found, name) for name in RELOADED})
        try:
            await self._apply(wanted)
        except ConfigError as error:
            self._log.error("config_refused", problems=[str(problem) for problem in error.problems])
            return False
        self.current = wanted
        self._log.info("config_reloaded", sections=changed)
        return True

    def _tell_waiting(self, found: GatewayConfig) -> None:
        """Say once which changed sections a restart would take over."""
        names = tuple(
            name
            for name in GatewayConfig.model_fields
            if name not in RELOADED and getattr(found, name) != getattr(self.current, name)
        )
        if names and names != self._waiting:
            self._log.warning("config_needs_restart", sections=list(names))
        self._waiting = names
