"""The life of a process: its event loop, the signals that end it, the ports it takes.

Two signals, two meanings: the first SIGTERM or SIGINT asks for an orderly end (`stop` is set), the
second takes the patience away (the main task is cancelled).
"""

import asyncio
import errno
import signal
import socket
import time
from collections.abc import Awaitable, Callable

import uvloop


class PortTaken(OSError):
    """Another process listens where we should; `host` and `port` say where."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is taken by another process")
        self.host, self.port = host, port


def wall_clock() -> float:
    """Seconds since 1970: for time that leaves the process, never for measuring."""
    return time.time()  # noqa: TID251 - the one place that reads it


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `main(stop)` on uvloop until it returns; signals set `stop`, a second one cancels it.

    Raises: KeyboardInterrupt: a second signal ended it; whatever `main` raises.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_with_signals(main))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _with_signals(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    loop, stop, task = asyncio.get_running_loop(), asyncio.Event(), asyncio.current_task()

    def asked() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    await main(stop)


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound TCP socket, not yet listening; `shared` lets our other processes bind the port too.

    Raises: PortTaken: somebody else has it. OSError: the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(host, port) from None
        raise
    return sock


def check_port(host: str, port: int) -> None:
    """Raises: PortTaken: some process, of ours or not, has the port."""
    sock = bind(host, port)
    try:
        sock.listen(1)  # Linux lets two sockets bind with SO_REUSEADDR; only one may listen
    except OSError:
        raise PortTaken(host, port) from None
    finally:
        sock.close()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody has at this moment."""
    sock = bind(host, 0)
    try:
        return int(sock.getsockname()[1])
    finally:
        sock.close()
