"""`meridian serve`: one gateway process, or a supervisor over several that share its port.

Each worker binds the port itself (SO_REUSEPORT), so the kernel spreads connections over those that
live, and a dead worker's queue dies with it. The supervisor binds it too without listening: the port
stays ours while workers come and go.
"""

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.loading import load_gateway
from gateway.cli.terminal import stderr
from gateway.up.problems import CommandFailed
from regions.runtime import children, lifecycle

if TYPE_CHECKING:
    from gateway.config import GatewayConfig

DRAIN_MARGIN_S = 5.0
"""A worker is given its drain time and this much more to close what it holds."""


def serve(
    config: Annotated[Path, typer.Option("--config", "-c", help="The gateway's YAML file.")],
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Processes that share the port; server.workers by default."),
    ] = None,
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run a gateway.

    SIGTERM drains and ends it; a second one hurries. Worker n has its health and metrics on
    server.operators_port + n.

    Example: meridian serve --config meridian.yaml --workers 2
    """
    loaded = load_gateway(config)
    count = workers or loaded.server.workers
    if worker is None and count > 1:
        lifecycle.run(lambda stop: _supervise(loaded, config, count, stop))
    else:
        sock = _bind(loaded, shared=worker is not None)
        lifecycle.run(lambda stop: _serve(loaded, config, worker or 0, sock, stop))


async def _serve(
    config: "GatewayConfig", path: Path, worker: int, sock: socket.socket, stop: asyncio.Event
) -> None:
    from gateway.app import run_gateway
    from gateway.logs import quiet_libraries

    quiet_libraries()
    with sock:
        await run_gateway(config, config_dir=path.parent, worker=worker, sock=sock, stop=stop, path=path)


def _bind(config: "GatewayConfig", *, shared: bool) -> socket.socket:
    server = config.server
    try:
        return lifecycle.bind(server.host, server.port, shared=shared)
    except lifecycle.PortTaken:
        raise
    except OSError as error:
        raise CommandFailed(
            f"cannot listen on {server.host}:{server.port}: {error.strerror}",
            "server.host and server.port say where; MERIDIAN__SERVER__PORT overrides",
        ) from error


async def _supervise(config: "GatewayConfig", path: Path, count: int, stop: asyncio.Event) -> None:
    """Keep `count` workers running until `stop`; a dead one is started again with backoff."""
    server = config.server
    lifecycle.check_port(server.host, server.port)
    for number in range(count):
        lifecycle.check_port(server.operators_host, server.operators_port + number)
    with lifecycle.bind(server.host, server.port, shared=True):
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                spec = _worker(path, number, server.drain_s + DRAIN_MARGIN_S)
                tasks.create_task(children.keep_running(spec, stop, _report))


def _worker(path: Path, number: int, grace_s: float) -> children.ChildSpec:
    argv = children.python_module("gateway", "serve", "--config", str(path), "--worker", str(number))
    return children.ChildSpec(f"worker {number}", argv, env=os.environ, grace_s=grace_s)


def _report(event: children.ChildEvent) -> None:
    console = stderr()
    match event.state:
        case children.ChildState.STARTED:
            console.print(f"{event.name} started, pid {event.pid}")
        case children.ChildState.EXITED:
            console.print(
                f"{event.name} ended with code {event.code}; starting it again in {event.restart_in_s:g} s"
            )
        case children.ChildState.STOPPED:
            console.print(f"{event.name} stopped")
