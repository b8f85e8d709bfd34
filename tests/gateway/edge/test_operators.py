"""/admin on the operators' port: receipts, for whoever holds the operators' key."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from tests.fakes.provider import ScriptedProvider, Step, answer
from tests.gateway.running import KEY, TENANT, Running, running_gateway, tenants_file

ADMIN_KEY = "key-of-the-operators"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
CHAT = {"model": "big", "messages": [{"role": "user", "content": "Who won?"}]}


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture
async def gateway(tmp_path: Path, provider: ScriptedProvider) -> AsyncIterator[Running]:
    """Two upstreams on one scripted server, so that the second answers what the first did not."""
    tenants_file(tmp_path)
    (tmp_path / "admin.key").write_text(ADMIN_KEY)
    async with TestServer(provider.application(), handler_cancellation=True) as server:
        section = {"kind": "openai", "base_url": str(server.make_url("/v1")), "model": "gpt-4o"}
        upstreams = [{**section, "account": "one"}, {**section, "account": "two", "tier": "cheaper"}]
        config = {
            "models": {"big": {"upstreams": upstreams, "max_attempts": 2}},
            "server": {"admin_key": "file:admin.key"},
        }
        async with running_gateway(tmp_path, config) as running:
            yield running


async def asked(gateway: Running, request_id: str) -> None:
    async with gateway.session.post(
        f"{gateway.url}/v1/chat/completions", json=CHAT, headers={"x-request-id": request_id}
    ) as response:
        await response.read()


async def receipt(gateway: Running, request_id: str) -> dict[str, Any]:
    async with gateway.session.get(
        f"{gateway.operators_url}/admin/receipts/{request_id}", headers=ADMIN
    ) as response:
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
        return found


async def test_a_receipt_tells_both_attempts_of_an_answer_that_fell_back(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step(status=401), Step(answer("Answered"))]
    await asked(gateway, "r-1")
    found = await receipt(gateway, "r-1")
    attempts = [step["details"] for step in found["steps"] if step["name"] == "attempt"]
    assert [each["outcome"] == "ok" for each in attempts] == [False, True]
    assert len({each["upstream"] for each in attempts}) == 2
    assert (found["tenant"], found["outcome"]) == (TENANT, "ok")
    assert found["answer"]["cost_usd"] > 0
    assert found["stages_ms"]["llm_total"] <= found["total_ms"]


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", f"Bearer {KEY}", "Bearer ", "Bearer \udcff"])
async def test_without_the_operators_key_nothing_is_shown(gateway: Running, authorization: str) -> None:
    await asked(gateway, "r-1")
    for path in ("/admin/receipts", "/admin/receipts/r-1", "/admin/whatever"):
        async with gateway.session.get(
            f"{gateway.operators_url}{path}", headers={"Authorization": authorization}
        ) as response:
            assert response.status == 401
            assert set(await response.json()) == {"error"}


async def test_the_tenants_port_has_no_admin(gateway: Running) -> None:
    for headers in ({}, ADMIN):
        async with gateway.session.get(f"{gateway.url}/admin/receipts", headers=headers) as response:
            assert response.status in (401, 404)


async def test_the_last_requests_are_listed_newest_first(gateway: Running) -> None:
    for number in range(3):
        await asked(gateway, f"r-{number}")
    async with gateway.session.get(
        f"{gateway.operators_url}/admin/receipts?limit=2", headers=ADMIN
    ) as response:
        assert [each["request_id"] for each in (await response.json())["receipts"]] == ["r-2", "r-1"]


@pytest.mark.parametrize("limit", ["0", "-1", "501", "x", ""])
async def test_a_limit_that_is_none_is_refused(gateway: Running, limit: str) -> None:
    async with gateway.session.get(
        f"{gateway.operators_url}/admin/receipts?limit={limit}", headers=ADMIN
    ) as response:
        assert response.status == 400


async def test_an_id_of_no_request_is_404(gateway: Running) -> None:
    async with gateway.session.get(
        f"{gateway.operators_url}/admin/receipts/r%2F%00none", headers=ADMIN
    ) as response:
        assert response.status == 404


async def test_without_a_key_configured_admin_is_shut(tmp_path: Path) -> None:
    tenants_file(tmp_path)
    async with (
        running_gateway(tmp_path, {}) as gateway,
        gateway.session.get(f"{gateway.operators_url}/admin/receipts", headers=ADMIN) as response,
    ):
        assert response.status == 403
        assert "server.admin_key" in (await response.json())["error"]


async def test_the_command_shows_a_receipt_as_people_read_it(
    gateway: Running, provider: ScriptedProvider
) -> None:
    provider.steps = [Step(status=401), Step(answer("Answered"))]
    await asked(gateway, "r-1")

    async def meridian(*arguments: str) -> "subprocess.CompletedProcess[str]":
        ask = ("--operators", gateway.operators_url, "--admin-key", ADMIN_KEY)
        argv = [sys.executable, "-m", "gateway", "receipt", *arguments, *ask]
        return await asyncio.to_thread(
            subprocess.run, argv, capture_output=True, text=True, timeout=60, check=False
        )

    shown, listed, as_json, unknown = await asyncio.gather(
        meridian("r-1"), meridian(), meridian("r-1", "--json"), meridian("none")
    )
    assert (shown.returncode, listed.returncode, unknown.returncode) == (0, 0, 1)
    assert shown.stdout.count("attempt") == 2
    assert "r-1" in shown.stdout
    assert "r-1" in listed.stdout
    assert json.loads(as_json.stdout)["request_id"] == "r-1"
    assert "no receipt of 'none'" in unknown.stderr
