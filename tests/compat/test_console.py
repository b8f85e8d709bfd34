"""The operators' console, as Debian's Chromium shows it."""

import asyncio
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.compat.test_node_sdks import node, run

__all__ = ["node"]
from tests.fakes.provider import ScriptedProvider, Step, answer
from tests.gateway.running import running_gateway, tenants_file

ADMIN_KEY = "key-of-the-operators"


@pytest.fixture(scope="session")
def chromium() -> str:
    command = shutil.which("chromium") or shutil.which("chromium-browser")
    if command is None:
        pytest.skip("the package chromium is not installed")
    return command


async def test_the_console_in_a_browser(node: str, chromium: str, tmp_path: Path) -> None:
    tenants_file(tmp_path)
    (tmp_path / "admin.key").write_text(ADMIN_KEY)
    provider = ScriptedProvider([], good=lambda: Step(answer("Well.")))
    async with AsyncExitStack() as stack:
        models = await stack.enter_async_context(TestServer(provider.application()))
        section = {"kind": "openai", "base_url": str(models.make_url("/v1")), "model": "gpt-4o"}
        config = {"models": {"big": {"upstreams": [section]}}, "server": {"admin_key": "file:admin.key"}}
        gateway = await stack.enter_async_context(running_gateway(tmp_path, config))

        async def stop(_: web.Request) -> web.Response:
            gateway.stop.set()
            return web.Response()

        control = web.Application()
        control.router.add_post("/", stop)
        asked = {"model": "big", "messages": [{"role": "user", "content": "?"}], "rag": {"mode": "off"}}
        for _ in range(60):
            async with gateway.session.post(f"{gateway.url}/v1/chat/completions", json=asked) as response:
                assert response.status == 200
        async with TestServer(control) as server:
            variables = {
                "CHROMIUM": chromium,
                "CONSOLE_URL": gateway.operators_url,
                "ADMIN_KEY": ADMIN_KEY,
                "STOP_URL": str(server.make_url("/")),
                "HOME": str(tmp_path),
            }
            await asyncio.to_thread(run, node, "console.test.js", variables)
        assert gateway.stop.is_set()
