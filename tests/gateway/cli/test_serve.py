"""Several workers on one port, as real processes."""

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Final

import aiohttp
import psutil
import pytest

from regions.runtime.strict_yaml import to_yaml

PORT: Final = 25_401
OPERATORS: Final = 26_401
TIMEOUT_S: Final = 60


def config(folder: Path) -> Path:
    (folder / "tenants.yaml").write_text("tenants: []\n")
    (folder / "pepper").write_text("salt")
    path = folder / "gateway.yaml"
    server = {"port": PORT, "operators_port": OPERATORS, "drain_s": 1}
    path.write_text(
        to_yaml({"region": "us-east", "server": server, "tenants": {"pepper": f"file:{folder / 'pepper'}"}})
    )
    return path


async def is_ready(worker: int) -> bool:
    url = f"http://127.0.0.1:{OPERATORS + worker}/readyz"
    with contextlib.suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status == 200
    return False


async def both_ready() -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not (await is_ready(0) and await is_ready(1)):  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.05)


def workers(supervisor: Process) -> list[psutil.Process]:
    return psutil.Process(supervisor.pid).children()


@pytest.mark.slow
@pytest.mark.faults
async def test_a_dead_worker_is_replaced_and_sigterm_ends_them_all(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "gateway", "serve", "--config", str(config(tmp_path)), "--workers", "2"]
    supervisor = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stderr=PIPE)
    try:
        await both_ready()
        before = workers(supervisor)
        assert len(before) == 2

        before[0].kill()
        async with asyncio.timeout(TIMEOUT_S):
            while before[0].is_running():  # noqa: ASYNC110 - nobody sets an event for us
                await asyncio.sleep(0.02)
        await both_ready()
        after = workers(supervisor)
        assert len(after) == 2
        assert before[1] in after

        # The port is the group's: a second gateway is told so.
        second = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stderr=PIPE)
        _, said = await second.communicate()
        assert second.returncode == 1
        assert f"port {PORT} on 127.0.0.1 is taken" in said.decode()

        supervisor.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            await supervisor.communicate()
        assert supervisor.returncode == 0
        assert not [worker for worker in after if worker.is_running()]
    finally:
        if supervisor.returncode is None:
            supervisor.kill()
            await supervisor.communicate()
