"""The processes of a region: started together, waited for, reported on, weighed."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import psutil

from gateway.up.problems import CommandFailed
from regions.runtime.children import ChildEvent, ChildSpec, ChildState, keep_running

POLL_S: Final = 0.02
"""Between two looks at whether a process is ready: short beside a start, long beside a look."""


class Processes:
    """Children of one TaskGroup, until `stop` is set. `on_event` hears of starts and ends."""

    def __init__(
        self, tasks: asyncio.TaskGroup, stop: asyncio.Event, on_event: Callable[[ChildEvent], None]
    ) -> None:
        self._tasks, self._stop, self._on_event = tasks, stop, on_event
        self._pids: dict[str, int] = {}
        self._started: dict[str, asyncio.Event] = {}
        self._kept: dict[str, tuple[ChildSpec, asyncio.Task[None]]] = {}
        self._ended: dict[str, ChildEvent] = {}

    async def start(self, spec: ChildSpec) -> None:
        """Start a process and keep it running; what it says begins anew. Returns once there is a process."""
        if spec.log:
            spec.log.unlink(missing_ok=True)
        await self._keep(spec)

    async def _keep(self, spec: ChildSpec) -> None:
        self._started[spec.name] = asyncio.Event()
        task = self._tasks.create_task(keep_running(spec, self._stop, self._hear))
        self._kept[spec.name] = spec, task
        await self._started[spec.name].wait()

    async def hold(self, name: str) -> None:
        """End a process, and let it stay down until it is let go; it is gone on return."""
        _, task = self._kept[name]
        task.cancel()
        await asyncio.wait([task])
        self._pids.pop(name, None)

    async def let_go(self, name: str) -> None:
        """Start a process that was held; what it said before is kept."""
        spec, _ = self._kept[name]
        self._ended.pop(name, None)
        await self._keep(spec)

    def _hear(self, event: ChildEvent) -> None:
        if event.state is ChildState.STARTED:
            self._pids[event.name] = event.pid
            self._started[event.name].set()
        else:
            self._pids.pop(event.name, None)
            self._ended[event.name] = event
        self._on_event(event)

    async def ready(self, name: str, is_ready: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
        """Wait until a process is ready for work.

        Raises: CommandFailed: it ended before, or was not ready in time; with its last lines.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not await is_ready():
            ended = self._ended.get(name)
            if ended is not None:
                lines = "\n  ".join(ended.last_lines)
                raise CommandFailed(f"the {name} ended with code {ended.code} before it was ready", lines)
            if loop.time() > deadline:
                raise CommandFailed(f"the {name} was not ready within {timeout_s:g} s", "its log may say why")
            await asyncio.sleep(POLL_S)

    def pid(self, name: str) -> int | None:
        """The process as it runs now; None while it does not."""
        return self._pids.get(name)

    def resident_bytes(self) -> dict[str, int]:
        """Resident memory of each process with its descendants."""
        return {name: _resident_bytes(pid) for name, pid in self._pids.items()}


def _resident_bytes(pid: int) -> int:
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


async def accepts(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def answers_200(url: str) -> bool:
    """Whether a GET is answered with 200."""
    import aiohttp

    try:
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
