"""The console of a running gateway: its page, its key, its stream, its readers."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from gateway.edge.console import READERS, Console
from gateway.receipts import Receipts
from tests.gateway.running import KEY, Running, running_gateway, tenants_file

ADMIN_KEY = "key-of-the-operators"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    tenants_file(tmp_path)
    (tmp_path / "admin.key").write_text(ADMIN_KEY)
    async with running_gateway(tmp_path, {"server": {"admin_key": "file:admin.key"}}) as running:
        yield running


async def event(response: aiohttp.ClientResponse) -> tuple[str, Any]:
    """The next event's name and data."""
    name = ""
    async with asyncio.timeout(10):
        while line := (await response.content.readline()).decode():
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                return name, json.loads(value)
    return "", None


async def test_the_page_comes_without_a_key_and_lets_itself_ask_nobody_else(gateway: Running) -> None:
    async with gateway.session.get(f"{gateway.operators_url}/console") as response:
        assert response.status == 200
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert "<h1>Meridian</h1>" in await response.text()
    async with gateway.session.get(f"{gateway.operators_url}/console/assets/uPlot.iife.min.js") as response:
        assert (response.status, response.content_type) == (200, "text/javascript")


@pytest.mark.parametrize("name", ["..%2Fframes.py", "%2Fetc%2Fpasswd", "none.js"])
async def test_no_other_file_is_given_out(gateway: Running, name: str) -> None:
    async with gateway.session.get(f"{gateway.operators_url}/console/assets/{name}") as response:
        assert response.status == 404


@pytest.mark.parametrize("authorization", ["", f"Bearer {KEY}"])
async def test_the_stream_wants_the_operators_key(gateway: Running, authorization: str) -> None:
    async with gateway.session.get(
        f"{gateway.operators_url}/admin/console/events", headers={"Authorization": authorization}
    ) as response:
        assert response.status == 401


async def test_frames_come_and_the_stream_ends_when_the_gateway_does(gateway: Running) -> None:
    async with gateway.session.get(
        f"{gateway.operators_url}/admin/console/events", headers=ADMIN
    ) as response:
        assert response.content_type == "text/event-stream"
        name, points = await event(response)
        assert (name, isinstance(points, list)) == ("history", True)
        name, frame = await event(response)
        assert (name, frame["facts"]["region"], frame["requests"]) == ("frame", "us-east", [])
        async with gateway.session.get(f"{gateway.url}/v1/models", headers={"x-request-id": "r-1"}) as asked:
            assert asked.status == 200
        async with asyncio.timeout(5):
            while not frame["requests"]:
                _, frame = await event(response)
        assert frame["requests"][0]["id"] == "r-1"
        gateway.stop.set()
        async with asyncio.timeout(10):
            while (await event(response))[0]:
                pass
        assert response.content.at_eof()


async def test_readers_are_bounded_and_one_that_leaves_makes_room(gateway: Running) -> None:
    url = f"{gateway.operators_url}/admin/console/events"
    open_ = [await gateway.session.get(url, headers=ADMIN) for _ in range(READERS)]
    async with gateway.session.get(url, headers=ADMIN) as response:
        assert response.status == 503
    for each in open_:
        each.close()
    status = 503
    async with asyncio.timeout(10):
        while status == 503:
            async with gateway.session.get(url, headers=ADMIN) as response:
                status = response.status
    assert status == 200


async def test_a_frame_that_cannot_be_made_is_told_once_and_ends_nothing() -> None:
    told: list[Exception] = []
    looks = asyncio.Queue[None]()

    async def facts() -> dict[str, Any]:
        looks.put_nowait(None)
        raise ValueError("no facts today")

    console = Console(CollectorRegistry(), facts, Receipts(), list, lambda: 0.0, told.append)
    async with asyncio.TaskGroup() as tasks:
        watching: asyncio.Task[None] = tasks.create_task(console.watch())
        async with asyncio.timeout(5):
            await looks.get()
            await looks.get()
        watching.cancel()
    assert [str(error) for error in told] == ["no facts today"]
