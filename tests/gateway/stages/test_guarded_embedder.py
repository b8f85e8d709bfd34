"""One embedding model at two endpoints: who is asked when one fails, and what is held against it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp.test_utils import TestServer

from gateway.embedders.openai import Config, OpenAIEmbedder, build
from gateway.errors import (
    BadRequest,
    CircuitOpen,
    GatewayError,
    Overloaded,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.policies.breaker import Breakers, BreakerTerms, State
from gateway.stages.guarded_embedder import GuardedEmbedder
from tests.fakes.embeddings import DIMENSION, ScriptedEmbeddings

TERMS = BreakerTerms()


@dataclass
class Rig:
    """An embedder of two endpoints; time stands still unless `skip`ped."""

    embedder: GuardedEmbedder
    first: ScriptedEmbeddings
    second: ScriptedEmbeddings
    breakers: Breakers
    skipped_s: float = 0.0

    def clock(self) -> float:
        return asyncio.get_running_loop().time() + self.skipped_s

    async def ask(self, *, left_s: float = 5.0, text: str = "a question") -> None:
        await self.embedder.embed([text], kind="query", timeout_s=left_s)

    async def failing(self, times: int, error: type[GatewayError]) -> None:
        for _ in range(times):
            with pytest.raises(error):
                await self.ask()

    @property
    def states(self) -> list[State]:
        return list(self.breakers.states(self.clock()).values())


async def endpoint(script: ScriptedEmbeddings, stack: AsyncExitStack, **more: int) -> OpenAIEmbedder:
    server = await stack.enter_async_context(
        TestServer(script.application(), handler_cancellation=True, shutdown_timeout=0.1)
    )
    config = Config.model_validate(
        {"base_url": str(server.make_url("/v1")), "model": "m", "dimension": DIMENSION, **more}
    )
    return build(config, "it", str)


@asynccontextmanager
async def rig(*, query_s: float = 2.0) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        first, second = ScriptedEmbeddings(), ScriptedEmbeddings()
        endpoints = [await endpoint(script, stack) for script in (first, second)]
        breakers = Breakers(TERMS)
        made: Rig
        embedder = GuardedEmbedder(
            "it", endpoints, query_s=query_s, breakers=breakers, clock=lambda: made.clock()
        )
        made = Rig(embedder, first, second, breakers)
        stack.push_async_callback(embedder.close)
        await embedder.start()
        yield made


async def test_while_the_first_is_well_the_second_is_not_asked() -> None:
    async with rig() as it:
        await it.ask()
        assert (it.first.asked, it.second.asked) == (1, 0)


@pytest.mark.parametrize("status", [500, 429, 401, 404])
async def test_the_second_answers_for_the_first_which_is_soon_left_alone_and_tried_again_later(
    status: int,
) -> None:
    async with rig() as it:
        it.first.status = status
        for _ in range(20):
            await it.ask()
        assert (it.first.asked, it.second.asked) == (TERMS.min_failures, 20)
        it.skipped_s += TERMS.open_s
        await it.ask()
        assert it.first.asked == TERMS.min_failures + 1
        it.skipped_s += TERMS.open_s
        it.first.status = 200
        await it.ask()
        await it.ask()
        assert (it.first.asked, it.second.asked) == (TERMS.min_failures + 3, 21)


async def test_a_silent_endpoint_is_given_up_for_the_next_after_what_a_question_may_wait() -> None:
    async with rig(query_s=0.05) as it:
        it.first.is_silent = True
        for _ in range(TERMS.min_failures + 3):
            await it.ask()
        assert it.first.asked == TERMS.min_failures
        assert it.states == [State.OPEN, State.CLOSED]


async def test_a_caller_in_haste_opens_no_breaker() -> None:
    async with rig() as it:
        it.first.is_silent = it.second.is_silent = True
        for _ in range(TERMS.min_failures + 3):
            with pytest.raises(UpstreamTimeout):
                await it.ask(left_s=0.02)
        assert it.states == [State.CLOSED, State.CLOSED]


async def test_passages_may_take_long_without_opening_a_breaker() -> None:
    async with rig(query_s=0.01) as it:
        it.first.is_silent = it.second.is_silent = True
        for _ in range(TERMS.min_failures + 3):
            with pytest.raises(UpstreamTimeout):
                await it.embedder.embed(["a"], kind="passage", timeout_s=0.04)
        assert it.states == [State.CLOSED, State.CLOSED]


async def test_a_caller_that_leaves_opens_no_breaker() -> None:
    async with rig() as it:
        it.first.is_silent = True
        for _ in range(TERMS.min_failures + 3):
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(it.ask())
                await it.first.arrived.acquire()
                asking.cancel()
        assert it.states == [State.CLOSED, State.CLOSED]


async def test_when_both_fail_neither_is_asked_any_more_and_the_wait_is_said() -> None:
    async with rig() as it:
        it.first.status = it.second.status = 503
        it.second.headers = {"Retry-After": "100"}
        await it.failing(TERMS.min_failures, UpstreamUnavailable)
        with pytest.raises(CircuitOpen) as caught:
            await it.ask()
        assert caught.value.retry_after_s == pytest.approx(TERMS.open_s, abs=1)
        assert (it.first.asked, it.second.asked) == (TERMS.min_failures, TERMS.min_failures)
        it.skipped_s += TERMS.open_s
        assert it.states == [State.HALF_OPEN, State.OPEN], "Retry-After lengthens the time"


async def test_texts_that_one_endpoint_refuses_are_not_shown_to_another() -> None:
    async with rig() as it:
        it.first.status = 400
        await it.failing(TERMS.min_failures + 3, UpstreamRejected)
        with pytest.raises(BadRequest):
            await it.ask(text="")
        assert (it.second.asked, it.states) == (0, [State.CLOSED, State.CLOSED])


async def test_our_own_full_queue_is_no_fault_of_an_endpoint() -> None:
    async with AsyncExitStack() as stack:
        script = ScriptedEmbeddings(is_silent=True)
        only, breakers = await endpoint(script, stack, max_in_flight=1), Breakers(TERMS)
        loop = asyncio.get_running_loop()
        embedder = GuardedEmbedder("it", [only], query_s=2, breakers=breakers, clock=loop.time)
        stack.push_async_callback(embedder.close)
        await embedder.start()
        async with asyncio.TaskGroup() as group:
            working = group.create_task(embedder.embed(["a"], kind="passage", timeout_s=5))
            await script.arrived.acquire()
            for _ in range(TERMS.min_failures + 3):
                with pytest.raises(Overloaded):
                    await embedder.embed(["a"], kind="passage", timeout_s=5)
            working.cancel()
        assert breakers.states(loop.time()) == {"embedder/it": State.CLOSED}


async def test_endpoints_whose_vectors_cannot_be_compared_are_no_embedder() -> None:
    async with AsyncExitStack() as stack:
        made = [await endpoint(ScriptedEmbeddings(), stack, dimension=dimension) for dimension in (8, 9)]
        with pytest.raises(ValueError, match="one version"):
            GuardedEmbedder("it", made, query_s=1, breakers=Breakers(), clock=lambda: 0.0)
