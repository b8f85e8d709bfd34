"""The budget around the models: what is set aside, what is settled, what a tenant over its budget gets."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any, Final

import pytest
import structlog

from gateway.allowances import Budget, OverBudget
from gateway.budgets import Budgets
from gateway.catalogue import SEED_MODELS
from gateway.context import RequestContext
from gateway.data import word_rates
from gateway.errors import GatewayError, QuotaExceeded
from gateway.messages import ChatRequest, RagMode
from gateway.policies.sparse import SparseEncoder
from gateway.routes import Route, Routes, Upstream
from gateway.stages.base import ChatHandler, Stage, compose
from gateway.stages.budget import KeepToBudget, TurnAway, estimated_usd
from gateway.stages.degrade import DegradeToSnippets
from gateway.stages.metering import spent_usd
from gateway.stream import EventStream
from gateway.tenants import Tenant
from regions.names import RegionId
from regions.registers.memory import MemoryRegisters
from tests.fakes.provider import ROLE, Step, answer, chunk
from tests.gateway.stages.chains import Rig, attempts, context, passages, request, rig, text_of

HOME: Final = RegionId("us-east")
TENANT: Final = "tenant0000000001"
WELL: Final = "Answered well."
CHEAPER: Final = {"tier": "cheaper", "model": "glm-4-plus"}
GPT: Final = Upstream("m/0", "gpt-4o", SEED_MODELS["gpt-4o"])
USD: Final = (100 * 2.5 + 10 * 10) / 1e6
"""What an answer of the scripted provider costs."""


@asynccontextmanager
async def budgeted(made: Rig, registers: MemoryRegisters) -> AsyncIterator[tuple[ChatHandler, Budgets]]:
    """Degrade, the budget and the rig's chain, as in the chat pipeline."""
    budgets = Budgets(
        "run",
        HOME,
        {HOME: registers},
        default_home=HOME,
        now=lambda _: 1_795_000_000.0,
        log=structlog.stdlib.get_logger(),
        rng=Random(1),
    )
    routes = Routes({"m": Route("m", [GPT])})
    degrade = DegradeToSnippets(SparseEncoder(word_rates()), lambda: 0.0)
    async with budgets.running():
        stages: list[Stage[ChatRequest, EventStream]] = [
            degrade,
            KeepToBudget(budgets, routes, answer_tokens=100),
        ]
        yield compose(stages, made.chain), budgets


def within(usd: float, **more: Any) -> RequestContext:
    budget = Budget(monthly_usd=usd, **more)
    return dataclasses.replace(context(), tenant=Tenant(id=TENANT, name="t", budget=budget))


def grounded(**more: Any) -> ChatRequest:
    return request(RagMode.AUTO, **more).with_passages(passages(3, 10))


@asynccontextmanager
async def one(*upstreams: dict[str, Any]) -> AsyncIterator[tuple[Rig, ChatHandler, Budgets, MemoryRegisters]]:
    async with AsyncExitStack() as stack:
        made, registers = await stack.enter_async_context(rig(*(upstreams or ({},)))), MemoryRegisters()
        chat, budgets = await stack.enter_async_context(budgeted(made, registers))
        yield made, chat, budgets, registers


def spent(budgets: Budgets) -> float:
    (found,) = budgets.spending()
    return found.ratio * found.budget_usd


async def test_an_answer_is_settled_with_what_it_cost_once_it_has_ended() -> None:
    async with one() as (_, chat, budgets, _):
        ctx = within(1.0)
        answered = await chat(ctx, grounded())
        assert spent(budgets) == 0
        assert await text_of(answered) == WELL
        assert spent(budgets) == pytest.approx(USD) == spent_usd(ctx)


async def test_attempts_that_broke_are_paid_for_too() -> None:
    async with one({}, CHEAPER) as (made, chat, budgets, _):
        made.providers[0].steps = [Step([ROLE, chunk({"content": "Half an answer"})], cut=True)]
        ctx = dataclasses.replace(within(1.0), is_whole=True)
        await text_of(await chat(ctx, grounded()))
        assert [outcome for _, outcome in attempts(ctx)] == ["unavailable", "ok"]
        costs = [n.details["cost_usd"] for n in ctx.trail.notes if n.name == "attempt"]
        assert min(costs) > 0
        assert spent(budgets) == pytest.approx(sum(costs))


async def test_a_caller_that_leaves_pays_for_what_was_made_for_it() -> None:
    async with one() as (made, chat, budgets, _):
        made.providers[0].steps = [Step(answer("Answered", " well.")[:-3], hold=True)]
        ctx = within(1.0)
        answered = await chat(ctx, grounded())
        await answered.aclose()
        assert attempts(ctx) == [("m/0", "left")]
        assert 0 < spent(budgets) == pytest.approx(spent_usd(ctx))


