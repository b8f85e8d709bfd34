"""A real node as a child process, for benchmarks and fault tests."""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

READY_TIMEOUT_S = 60.0


class NodeProcess:
    """`python -m regions.node` over `data_dir`; started by `start`, ended by `stop` or `kill`."""

    def __init__(self, data_dir: Path, **config: Any) -> None:
        self._dir = data_dir
        self._config = {"data_dir": str(data_dir), **config}
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the node is not running")
        return self._process.pid

    async def start(self) -> dict[str, Any]:
        """Start it and wait for its ready line, which is returned.

        Raises: RuntimeError: it ended instead; carries what it said.
        """
        self._dir.mkdir(parents=True, exist_ok=True)
        config = self._dir / "config.json"
        config.write_text(json.dumps(self._config))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "regions.node",
            str(config),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        stdout, stderr = self._process.stdout, self._process.stderr
        if stdout is None or stderr is None:
            raise RuntimeError("the node has no pipes")
        line = await asyncio.wait_for(stdout.readline(), READY_TIMEOUT_S)
        if not line:
            raise RuntimeError((await stderr.read()).decode())
        ready: dict[str, Any] = json.loads(line)
        self.url = ready["url"]
        return ready

    async def stop(self) -> int:
        """SIGTERM, and wait; the exit status."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> int:
        """SIGKILL, and wait; the exit status."""
        return await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            raise RuntimeError("the node is not running")
        process, self._process = self._process, None
        if process.returncode is None:
            with suppress(ProcessLookupError):  # it ended by itself, and nobody has waited for it yet
                os.kill(process.pid, number)
        await process.communicate()  # to the end of its pipes, which closes them
        return process.returncode or 0


async def call(
    session: aiohttp.ClientSession, method: str, url: str, body: bytes | dict[str, Any] | None = None
) -> dict[str, Any]:
    """One JSON call. Raises: RuntimeError: any status but 2xx; carries the answer."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    headers = {"Content-Type": "application/json"} if data else None
    async with session.request(method, url, data=data, headers=headers) as response:
        text = await response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {url}: {response.status} {text[:300]!r}")
        answer: dict[str, Any] = json.loads(text) if text else {}
        return answer
