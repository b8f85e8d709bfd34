"""Run one node: lock its directory, open its store, serve until asked to stop.

The ready line, one JSON object on stdout once the port is open:
`{"event": "ready", "url": "http://127.0.0.1:41234", "port": 41234, "pid": 7, "incarnation": "..."}`.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import structlog

from regions.errors import RegionsError
from regions.node.config import NodeConfig
from regions.node.node import Node
from regions.node.server import Server, drained
from regions.runtime import lifecycle
from regions.runtime.config_file import resolve_secret
from regions.runtime.tracing import Tracer
from regions.runtime.tracing_config import tracing_as

_SWITCH_S: Final = 0.0005
"""How long a busy thread keeps the interpreter from the event loop; Python's own default is 5 ms."""


class DirectoryLocked(RegionsError):
    """Another process has the data directory."""


class StoreUnreadable(RegionsError):
    """The store in the data directory cannot be opened."""


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the directory for this process; the kernel lets go of it when the process ends, however it does.

    Raises: DirectoryLocked.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise DirectoryLocked(f"{data_dir} is in use by another node (process {holder})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


async def run_node(config: NodeConfig, stop: asyncio.Event) -> None:
    """Serve until `stop`; what was acknowledged is durable however this ends.

    Raises: DirectoryLocked, StoreUnreadable, lifecycle.PortTaken; ConfigError: a secret of its tracing.
    """
    tracing = tracing_as(
        config.tracing,
        "node",
        resolve=lambda ref: resolve_secret(ref, Path(), os.environ),
        resource={"service.version": version("meridian-gateway")},
        tell=structlog.get_logger("meridian.node").warning,
    )
    with locked(config.data_dir):
        async with tracing as traces:
            await _serve(config, traces.tracer, stop)


async def _serve(config: NodeConfig, tracer: Tracer | None, stop: asyncio.Event) -> None:
    sock = lifecycle.bind(config.host, config.port)
    try:
        node = await asyncio.to_thread(Node, config)
    except sqlite3.DatabaseError as error:
        sock.close()
        raise StoreUnreadable(f"{config.data_dir / 'node.db'}: {error}") from error
    server = Server(node, config, tracer)
    try:
        url = await server.open(sock)
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(node.keep())
            _announce(config, url, sock.getsockname()[1], node.incarnation)
            await stop.wait()
            keeper.cancel()
    finally:
        await drained(server, node)


def _announce(config: NodeConfig, url: str, port: int, incarnation: str) -> None:
    line = msgspec.json.encode(
        {"event": "ready", "url": url, "port": port, "pid": os.getpid(), "incarnation": incarnation}
    )
    if config.ready_file is not None:
        partial = config.ready_file.with_suffix(".partial")
        partial.write_bytes(line)
        partial.replace(config.ready_file)
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()


def main(config: NodeConfig) -> int:
    """Run a node as this process; the exit status."""
    sys.setswitchinterval(_SWITCH_S)
    try:
        lifecycle.run(lambda stop: run_node(config, stop))
    except (RegionsError, OSError) as error:
        sys.stderr.write(f"meridian node: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
