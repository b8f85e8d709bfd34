"""Real processes: what is promised about a child holds only if the operating system agrees."""

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from regions.runtime import children
from regions.runtime.children import ChildEvent, ChildSpec, ChildState, keep_running, restart_delay_s, tail
from regions.runtime.lifecycle import PortTaken, bind, check_port

TIMEOUT_S = 20

BOUND = "import os; from regions.runtime.parent import bind_to_parent; bind_to_parent(os.environ); "
"""What each of our processes does first."""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


class Watched:
    """A child kept running, and the events of its life in order."""

    def __init__(self, spec: ChildSpec, tasks: asyncio.TaskGroup) -> None:
        self.stop, self._events = asyncio.Event(), asyncio.Queue[ChildEvent]()
        self.task = tasks.create_task(keep_running(spec, self.stop, self._events.put_nowait))

    async def next(self) -> ChildEvent:
        return await asyncio.wait_for(self._events.get(), TIMEOUT_S)


async def test_a_child_that_dies_is_reported_with_its_last_lines_and_started_again(tmp_path: Path) -> None:
    spec = ChildSpec("x", python("print('going'); raise SystemExit(3)"), log=tmp_path / "x.log")
    async with asyncio.TaskGroup() as tasks:
        child = Watched(spec, tasks)
        events = [await child.next() for _ in range(3)]
        child.stop.set()
    assert [event.state for event in events] == [ChildState.STARTED, ChildState.EXITED, ChildState.STARTED]
    assert (events[1].code, events[1].last_lines) == (3, ("going",))
    assert events[1].restart_in_s == children.FIRST_DELAY_S


async def test_a_child_that_ignores_sigterm_is_gone_after_its_grace(tmp_path: Path) -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    log = tmp_path / "x.log"
    async with asyncio.TaskGroup() as tasks:
        child = Watched(ChildSpec("x", python(code), log=log, grace_s=0.1), tasks)
        await child.next()
        await _until(lambda: tail(log, 1) == ("deaf",))
        child.stop.set()
        stopped = await child.next()
    assert (stopped.state, stopped.code) == (ChildState.STOPPED, -signal.SIGKILL)


async def test_a_child_is_gone_when_its_keeper_is_cancelled() -> None:
    async with asyncio.TaskGroup() as tasks:
        child = Watched(ChildSpec("x", python("import signal; signal.pause()")), tasks)
        started = await child.next()
        child.task.cancel()
    assert not psutil.pid_exists(started.pid)


@pytest.mark.faults
async def test_children_and_grandchildren_die_with_a_killed_parent(tmp_path: Path) -> None:
    log = tmp_path / "pids"
    grandchild = BOUND + "print(os.getpid(), flush=True); import signal; signal.pause()"
    parent = (
        "import asyncio, sys; from pathlib import Path\n"
        "from regions.runtime.children import *\n"
        f"spec = ChildSpec('x', [sys.executable, '-c', {grandchild!r}], log=Path({str(log)!r}))\n"
        "asyncio.run(keep_running(spec, asyncio.Event(), lambda event: None))"
    )
    process = await asyncio.create_subprocess_exec(*python(parent))
    await _until(lambda: len(tail(log, 1)) == 1)
    pid = int(tail(log, 1)[0])
    assert psutil.pid_exists(pid)
    process.kill()
    await process.wait()
    await _until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


async def test_the_end_of_stdin_ends_a_child_where_the_kernel_sends_no_signal() -> None:
    code = "from regions.runtime.parent import _exit_at_end_of_stdin as f; f()"
    process = await asyncio.create_subprocess_exec(*python(code), stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), TIMEOUT_S) == 1


def test_restarts_wait_longer_and_longer_but_never_too_long() -> None:
    delays = [restart_delay_s(n) for n in range(1, 50)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (children.FIRST_DELAY_S, children.LONGEST_DELAY_S)


def test_the_tail_of_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {n}\n" for n in range(10_000)))
    assert tail(log, 2) == ("line 9998", "line 9999")
    assert tail(tmp_path / "none", 2) == ()


def test_a_taken_port_is_named() -> None:
    with bind("127.0.0.1", 0) as sock:
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} on 127.0.0.1 is taken"):
            check_port("127.0.0.1", port)


def test_workers_share_a_port_that_strangers_are_refused() -> None:
    with bind("127.0.0.1", 0, shared=True) as reserved:
        port = reserved.getsockname()[1]
        with bind("127.0.0.1", port, shared=True) as worker:
            worker.listen()
            with pytest.raises(PortTaken):
                bind("127.0.0.1", port)


async def _until(is_so: Callable[[], bool]) -> None:
    """Poll what another process does, which tells nobody."""
    async with asyncio.timeout(TIMEOUT_S):
        while not is_so():  # noqa: ASYNC110 - nobody sets an event for us
            await asyncio.sleep(0.02)
