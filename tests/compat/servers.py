"""A real node and a real gateway, as processes on loopback, and what a client needs to reach them."""

import asyncio
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from aiohttp import web

from gateway.tenants import digest_key
from regions.runtime import lifecycle
from tests.compat.sdk import Target
from tests.fakes.provider import ScriptedProvider

START_S = 60.0
INDEX = "docs"
DIMENSION = 384
PEPPER = "a pepper of the tests"
KEY, OTHER_KEY, NARROW_KEY = "key-of-alice", "key-of-mallory", "key-of-nobody-special"
TENANT, OTHER_TENANT, NARROW_TENANT = "alice00000000001", "mallory000000002", "narrow0000000003"


@dataclass
class Process:
    """A process of ours and where it writes what it says."""

    popen: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Servers:
    """Where everything listens. `provider` is the scripted LLM behind the gateway's model."""

    node_url: str
    gateway_url: str
    index_url: str
    """The index's own host at the node."""
    provider: ScriptedProvider

    def of(self, target: Target) -> tuple[str, str]:
        """Control plane and index host of the node or the gateway."""
        if target == "node":
            return self.node_url, self.index_url
        return self.gateway_url, f"{self.gateway_url}/i/{INDEX}"


@contextmanager
def running(argv: Sequence[str], log: Path, ready_url: str) -> Iterator[Process]:
    """Run a command until the block ends. Raises: RuntimeError: not ready in time; with its log."""
    with log.open("wb") as out:
        popen = subprocess.Popen(
            [sys.executable, *argv],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    process = Process(popen, log)
    try:
        _wait_until_ready(process, ready_url)
        yield process
    finally:
        popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(timeout=10)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait(timeout=10)


def _wait_until_ready(process: Process, url: str) -> None:
    deadline = time.monotonic() + START_S
    pause = threading.Event()
    while time.monotonic() < deadline and process.popen.poll() is None:
        if _answers(url):
            return
        pause.wait(0.05)
    raise RuntimeError(f"not ready: {' '.join(map(str, process.popen.args))}\n{process.tail()}")  # type: ignore[arg-type]


def _answers(url: str) -> bool:
    try:
        return request("GET", url)[0] in (200, 401)
    except OSError:
        return False


def request(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of a plain HTTP call: what an attacker without an SDK can send."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextmanager
def serving(provider: ScriptedProvider) -> Iterator[str]:
    """Serve the scripted LLM from a thread with a loop of its own; gives its base URL."""
    port = lifecycle.free_port()
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        runner = web.AppRunner(provider.application(), handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        loops.append(asyncio.get_running_loop())
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    if not started.wait(10):
        raise RuntimeError("the scripted provider did not start")
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)


def node_argv(directory: Path, port: int) -> list[str]:
    """A node that asks for a key: the first tenant's, so that one suite can drive both targets."""
    (directory / "node.key").write_text(KEY)
    options = {"port": port, "data-dir": directory / "node", "api-key": f"file:{directory / 'node.key'}"}
    return ["-m", "gateway", "node", *(str(part) for o, v in options.items() for part in (f"--{o}", v))]


def write_gateway_config(
    directory: Path, index_url: str, llm_url: str, port: int, operators_port: int
) -> Path:
    """A gateway of one region with three tenants: two with equal rights, one that may use no index."""
    (directory / "pepper").write_text(PEPPER)
    docs = {"index": INDEX}
    tenants = [
        _tenant(TENANT, KEY, defaults=docs),
        _tenant(OTHER_TENANT, OTHER_KEY, defaults=docs),
        _tenant(NARROW_TENANT, NARROW_KEY, grants={"indexes": ["elsewhere"]}),
    ]
    (directory / "tenants.yaml").write_text(yaml.safe_dump({"tenants": tenants}))
    replica = {"region": "us-east", "kind": "pinecone", "url": index_url, "api_key": "file:node.key"}
    index = {"dimension": DIMENSION, "embedder": "minilm", "replicas": [replica]}
    scripted = {"kind": "openai", "model": "gpt-4o", "base_url": llm_url}
    config: dict[str, Any] = {
        "region": "us-east",
        "server": {"port": port, "operators_port": operators_port, "drain_s": 1},
        "tenants": {"pepper": "file:pepper"},
        "embedders": {"minilm": {"kind": "local"}},
        "indexes": {INDEX: index, "elsewhere": index},
        "models": {
            # Tests make it fail on purpose, one after the other: its breaker would end them.
            "scripted": {"upstreams": [scripted], "breaker": {"min_failures": 1000}},
            "locked": {"upstreams": [{**scripted, "account": "locked"}]},
            "silent": {"upstreams": []},
        },
        "log": {"level": "info", "format": "json"},
    }
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _tenant(id_: str, key: str, **more: Any) -> dict[str, Any]:
    """A tenant whose every question is asked anew: models here answer by a script."""
    keys = [{"digest": digest_key(key, PEPPER.encode())}]
    return {"id": id_, "name": id_, "keys": keys, "cache": {"enabled": False}, **more}
