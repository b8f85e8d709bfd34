"""Registers in memory, for one process: simulation and tests.

Not durable, and faithful otherwise. `go_down` and `come_up` are a server that cannot be reached.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable

from pydantic import BaseModel, ConfigDict

from regions.errors import Conflict, LogUnavailable
from regions.names import RegionId
from regions.registers.base import Register, check_key


class Config(BaseModel):
    """Nothing to say."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def build(config: Config, *, region: RegionId, resolve: Callable[..., str]) -> "MemoryRegisters":
    """Registers that are gone with the process."""
    del config, region, resolve
    return MemoryRegisters()


class MemoryRegisters:
    """`regions.registers.base.Registers` in a dict."""

    def __init__(self) -> None:
        self._values: dict[str, Register] = {}
        self._revision = 0
        self._is_up = True
        self._changed = asyncio.Event()

    async def start(self) -> None:
        self._check_up()

    async def get(self, key: str, *, timeout_s: float) -> Register | None:
        check_key(key)
        self._check_up()
        return self._values.get(key)

    async def scan(self, prefix: str, *, timeout_s: float) -> list[Register]:
        self._check_up()
        return [self._values[key] for key in sorted(self._values) if key.startswith(prefix)]

    async def put(self, key: str, value: bytes, *, timeout_s: float) -> int:
        check_key(key)
        self._check_up()
        self._revision += 1
        self._values[key] = Register(key, value, self._revision)
        self._tell()
        return self._revision

    async def swap(self, key: str, value: bytes, revision: int, *, timeout_s: float) -> int:
        check_key(key)
        self._check_up()
        stands = self._values[key].revision if key in self._values else 0
        if stands != revision:
            raise Conflict(f"register {key} is at revision {stands}, not at {revision}")
        return await self.put(key, value, timeout_s=timeout_s)

    async def watch(self, prefix: str) -> AsyncGenerator[Register, None]:
        seen = 0
        while True:
            self._check_up()
            changed = self._changed
            news = [r for r in self._values.values() if r.revision > seen and r.key.startswith(prefix)]
            for register in sorted(news, key=lambda r: r.revision):
                seen = register.revision
                yield register
            if not news:
                await changed.wait()

    async def close(self) -> None:
        """What was kept stays: the next `start` finds it."""

    def go_down(self) -> None:
        """From now on every call and every watch raises LogUnavailable."""
        self._is_up = False
        self._tell()

    def come_up(self) -> None:
        """Answer again, with everything that was kept."""
        self._is_up = True

    def _check_up(self) -> None:
        if not self._is_up:
            raise LogUnavailable("the registers cannot be reached")

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
