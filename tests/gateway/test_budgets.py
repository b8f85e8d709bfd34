"""Budgets as gateways keep them: several processes, one account, registers that come and go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Final

import pytest
import structlog

from gateway.allowances import Budget
from gateway.budget_metrics import BudgetMetrics
from gateway.budgets import UNREACHABLE, Budgets
from gateway.errors import QuotaExceeded
from gateway.policies.budget import Account, decode, key_of
from regions.names import RegionId
from regions.registers.memory import MemoryRegisters

REGIONS: Final = tuple(RegionId(r) for r in ("us-east", "eu-west", "ap-southeast"))
HOME: Final = REGIONS[0]
TENANT: Final = "tenant0000000001"
BUDGET: Final = Budget(monthly_usd=10.0)
NOW_S: Final = datetime(2026, 11, 15, tzinfo=UTC).timestamp()


@dataclass
class Rig:
    """A gateway in each region, and the registers of all."""

    gateways: list[Budgets]
    registers: dict[RegionId, MemoryRegisters]

    async def account(self) -> Account:
        found = await self.registers[HOME].get(key_of(TENANT), timeout_s=1)
        assert found is not None
        return decode(found.value)


@asynccontextmanager
async def rig(stack: AsyncExitStack | None = None) -> AsyncIterator[Rig]:
    registers = {region: MemoryRegisters() for region in REGIONS}
    async with AsyncExitStack() as own:
        gateways = [
            await (stack or own).enter_async_context(gateway(f"{region}-run", region, registers).running())
            for region in REGIONS
        ]
        yield Rig(gateways, registers)


def gateway(holder: str, region: RegionId, registers: dict[RegionId, MemoryRegisters]) -> Budgets:
    start_s = asyncio.get_running_loop().time()
    return Budgets(
        holder,
        region,
        registers,
        default_home=HOME,
        now=lambda _: NOW_S + asyncio.get_running_loop().time() - start_s,
        log=structlog.stdlib.get_logger(),
        rng=Random(1),
    )


async def spend(budgets: Budgets, usd: float, *, budget: Budget = BUDGET, cost: float = 1.0) -> float:
    """Set aside so much and settle a share of it; what it cost. Raises: QuotaExceeded."""
    held = await budgets.reserve(TENANT, budget, usd, wait_s=2.0)
    await asyncio.sleep(0)
    held.settle(usd * cost)
    return usd * cost


async def spend_all(budgets: Budgets, usd: float) -> tuple[float, str]:
    """Spend in such steps until refused: how much it was, and the reason."""
    total_usd = 0.0
    while True:
        try:
            total_usd += await spend(budgets, usd)
        except QuotaExceeded as error:
            return total_usd, error.reason


async def test_the_first_request_waits_for_a_lease_and_the_next_need_no_register() -> None:
    async with rig() as made:
        await spend(made.gateways[0], 0.001)
        made.registers[HOME].go_down()
        assert await spend(made.gateways[0], 0.001) == 0.001
        made.registers[HOME].come_up()


async def test_three_regions_at_once_spend_the_budget_and_not_a_cent_more() -> None:
    async with rig() as made:
        spent = await asyncio.gather(*(spend_all(g, 0.03) for g in made.gateways for _ in range(5)))
    assert {reason for _, reason in spent} == {"budget"}
    assert BUDGET.monthly_usd - 0.1 <= sum(usd for usd, _ in spent) <= BUDGET.monthly_usd + 1e-9


async def test_regions_cut_off_from_the_home_spend_their_leases_and_the_others_spend_the_rest() -> None:
    async with rig() as made:
        await asyncio.gather(*(spend(g, 0.2) for g in made.gateways))
        leased_usd = (await made.account()).counted_usd
        made.registers[HOME].go_down()
        cut_off = await asyncio.gather(*(spend_all(g, 0.0005) for g in made.gateways[1:]))
        assert {reason for _, reason in cut_off} == {UNREACHABLE}
        assert 0.6 + sum(usd for usd, _ in cut_off) <= leased_usd + 1e-9
        made.registers[HOME].come_up()
        rest_usd, reason = await spend_all(made.gateways[0], 0.01)
        assert reason == "budget"
        total_usd = 0.6 + rest_usd + sum(usd for usd, _ in cut_off)
        assert total_usd <= BUDGET.monthly_usd + 1e-9
        assert total_usd >= BUDGET.monthly_usd - 0.1


async def test_a_gateway_that_stops_settles_what_it_spent_and_gives_the_rest_back() -> None:
    async with AsyncExitStack() as stack:
        async with rig(stack) as made:
            await spend(made.gateways[0], 1.0, cost=0.25)
            assert (await made.account()).counted_usd > 0.25
            await stack.aclose()
        account = await made.account()
    assert account.leases == {}
    assert account.counted_usd == pytest.approx(0.25)


async def test_a_home_that_never_answered_is_told_from_a_budget_that_is_spent() -> None:
    async with rig() as made:
        made.registers[HOME].go_down()
        for _ in range(2):
            with pytest.raises(QuotaExceeded) as raised:
                await spend(made.gateways[1], 0.1)
            assert raised.value.reason == UNREACHABLE
            assert HOME in raised.value.detail
        made.registers[HOME].come_up()


async def test_a_refused_tenant_spends_again_as_soon_as_its_budget_is_raised() -> None:
    async with rig() as made:
        await spend_all(made.gateways[0], 1.0)
        with pytest.raises(QuotaExceeded, match="2026-12-01"):
            await spend(made.gateways[0], 1.0)
        await spend(made.gateways[0], 1.0, budget=Budget(monthly_usd=12.0))


async def test_an_answer_cheaper_than_its_estimate_leaves_the_difference_to_the_next() -> None:
    async with rig() as made:
        for _ in range(19):
            await spend(made.gateways[0], 5.0, cost=0.05)
        await spend(made.gateways[0], 5.0)
        with pytest.raises(QuotaExceeded):
            await spend(made.gateways[0], 5.0)


async def test_what_is_known_of_spending_shows_as_metrics() -> None:
    async with rig() as made:
        await spend(made.gateways[0], 2.5)
        with pytest.raises(QuotaExceeded):
            await spend(made.gateways[0], 9.0)
        families = BudgetMetrics(made.gateways[0].spending).collect()
        samples = {s.name: (s.labels, s.value) for family in families for s in family.samples}
    assert samples["meridian_budget_usd"] == ({"tenant": TENANT}, 10.0)
    assert samples["meridian_budget_spent_ratio"][1] == pytest.approx(0.25)
    assert samples["meridian_budget_home_up"][1] == 1
    assert samples["meridian_budget_lease_usd"][1] <= 7.5
    assert samples["meridian_budget_refusals_total"] == ({"tenant": TENANT, "reason": "budget"}, 1)


async def test_a_tenant_whose_account_was_moved_is_told_of_once() -> None:
    async with rig() as made:
        await spend(made.gateways[0], 2.5)
        await spend(made.gateways[0], 1.0, budget=Budget(monthly_usd=10.0, home=REGIONS[1]))
        assert [each.ratio for each in made.gateways[0].spending()] == [pytest.approx(0.1)]


async def test_what_others_spent_is_known_after_the_next_exchange() -> None:
    async with rig() as made:
        await spend(made.gateways[0], 5.0)
        await spend(made.gateways[0], 1.0)  # needs a larger lease, and so tells of the 5.0
        await spend(made.gateways[1], 0.1)
        assert made.gateways[1].known_ratio(TENANT, BUDGET) == pytest.approx(0.51)
