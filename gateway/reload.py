"""Reload: the configuration's file and the tenants' change, and models and tenants follow as answers go on.

A whole file is validated before anything changes; a wrong one is refused, with every problem, and what runs
goes on. Of the configuration only `RELOADED` sections are taken over; a change to any other is told to need a
restart. Directories are watched, not files, because those are what changes under a mounted ConfigMap.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
from watchfiles import awatch

from gateway.config import GatewayConfig
from gateway.tenants_file import Tenants, TenantsFile
from regions.errors import ConfigError

RELOADED: Final = ("models", "catalogue")
DEBOUNCE_MS: Final = 100

Load = Callable[[], GatewayConfig]
Apply = Callable[[GatewayConfig], Awaitable[None]]
Look = Callable[[], Awaitable[bool]]
"""Take over what changed; whether anything was."""
Tell = Callable[[str, bool], None]
"""Told which file was taken over (True) or refused (False)."""
CONFIG: Final = "config"
TENANTS: Final = "tenants"


async def watch(directories: Sequence[Path], looks: Sequence[Look]) -> None:
    """Take every look whenever something in the directories changes or a SIGHUP comes, until cancelled."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_notice(directories, asked))
            while True:
                await asked.wait()
                asked.clear()
                for look in looks:
                    await look()
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


async def _notice(directories: Sequence[Path], asked: asyncio.Event) -> None:
    async for _ in awatch(*directories, recursive=False, debounce=DEBOUNCE_MS):
        asked.set()


class Reloader:
    """Keeps what runs equal to the file; `current` is what runs."""

    def __init__(
        self,
        current: GatewayConfig,
        load: Load,
        apply: Apply,
        log: structlog.stdlib.BoundLogger,
        tell: Tell = lambda _file, _is_taken: None,
    ) -> None:
        self.current, self._tell = current, tell
        self._load, self._apply, self._log = load, apply, log
        self._waiting: tuple[str, ...] = ()

    async def look(self) -> bool:
        """Take over what changed in the file; whether anything was."""
        try:
            found = await asyncio.to_thread(self._load)
        except ConfigError as error:
            return self._refuse(error)
        self._tell_waiting(found)
        changed = [name for name in RELOADED if getattr(found, name) != getattr(self.current, name)]
        if not changed:
            return False
        wanted = self.current.model_copy(update={name: getattr(found, name) for name in RELOADED})
        try:
            await self._apply(wanted)
        except ConfigError as error:
            return self._refuse(error)
        self.current = wanted
        self._log.info("config_reloaded", sections=changed)
        self._tell(CONFIG, True)
        return True

    def _refuse(self, error: ConfigError) -> bool:
        self._log.error("config_refused", problems=[str(problem) for problem in error.problems])
        self._tell(CONFIG, False)
        return False

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


class TenantsReloader:
    """Keeps the tenants that keys are looked up among equal to their file."""

    def __init__(
        self,
        tenants: Tenants,
        load: Callable[[], TenantsFile],
        log: structlog.stdlib.BoundLogger,
        tell: Tell = lambda _file, _is_taken: None,
    ) -> None:
        self._tenants, self._load, self._log, self._tell = tenants, load, log, tell

    async def look(self) -> bool:
        """Take over what changed in the file; whether anything was."""
        try:
            found = await asyncio.to_thread(self._load)
        except ConfigError as error:
            self._log.error("tenants_refused", problems=[str(problem) for problem in error.problems])
            self._tell(TENANTS, False)
            return False
        if found == self._tenants.file:
            return False
        self._tenants.replace(found)
        keys = sum(len(tenant.keys) for tenant in found.tenants)
        self._log.info("tenants_reloaded", tenants=len(found.tenants), keys=keys)
        self._tell(TENANTS, True)
        return True