async def test_a_failed_request_gives_back_what_was_set_aside() -> None:
    async with one() as (made, chat, budgets, _):
        made.providers[0].steps = [Step(status=500)] * 3
        with pytest.raises(GatewayError):
            await chat(within(1.0), request(RagMode.OFF))
        (found,) = budgets.spending()
        assert spent(budgets) == 0
        assert found.lease_usd > 0


async def test_from_the_soft_threshold_on_answers_begin_with_the_cheaper() -> None:
    async with one({}, CHEAPER) as (made, chat, _, _):
        limit = 10 * USD
        ctx = within(limit, soft_ratio=0.09)
        await text_of(await chat(ctx, grounded(max_tokens=1)))
        assert made.seen == [1, 0]
        ctx = within(limit, soft_ratio=0.09)
        await text_of(await chat(ctx, grounded(max_tokens=1)))
        assert made.seen == [1, 1]
        assert ctx.trail.last("economy")["spent_ratio"] == pytest.approx(0.1)


async def test_over_its_budget_a_tenant_gets_excerpts_that_say_so_and_no_model_is_asked() -> None:
    async with one() as (made, chat, _, _):
        answered = await chat(within(0.0001), grounded())
        assert answered.facts.degraded is not None
        assert str(answered.facts.degraded) == "snippets; reason=budget"
        assert "[1]" in await text_of(answered)
        assert made.seen == [0]


async def test_a_home_that_is_away_is_told_from_a_budget_that_is_spent() -> None:
    async with one() as (made, chat, _, registers):
        registers.go_down()
        ctx = within(1.0)
        answered = await chat(ctx, grounded())
        assert str(answered.facts.degraded) == "snippets; reason=budget_unreachable"
        assert ctx.trail.last("over_budget")["reason"] == "budget_unreachable"
        await answered.aclose()
        assert made.seen == [0]
        registers.come_up()


@pytest.mark.parametrize(
    ("over", "asked"),
    [
        (OverBudget.REFUSE, grounded()),
        (OverBudget.SNIPPETS, request(RagMode.OFF)),
        (OverBudget.SNIPPETS, grounded(response_format={"type": "json_object"})),
    ],
)
async def test_where_an_excerpt_is_not_wanted_or_no_answer_it_is_a_refusal(
    over: OverBudget, asked: ChatRequest
) -> None:
    async with one() as (made, chat, _, _):
        with pytest.raises(QuotaExceeded, match="the next month begins on 2026-12-01"):
            await chat(within(0.0001, over=over), asked)
        assert made.seen == [0]


async def test_who_is_refused_again_and_gets_no_excerpt_causes_no_retrieval() -> None:
    async with one() as (_, chat, budgets, _):
        retrievals: list[ChatRequest] = []

        async def retrieve(ctx: RequestContext, asking: ChatRequest) -> EventStream:
            retrievals.append(asking)
            return await chat(ctx, asking.with_passages(passages(3, 10)))

        door = compose([TurnAway(budgets, Routes({"m": Route("m", [GPT])}), answer_tokens=100)], retrieve)
        for _ in range(3):
            with pytest.raises(QuotaExceeded):
                await door(within(0.0001, over=OverBudget.REFUSE), request(RagMode.AUTO))
        assert len(retrievals) == 1
        await (await door(within(0.0001), request(RagMode.AUTO))).aclose()
        assert len(retrievals) == 2
        assert budgets.spending()[0].refusals == {"budget": 4}


async def test_fifty_callers_at_once_cost_no_more_than_the_budget() -> None:
    async with one() as (made, chat, budgets, _):
        limit = 20.5 * estimated_usd(grounded(max_tokens=1_000), [GPT], 100)
        everybody = asyncio.Barrier(50)
        answers = await asyncio.gather(
            *(asked(chat, within(limit), grounded(max_tokens=1_000), everybody) for _ in range(50))
        )
        assert made.seen == [20]
        assert sum(answers) == 20
        assert spent(budgets) == pytest.approx(20 * USD)


async def asked(
    chat: ChatHandler, ctx: RequestContext, asking: ChatRequest, everybody: asyncio.Barrier
) -> bool:
    """Whether a model answered; the answer is read once everybody has one."""
    answered = await chat(ctx, asking)
    await everybody.wait()
    await text_of(answered)
    return answered.facts.degraded is None


async def test_who_has_no_budget_is_not_counted() -> None:
    async with one() as (_, chat, budgets, _):
        assert await text_of(await chat(context(), grounded())) == WELL
        assert budgets.spending() == []


def test_an_estimate_bounds_the_cost_of_one_attempt() -> None:
    asking = grounded(max_tokens=50, n=2)
    usd = estimated_usd(asking, [GPT], 100)
    assert usd >= 2 * 50 * 10 / 1e6
    long = request(RagMode.OFF, text="word " * 1_000_000)
    window_usd = GPT.card.window_tokens * 2.5 / 1e6
    assert estimated_usd(long, [GPT], 100) == pytest.approx(window_usd + 100 * 10 / 1e6)
    assert estimated_usd(asking, [], 100) == 0
