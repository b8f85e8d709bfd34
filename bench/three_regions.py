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

from gateway.up import indexes, plan, region
from gateway.up.llm import LlmWish, choose
from gateway.up.plan import INDEX, Place, Plan
from gateway.up.processes import Processes, accepts
from regions.runtime import relay
from regions.runtime.children import ChildEvent, ChildState
from regions.runtime.nats_session import Connector, Session

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

    async def hold(self, *names: str) -> None:
        """kill -9 of processes, which then stay down."""
        for name in names:
            self.kill(name)
        for name in names:
            await self.processes.hold(name)

    async def let_go(self, *names: str) -> None:
        """Start processes that were held."""
        for name in names:
            await self.processes.let_go(name)

    async def make_indexes(self, place: Place) -> None:
        """Give a region's node every index that it lacks, empty, as its operator would."""
        while not await accepts(plan.HOST, place.node_port):  # noqa: ASYNC110 - nobody sets an event for us
            await asyncio.sleep(POLL_S)
        for name in self.plan.indexes:
            nowhere = indexes.Deployment("aws", "us-east-1")
            await asyncio.to_thread(indexes.create, place.node_url, "node", name, plan.SHAPE, nowhere)

    async def drop_index(self, place: Place, name: str = INDEX) -> None:
        """Delete an index at a region's node. Raises: aiohttp.ClientError."""
        url = f"{place.node_url}/indexes/{name}"
        async with self.http.delete(url, headers={"Api-Key": "node"}) as answer:
            answer.raise_for_status()

    @asynccontextmanager
    async def log_server(self, place: Place) -> AsyncIterator[Session]:
        """A connection to a region's log server itself, past every process of ours."""
        url = f"nats://{plan.HOST}:{place.log_port}"
        session = await Connector([url], name="chaos", domain=place.region).open()
        try:
            yield session
        finally:
            await session.close()

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
            if (
                event.code is not None and event.code > 0
            ):  # by itself: nobody here kills with less than a signal
                say("\n".join(f"    {line}" for line in event.last_lines))

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
