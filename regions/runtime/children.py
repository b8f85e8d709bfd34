"""Child processes: started, watched, restarted with backoff, and gone when their parent is.

    starting -> running -> (exited -> waiting -> starting)* -> stopping -> gone

Each child leads a session of its own, so that a Ctrl-C in the terminal reaches only the parent,
which then ends its children in its own order. See `parent` for the bond that holds when the
parent is killed.
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Final

from regions.runtime.parent import PARENT_VARIABLE

FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 30.0
STEADY_S: Final = 60.0
"""A child that ran this long has recovered: its next failure counts as its first."""
KILL_AFTER_S: Final = 1.0
"""How long a child that is told to hurry may take before SIGKILL."""
TAIL_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to start. Without a log path the child writes where the parent writes."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    log: Path | None = None
    grace_s: float = 3.0


class ChildState(StrEnum):
    """What has just happened to a child."""

    STARTED = "started"
    EXITED = "exited"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """A change in a child's life. `last_lines` and `restart_in_s` come with EXITED."""

    name: str
    state: ChildState
    pid: int
    code: int | None = None
    last_lines: tuple[str, ...] = ()
    restart_in_s: float = 0.0


def python_module(module: str, *args: str) -> list[str]:
    """The command line that runs a module with this very interpreter."""
    return [sys.executable, "-m", module, *args]


def restart_delay_s(failures: int) -> float:
    """How long to wait after the nth failure in a row: doubling, bounded."""
    return min(FIRST_DELAY_S * 2.0 ** min(failures - 1, 16), LONGEST_DELAY_S)


def tail(path: Path, lines: int) -> tuple[str, ...]:
    """The last lines of a log; none when there is no such file."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ()
    return tuple(text.splitlines()[-lines:])


async def keep_running(spec: ChildSpec, stop: asyncio.Event, on_event: Callable[[ChildEvent], None]) -> None:
    """Run the child until `stop` is set, starting it again whenever it ends before.

    On `stop` it gets SIGTERM and `grace_s`; when this task is cancelled, `KILL_AFTER_S`. Either way it
    is gone on return.
    """
    loop, failures = asyncio.get_running_loop(), 0
    while not stop.is_set():
        process = await _start(spec)
        on_event(ChildEvent(spec.name, ChildState.STARTED, process.pid))
        started = loop.time()
        try:
            ended = await _ended_or_stopped(process, stop)
        except BaseException:
            await _end(process, KILL_AFTER_S)
            raise
        if not ended:
            await _end(process, spec.grace_s)
            on_event(ChildEvent(spec.name, ChildState.STOPPED, process.pid, process.returncode))
            return
        failures = 1 if loop.time() - started > STEADY_S else failures + 1
        delay = restart_delay_s(failures)
        lines = tail(spec.log, 12) if spec.log else ()
        on_event(ChildEvent(spec.name, ChildState.EXITED, process.pid, process.returncode, lines, delay))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), delay)


async def _start(spec: ChildSpec) -> Process:
    env = {**(spec.env or os.environ), PARENT_VARIABLE: str(os.getpid())}
    log: IO[bytes] | None = None
    if spec.log:
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        log = spec.log.open("ab")
    try:
        return await asyncio.create_subprocess_exec(
            *spec.argv, stdin=PIPE, stdout=log, stderr=log, env=env, start_new_session=True
        )
    finally:
        if log:
            log.close()


async def _ended_or_stopped(process: Process, stop: asyncio.Event) -> bool:
    """True when the process ended by itself, False when `stop` was set first."""
    async with asyncio.TaskGroup() as tasks:
        ended = tasks.create_task(process.wait())
        stopped = tasks.create_task(stop.wait())
        await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
        is_ended = ended.done()
        ended.cancel()
        stopped.cancel()
    return is_ended


async def _end(process: Process, grace_s: float) -> None:
    """SIGTERM, `grace_s`, SIGKILL; the process is gone on return, cancelled or not."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), grace_s)
    except TimeoutError:
        _kill(process)
        await process.wait()
    except asyncio.CancelledError:
        _kill(process)
        raise


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
