"""From a caller's request to `meridian cost`: a gateway, a log server, a model, all on real sockets."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from gateway.catalogue import nano_usd
from tests.contracts.nats_process import NatsProcess
from tests.fakes.provider import DONE, ROLE, ScriptedProvider, Step, chunk
from tests.gateway.billed import meridian, sections, started, until_billed
from tests.gateway.running import TENANT, Running, running_gateway, tenants_file

ADMIN = {"Authorization": "Bearer operators-only"}
BODY: dict[str, Any] = {"model": "big", "messages": [{"role": "user", "content": "Who won?"}]}
CACHED = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}}
DEEPSEEK = {"completion_tokens": 10, "prompt_cache_hit_tokens": 40, "prompt_cache_miss_tokens": 60}
NANO = 60 * 2_000 + 40 * 500 + 10 * 8_000


@dataclass
class Bench:
    gateway: Running
    first: ScriptedProvider
    second: ScriptedProvider
    nats: NatsProcess
    file: Path

    async def ask(self, *, stream: bool = False, **headers: str) -> bytes:
        url = f"{self.gateway.url}/v1/chat/completions"
        body = {**BODY, "stream": stream}
        async with self.gateway.session.post(url, json=body, headers=headers) as response:
            return await response.read()

    async def leave_inside_an_answer(self) -> None:
        self.first.steps = [Step([ROLE, chunk({"content": "Word after word "})], hold=True)]
        url = f"{self.gateway.url}/v1/chat/completions"
        async with self.gateway.session.post(url, json={**BODY, "stream": True}) as response:
            await response.content.readuntil(b"Word")
        async with asyncio.timeout(10):
            await self.first.left.wait()

    async def receipts(self) -> list[dict[str, Any]]:
        url = f"{self.gateway.operators_url}/admin/receipts?limit=100"
        async with self.gateway.session.get(url, headers=ADMIN) as response:
            found: list[dict[str, Any]] = (await response.json())["receipts"]
            return found


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsProcess]:
    server = started(tmp_path, "us-east")
    yield server
    server.kill()


@pytest.fixture
async def bench(tmp_path: Path, nats: NatsProcess) -> AsyncIterator[Bench]:
    tenants_file(tmp_path)
    (tmp_path / "admin").write_text("operators-only")
    first, second = ScriptedProvider(), ScriptedProvider()
    async with (
        TestServer(first.application(), handler_cancellation=True) as one,
        TestServer(second.application(), handler_cancellation=True) as two,
    ):
        config = sections(nats, str(one.make_url("/v1")), str(two.make_url("/v1")))
        config["server"] = {"admin_key": "file:admin"}
        path = tmp_path / "meridian.yaml"
        async with running_gateway(tmp_path, config, path) as running:
            yield Bench(running, first, second, nats, path)


def told(usage: dict[str, Any]) -> Step:
    return Step([ROLE, chunk({"content": "So."}), chunk({}, "stop", usage=usage), DONE])


async def test_every_attempt_is_billed_and_the_report_is_what_the_receipts_say(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (told(CACHED), told(DEEPSEEK)):
        bench.first.steps = [step]
        await bench.ask(stream=True)
    bench.first.steps = [Step([ROLE, chunk({"content": "Half an "})], cut=True)]
    await bench.ask(stream=True, **{"x-meridian-stream": "whole"})  # broken off unseen, answered by another
    await bench.leave_inside_an_answer()
    found = await until_billed(bench.nats, 5)
    assert sorted(each.outcome for each in found if each.outcome != "ok") == ["left", "unavailable"]
    assert [each.nano_usd for each in found[:2]] == [NANO, NANO]
    assert all(each.cached_tokens == 40 for each in found[:2])
    left = next(each for each in found if each.outcome == "left")
    assert left.output_tokens > 0
    assert left.nano_usd > 0
    receipts = await bench.receipts()
    costs = {
        receipt["request_id"]: [step["details"] for step in receipt["steps"] if step["name"] == "attempt"]
        for receipt in receipts
    }
    for request_id, attempts in costs.items():
        billed = sum(each.nano_usd for each in found if each.request_id == request_id)
        assert billed == nano_usd(sum(each["cost_usd"] for each in attempts))
    code, out, err = await meridian(capsys, bench.file, "--by", "tenant,model,day,region", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["total"]["nano_usd"] == sum(each.nano_usd for each in found)
    assert report["total"]["attempts"] == len(found)
    (row,) = report["rows"]
    assert (row["tenant"], row["model"], row["region"]) == (TENANT, "big", "us-east")


async def test_a_report_is_a_table_a_csv_and_comes_back_when_its_file_is_dropped(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    await bench.ask()
    await until_billed(bench.nats, 1)
    _, table, _ = await meridian(capsys, bench.file)
    assert "of it cached" in table
    assert "total" in table
    _, sheet, _ = await meridian(capsys, bench.file, "--by", "outcome", "--csv", "--since", "1d")
    (row,) = csv.DictReader(io.StringIO(sheet))
    assert row == {
        "outcome": "ok",
        "attempts": "1",
        "input_tokens": "100",
        "cached_tokens": "0",
        "output_tokens": "10",
        "usd": "0.000280000",
    }
    (bench.file.parent / "ledger" / "view.sqlite").unlink()
    assert await meridian(capsys, bench.file) == (0, table, "")
    assert await meridian(capsys, bench.file, "--rebuild") == (0, table, "")
    bench.nats.kill()
    code, out, err = await meridian(capsys, bench.file)
    assert (code, out) == (1, table)
    assert "us-east: its newest bills are missing" in err


async def test_while_the_log_server_is_down_callers_notice_nothing_and_bills_follow(bench: Bench) -> None:
    bench.nats.kill()
    for _ in range(5):
        assert b"Answered" in await bench.ask()
    bench.nats.start()
    assert len(await until_billed(bench.nats, 5)) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "tenant,colour"], "there are: tenant, model, day"),
        (["--since", "yesterdy"], "as in 2026-11-01"),
        (["--since", "today", "--until", "2020-01-01"], "is after --until"),
        (["--json", "--csv"], "exclude each other"),
    ],
)
async def test_what_cannot_be_meant_is_said_with_what_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    path = tmp_path / "m.yaml"
    places = "{us-east: {log: {kind: jetstream, urls: ['nats://127.0.0.1:1']}}}"
    await asyncio.to_thread(
        path.write_text, f"region: us-east\ntenants: {{pepper: 'env:P'}}\nregions: {{places: {places}}}\n"
    )
    code, _, err = await meridian(capsys, path, *arguments)
    assert code == 2
    assert said in err


async def test_without_regions_there_is_no_ledger_and_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.yaml"
    await asyncio.to_thread(path.write_text, "region: us-east\ntenants: {pepper: 'env:P'}\n")
    code, _, err = await meridian(capsys, path)
    assert code == 2
    assert "keeps no ledger" in err
