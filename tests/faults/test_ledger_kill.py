"""kill -9 of a real gateway under load: every answer that its caller has in full is in the ledger.

With the log server up, and with it down at the moment of the kill: then the bills wait on disk for the next
process. In flight at a kill, and perhaps not billed, is at most what was under way.
"""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp.test_utils import TestServer

from regions.runtime import lifecycle
from tests.fakes.provider import ScriptedProvider
from tests.gateway.billed import bills, sections, started
from tests.gateway.running import KEY, tenants_file, until_ready

CALLERS = 16
ANSWERS = 150
BODY: dict[str, Any] = {"model": "big", "messages": [{"role": "user", "content": "Who won?"}]}


class Traffic:
    """Callers that ask again and again; `answered` are the requests whose answers came to their end."""

    def __init__(self, url: str, wanted: int) -> None:
        self._url, self._wanted = url, wanted
        self.asked: set[str] = set()
        self.answered: set[str] = set()
        self.is_enough = asyncio.Event()

    async def run(self) -> None:
        """Until nobody answers any more."""
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as tasks:
            for caller in range(CALLERS):
                tasks.create_task(self._ask_on(session, caller))

    async def _ask_on(self, session: aiohttp.ClientSession, caller: int) -> None:
        number = 0
        while True:
            number += 1
            request_id = f"caller-{caller}-{number}"
            self.asked.add(request_id)
            stream = bool(number % 2)
            try:
                async with session.post(
                    f"{self._url}/v1/chat/completions",
                    json={**BODY, "stream": stream},
                    headers={"x-request-id": request_id},
                ) as response:
                    body = await response.read()
            except (aiohttp.ClientError, ConnectionError):
                return
            if response.status == 200 and (not stream or b"data: [DONE]" in body):
                self.answered.add(request_id)
            if len(self.answered) >= self._wanted:
                self.is_enough.set()


@asynccontextmanager
async def gateway(path: Path, operators_url: str) -> AsyncIterator[Process]:
    """A gateway as a process of its own, ready; gone on exit."""
    argv = [sys.executable, "-m", "gateway", "serve", "--config", os.fspath(path)]
    process = await asyncio.create_subprocess_exec(*argv, stdout=DEVNULL, stderr=DEVNULL)
    try:
        async with aiohttp.ClientSession() as session:
            await until_ready(session, operators_url)
        yield process
    finally:
        kill(process)
        await process.wait()


def kill(process: Process) -> None:
    """SIGKILL; nothing when it is gone."""
    with suppress(ProcessLookupError):
        process.kill()


async def until_shipped(operators_url: str) -> None:
    """Return once no bill waits any more."""
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{operators_url}/metrics") as response:
                if "\nmeridian_ledger_queue 0.0\n" in await response.text():
                    return
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("journal", ["up", "down"])
async def test_a_kill_9_loses_no_bill_of_an_answer_that_was_complete(tmp_path: Path, journal: str) -> None:
    nats = started(tmp_path, "us-east")
    tenants_file(tmp_path)
    port, operators_port = lifecycle.free_port(), lifecycle.free_port()
    operators_url = f"http://127.0.0.1:{operators_port}"
    try:
        async with TestServer(ScriptedProvider().application()) as provider:
            config = {
                "region": "us-east",
                "tenants": {"pepper": "file:pepper"},
                "server": {"port": port, "operators_port": operators_port},
                **sections(nats, str(provider.make_url("/v1"))),
            }
            path = tmp_path / "meridian.yaml"
            await asyncio.to_thread(path.write_text, yaml.safe_dump(config))
            traffic = Traffic(f"http://127.0.0.1:{port}", ANSWERS)
            async with gateway(path, operators_url) as process, asyncio.TaskGroup() as tasks:
                if journal == "down":
                    nats.kill()
                running = tasks.create_task(traffic.run())
                async with asyncio.timeout(60):
                    await traffic.is_enough.wait()
                kill(process)
                await running
            if journal == "down":
                nats.start()
            async with gateway(path, operators_url):
                await until_shipped(operators_url)
            billed = {bill.request_id for bill in await bills(nats)}
    finally:
        nats.kill()
    assert len(traffic.answered) >= ANSWERS
    assert traffic.answered - billed == set()
    assert billed <= traffic.asked
    assert len(traffic.asked - billed) <= CALLERS
