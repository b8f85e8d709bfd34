"""The whole of `meridian up`, as a newcomer and as a machine that crashes meets it."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import psutil
import pytest

TIMEOUT_S: Final = 120
GONE_S: Final = 5
BASE_PORT: Final = 24_401


@contextlib.asynccontextmanager
async def up(home: Path, *args: str) -> AsyncIterator[Process]:
    options = ["--regions", "us-east", "--data-dir", str(home), "--base-port", str(BASE_PORT)]
    argv = [sys.executable, "-m", "gateway", "up", *options]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MERIDIAN_")}
    process = await asyncio.create_subprocess_exec(*argv, *args, stdout=PIPE, stderr=STDOUT, env=env)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def read_until(process: Process, what: str) -> str:
    """Output up to a line that holds `what`."""
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(TIMEOUT_S):
        while what not in text:
            line = (await process.stdout.readline()).decode()
            assert line, f"ended before {what!r}:\n{text}"
            text += line
    return text


def children(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.faults
async def test_up_answers_with_its_sources_and_leaves_nothing_behind(tmp_path: Path) -> None:
    # A first start: the question is answered while most of the corpus is still to come.
    async with up(tmp_path) as process:
        said = await read_until(process, "MiB resident")
        assert "Wilhelm Conrad Röntgen" in said
        assert "[1] List of Nobel laureates in Physics" in said
        assert "region us-east · replica us-east" in said
        resident = re.search(r"memory: (\d+) MiB resident", said)
        assert resident is not None
        assert int(resident[1]) < 1024
        # Its end by Ctrl-C: within five seconds, and everything it started with it.
        started = children(process)
        assert len(started) == 4
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(GONE_S):
            await process.communicate()
        assert not [child for child in started if child.is_running()]

    # A second start finds what the first took in; its end by kill -9 takes everything along too.
    async with up(tmp_path) as process:
        said = await read_until(process, "first answer, from the start")
        assert "Wilhelm Conrad Röntgen" in said
        started = children(process)
        process.kill()
        await process.wait()
        async with asyncio.timeout(GONE_S):
            while any(is_alive(child) for child in started):  # noqa: ASYNC110 - nobody sets an event for us
                await asyncio.sleep(0.05)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; what only waits to be reaped does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
