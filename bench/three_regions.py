"""Three regions on this machine, as `meridian up` starts them, for campaigns that break or load them."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from gateway.up import plan, region
from gateway.up.llm import LlmWish, choose
from gateway.up.plan import Place, Plan
from gateway.up.processes import Processes
from regions.runtime import relay
from regions.runtime.children import ChildEvent, ChildState

FIRST_PORT: Final = 21_401
START_S: Final = 120.0
POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Rig:
    """Running regions: how to reach them, and how to hurt them."""

    plan: Plan
    key: str
    processes: Processes
    http: aiohttp.ClientSession

    @property
    def places(self) -> list[Place]:
        return self.plan.places

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Api-Key": self.key}

    def kill(self, name: str) -> bool:
        """kill -9 of a process; False when it does not run just now."""
        pid = self.processes.pid(name)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return pid is not None

    async def cut(self, name: str) -> None:
        """Cut a region off from all others, silently."""
        await self._tell("cut", name)

    async def heal(self, name: str) -> None:
        await self._tell("heal", name)

    async def _tell(self, what: str, name: str) -> None:
        links = plan.links_of(name, self.plan.regions)
        await relay.control(self.plan.relay_port, [f"{what} {link}" for link in links])

    async def standings(self, place: Place) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """How far the replicas are, by index and region, as a region's gateway sees it; {} when silent."""
        timeout = aiohttp.ClientTimeout(total=2)
        try:
            async with self.http.get(f"{place.operators_url}/readyz", timeout=timeout) as answer:
                told: Mapping[str, Any] = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return {}
        found: Mapping[str, Mapping[str, Mapping[str, Any]]] = told.get("replicas", {})
        return found

    async def until_everywhere(self, place: Place, patience_s: float) -> float:
        """Seconds until every replica shows all that is written by now; `place`'s gateway watches.

        A replica whose lag is shorter than the time since now has everything from before now. Raises:
        TimeoutError.
        """
        begun = asyncio.get_running_loop().time()
        async with asyncio.timeout(patience_s):
            while True:
                standings = await self.standings(place)
                waited_s = asyncio.get_running_loop().time() - begun
                lags = [each["queryable_lag_s"] for by in standings.values() for each in by.values()]
                if lags and all(lag is not None and lag < waited_s for lag in lags):
                    return waited_s
                await asyncio.sleep(POLL_S)

    async def until_readable(self) -> None:
        """Until every gateway knows every home and may read every replica."""
        wanted = len(self.plan.regions) * len(self.plan.indexes)
        async with asyncio.timeout(START_S):
            for place in self.places:
                while await self._readable(place) < wanted:  # noqa: ASYNC110 - nobody sets an event for us
                    await asyncio.sleep(POLL_S)

    async def _readable(self, place: Place) -> int:
        standings = await self.standings(place)
        return sum(each["state"] == "readable" for by in standings.values() for each in by.values())


@asynccontextmanager
async def running(
    home: Path,
    *,
    rtt_ms: Mapping[frozenset[str], float] = plan.RTT_MS,
    homes: Mapping[str, str] | None = None,
    first_port: int = FIRST_PORT,
    say: Callable[[str], None] = print,
) -> AsyncIterator[Rig]:
    """Three regions, empty and ready; everything is gone when the block ends."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)  # noqa: ASYNC240 - before anything runs
    regions = Plan(home, plan.REGIONS, rtt_ms, first_port, homes or {})
    llm = choose(LlmWish.NONE, {}, regions.model_port)
    ending = asyncio.Event()

    def heard(event: ChildEvent) -> None:
        if event.state is ChildState.EXITED and not ending.is_set():
            say(f"  {event.name} ended with code {event.code}; again in {event.restart_in_s:g} s")

    env = {name: value for name, value in os.environ.items() if not name.startswith("MERIDIAN_")}
    async with asyncio.TaskGroup() as tasks, aiohttp.ClientSession() as http:
        processes = Processes(tasks, ending, heard)
        try:
            key = await region.start(regions, llm, env, processes)
            rig = Rig(regions, key, processes, http)
            await region.indexes_ready(regions, processes)
            await region.gateways_ready(regions, processes)
            await rig.until_readable()
            yield rig
        finally:
            ending.set()
