"""Budgets over a real log server: a cut link, a home that hangs, a holder that is killed; the command."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio
import structlog
import yaml
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from gateway.allowances import Budget
from gateway.budgets import CALL_S, UNREACHABLE, Budgets
from gateway.cli import _app
from gateway.errors import QuotaExceeded
from gateway.policies.budget import Account, decode, key_of
from regions.errors import ConfigError
from regions.names import RegionId
from regions.registers.jetstream import Config, JetStreamRegisters
from regions.runtime import lifecycle
from tests.contracts.nats_process import NatsProcess
from tests.fakes.provider import ScriptedProvider
from tests.fakes.relay import Relay
from tests.gateway.running import TENANT, running_gateway, tenants_file

pytestmark = pytest.mark.asyncio(loop_scope="module")

US, EU, AP = RegionId("us-east"), RegionId("eu-west"), RegionId("ap-southeast")
BUDGET = Budget(monthly_usd=10.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsProcess]:
    server = NatsProcess(tmp_path_factory.mktemp("home"))
    server.start()
    yield server
    server.kill()


async def gateway(stack: AsyncExitStack, region: RegionId, url: str) -> Budgets:
    registers = JetStreamRegisters(Config(urls=[url]), region=US, token=None)
    stack.push_async_callback(registers.close)
    await registers.start()
    budgets = Budgets(
        f"{region}-run",
        region,
        {US: registers},
        default_home=US,
        now=lambda _: lifecycle.wall_clock(),
        log=structlog.stdlib.get_logger(),
        rng=Random(1),
    )
    return await stack.enter_async_context(budgets.running())


async def spend_all(budgets: Budgets, tenant: str, usd: float, at_most: int = 100_000) -> tuple[float, str]:
    """Spend in such steps until refused: how much it was, and the reason ("": as often as wanted)."""
    for number in range(at_most):
        try:
            held = await budgets.reserve(tenant, BUDGET, usd, wait_s=5.0)
        except QuotaExceeded as error:
            return number * usd, error.reason
        held.settle(usd)
    return at_most * usd, ""


async def account(url: str, tenant: str) -> Account:
    registers = JetStreamRegisters(Config(urls=[url]), region=US, token=None)
    found = await registers.get(key_of(tenant), timeout_s=2)
    await registers.close()
    assert found is not None
    return decode(found.value)


async def test_a_region_behind_a_cut_link_spends_its_lease_while_the_others_spend_the_rest(
    home: NatsProcess,
) -> None:
    tenant = "tenantwithcutoff"
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(Relay.open(home.port))
        far = await gateway(stack, AP, link.url)
        near = [await gateway(stack, region, home.url) for region in (US, EU)]
        begun = [await spend_all(each, tenant, 0.1, at_most=3) for each in (far, *near)]
        link.swallows_requests = link.swallows_answers = True
        leased_usd = (await account(home.url, tenant)).leases[f"{AP}-run"].granted_usd
        by_far, *by_near = await asyncio.gather(
            spend_all(far, tenant, 0.001), *(spend_all(each, tenant, 0.01) for each in near)
        )
        assert by_far[1] == UNREACHABLE
        assert {reason for _, reason in by_near} == {"budget"}
        assert begun[0][0] + by_far[0] <= leased_usd + 1e-9
        total_usd = sum(usd for usd, _ in (*begun, by_far, *by_near))
        assert 9.0 <= total_usd <= 10.0 + 1e-9
        await link.cut()


async def test_a_home_that_hangs_is_waited_for_once_and_by_nobody_for_long(home: NatsProcess) -> None:
    tenant, loop = "tenantwithhanger", asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        budgets = await gateway(stack, EU, home.url)
        await spend_all(budgets, tenant, 0.01, at_most=1)
        home.pause()
        try:
            took_s = []
            for _ in range(3):
                begun_s = loop.time()
                _, reason = await spend_all(budgets, tenant, 0.1)
                took_s.append(loop.time() - begun_s)
                assert reason == UNREACHABLE
            assert max(took_s) < CALL_S + 0.5
            assert sorted(took_s)[1] < 0.5
        finally:
            home.resume()
        async with asyncio.timeout(10):
            while (await spend_all(budgets, tenant, 0.1, at_most=1))[1]:  # noqa: ASYNC110 - another process wakes up
                await asyncio.sleep(0.05)


async def test_what_a_killed_holder_may_have_spent_stays_spent(home: NatsProcess) -> None:
    tenant = "tenantwithkilled"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.spender", home.url, tenant, "10.0", "0.0001"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        for _ in range(300):
            await process.stdout.readline()
        process.kill()
        lines = (await process.stdout.read()).decode().splitlines()
        await process.wait()
    by_killed_usd = float(lines[-1]) if lines else 0.03
    left = await account(home.url, tenant)
    assert by_killed_usd <= left.counted_usd + 1e-9
    async with AsyncExitStack() as stack:
        heir = await gateway(stack, EU, home.url)
        by_heir_usd, reason = await spend_all(heir, tenant, 0.01)
    assert reason == "budget"
    assert by_killed_usd + by_heir_usd <= BUDGET.monthly_usd + 1e-9
    assert by_heir_usd >= BUDGET.monthly_usd - left.counted_usd - 0.02


async def test_budgets_are_listed_by_asking_their_accounts(home: NatsProcess, tmp_path: Path) -> None:
    tenant = "tenantwithbudget"
    file = tmp_path / "meridian.yaml"
    place = {"log": {"kind": "jetstream", "urls": [home.url]}}
    file.write_text(
        yaml.safe_dump(
            {"region": US, "tenants": {"pepper": "env:P"}, "regions": {"places": {str(US): place}}}
        )
    )
    budget = {"monthly_usd": 10.0}
    (tmp_path / "tenants.yaml").write_text(
        yaml.safe_dump({"tenants": [{"id": tenant, "name": "The tenant", "budget": budget}]})
    )
    async with AsyncExitStack() as stack:
        budgets = await gateway(stack, EU, home.url)
        await spend_all(budgets, tenant, 1.0, at_most=2)
        (listed,) = json.loads(await meridian("budgets", "list", "-c", str(file), "--json"))
        assert listed["problem"] == ""
        assert listed["spent_usd"] + listed["leased_usd"][EU] + listed["left_usd"] == pytest.approx(10.0)
        assert tenant in await meridian("budgets", "list", "-c", str(file))
        assert f"{EU}-run" in await meridian("budgets", "show", tenant, "-c", str(file))
    shown = json.loads(await meridian("budgets", "show", tenant, "-c", str(file), "--json"))
    assert (shown["spent_usd"], shown["left_usd"], shown["leases"]) == (2.0, 8.0, [])


async def meridian(*args: str) -> str:
    """What the command says, run beside this loop."""
    done = await asyncio.to_thread(CliRunner().invoke, _app(args[0]), args)
    assert done.exit_code == 0, done.output
    return done.output


async def test_a_gateway_answers_within_the_budget_refuses_beyond_it_and_follows_its_file(
    home: NatsProcess, tmp_path: Path
) -> None:
    provider = ScriptedProvider()
    write_tenants(tmp_path, {"monthly_usd": 0.002, "over": "refuse"})
    async with TestServer(provider.application()) as server:
        upstream = {"kind": "openai", "model": "gpt-4o", "base_url": str(server.make_url("/v1"))}
        place = {"log": {"kind": "jetstream", "urls": [home.url]}}
        config = {
            "models": {"m": {"upstreams": [upstream]}},
            "regions": {"places": {str(US): place}},
        }
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
        async with running_gateway(tmp_path, config, tmp_path / "meridian.yaml") as made:
            statuses = []
            while 429 not in statuses:
                async with made.session.post(f"{made.url}/v1/chat/completions", json=body) as response:
                    statuses.append(response.status)
                    told = await response.json()
            paid = len(provider.seen)
            async with made.session.get(f"{made.operators_url}/metrics") as response:
                metrics = await response.text()
            write_tenants(tmp_path, {"monthly_usd": 1.0})
            async with asyncio.timeout(10):
                while statuses[-1] == 429:
                    async with made.session.post(f"{made.url}/v1/chat/completions", json=body) as response:
                        statuses.append(response.status)
    assert told["error"]["type"] == told["error"]["code"] == "insufficient_quota"
    assert statuses[: paid + 1] == [*[200] * paid, 429]
    assert 4 <= paid <= 6, "each costs USD 0.00035"
    assert statuses[-1] == 200, "the budget was raised"
    assert f'meridian_budget_usd{{tenant="{TENANT}"}} 0.002' in metrics
    assert f'meridian_budget_refusals_total{{reason="budget",tenant="{TENANT}"}} 1.0' in metrics
    assert (await account(home.url, TENANT)).counted_usd == pytest.approx(len(provider.seen) * 0.00035)


@pytest.mark.parametrize("places", [{}, {"regions": {"places": {"us-east": None}}}])
async def test_a_budget_without_a_place_for_its_account_stops_the_start(
    home: NatsProcess, tmp_path: Path, places: dict[str, Any]
) -> None:
    write_tenants(tmp_path, {"monthly_usd": 1, "home": "nowhere"})
    for each in places.values():
        each["places"]["us-east"] = {"log": {"kind": "jetstream", "urls": [home.url]}}
    with pytest.raises(BaseExceptionGroup) as raised:
        async with running_gateway(tmp_path, places):
            raise AssertionError("it serves")
    (problem,) = leaves(raised.value)
    assert isinstance(problem, ConfigError)
    assert "tenants.0.budget" in str(problem)


def write_tenants(directory: Path, budget: dict[str, Any]) -> None:
    tenants_file(directory)
    tenants = yaml.safe_load((directory / "tenants.yaml").read_text())
    tenants["tenants"][0]["budget"] = budget
    (directory / "tenants.yaml").write_text(yaml.safe_dump(tenants))


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found = [leaves(e) if isinstance(e, BaseExceptionGroup) else [e] for e in group.exceptions]
    return [each for some in found for each in some]
