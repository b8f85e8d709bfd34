"""A gateway running in the test's own loop, on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from gateway.app import run_gateway
from gateway.config import GatewayConfig
from gateway.tenants import digest_key
from regions.runtime import lifecycle

PEPPER = "a pepper of the tests"
KEY = "key-of-the-first-tenant"
OTHER_KEY = "key-of-the-second-tenant"
TENANT, OTHER_TENANT = "tenant0000000001", "tenant0000000002"


@dataclass(frozen=True)
class Running:
    """Where it listens, and a session that carries the first tenant's key."""

    url: str
    operators_url: str
    session: aiohttp.ClientSession
    stop: asyncio.Event


def tenants_file(directory: Path, **defaults: Any) -> None:
    """Two tenants with a key each, whose every question is asked anew; `defaults` are the first one's."""
    tenants = [
        {
            "id": id_,
            "name": id_,
            "keys": [{"digest": digest_key(key, PEPPER.encode())}],
            "defaults": own,
            "cache": {"enabled": False},
        }
        for id_, key, own in ((TENANT, KEY, defaults), (OTHER_TENANT, OTHER_KEY, {}))
    ]
    (directory / "tenants.yaml").write_text(yaml.safe_dump({"tenants": tenants}))
    (directory / "pepper").write_text(PEPPER)


@asynccontextmanager
async def running_gateway(
    directory: Path, config: Mapping[str, Any], path: Path | None = None
) -> AsyncIterator[Running]:
    """Serve `config` until the block ends; region, tenants and free ports are filled in.

    When `path` is given, the configuration is written there, and followed.
    """
    operators_port = lifecycle.free_port()
    server = {"operators_port": operators_port, "drain_s": 1, **config.get("server", {})}
    whole = {
        "region": "us-east",
        "tenants": {"pepper": "file:pepper"},
        "log": {"level": "error"},
        **config,
        "server": server,
    }
    loaded = GatewayConfig.model_validate(whole)
    if path is not None:
        _write(path, whole)
    sock: socket.socket = lifecycle.bind("127.0.0.1", 0)
    stop = asyncio.Event()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    operators_url = f"http://127.0.0.1:{operators_port}"
    with sock:
        async with asyncio.TaskGroup() as group:
            group.create_task(
                run_gateway(loaded, config_dir=directory, worker=0, sock=sock, stop=stop, path=path)
            )
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
                await until_ready(session, operators_url)
                try:
                    yield Running(url, operators_url, session, stop)
                finally:
                    stop.set()


def _write(path: Path, config: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(config))


async def until_ready(session: aiohttp.ClientSession, operators_url: str) -> None:
    """Return once the gateway says it is ready. Raises: TimeoutError: not within 20 s."""
    async with asyncio.timeout(20):
        while True:
            try:
                async with session.get(f"{operators_url}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectorError:
                pass
            await asyncio.sleep(0.02)
