"""The chain over real sockets: who is asked, what the caller sees of it, and what it cost."""

import asyncio
from typing import Any

import msgspec
import pytest

from gateway.errors import (
    CircuitOpen,
    ContextTooLong,
    DeadlineExceeded,
    GatewayError,
    UpstreamProtocolError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.messages import RagMode
from gateway.policies.breaker import State
from gateway.stages.attempt import MAX_HELD_BYTES
from tests.fakes.provider import DONE, ROLE, Step, answer, chunk, usage_chunk
from tests.gateway.stages.chains import attempts, context, passages, request, rig, text_of

WELL = "Answered well."
HALF = chunk({"content": "Half an answer"})
CHEAPER = {"tier": "cheaper", "model": "glm-4-plus"}
DEAD = Step(status=503)


def error(code: str, status: int = 400, **headers: str) -> Step:
    body = msgspec.json.encode({"error": {"message": "no", "type": "x", "param": None, "code": code}})
    named = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return Step([body], status=status, headers=named)


async def test_a_503_is_answered_by_an_equal_under_its_own_name() -> None:
    async with rig({}, {"model": "deepseek-v4-pro", "weight": 1e-9}) as r:
        r.providers[0].steps = [DEAD]
        ctx = context()
        answered = await r.chain(ctx, request())
        assert await text_of(answered) == WELL
        assert attempts(ctx) == [("m/0", "unavailable"), ("m/1", "ok")]
        assert answered.facts.model == "deepseek-v4-pro"
        assert answered.facts.usage is not None


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "step",
    [
        Step([ROLE], cut=True),
        Step([ROLE], hold=True),
        Step([b'data: {"error":{"message":"busy"}}\n\n']),
        Step([b"<html>"], headers={"Content-Type": "text/html"}),
        Step([ROLE, DONE]),
    ],
)
async def test_whatever_happens_before_content_falls_back_unseen(step: Step, stream: bool) -> None:
    async with rig({}, CHEAPER) as r:
        r.providers[0].steps = [step] * 2
        mode = RagMode.OFF if stream else RagMode.AUTO
        assert await text_of(await r.chain(context(), request(mode, stream=stream))) == WELL


async def test_what_breaks_in_the_middle_is_restarted_where_it_is_held_back() -> None:
    async with rig({}, CHEAPER, max_attempts=3) as r:
        r.providers[0].steps = [Step([ROLE, HALF], cut=True), Step([ROLE, HALF, DONE])]
        ctx = context(is_whole=True)
        answered = await r.chain(ctx, request())
        assert await text_of(answered) == WELL
        outcomes = attempts(ctx)
        assert outcomes == [("m/0", "unavailable"), ("m/0", "unavailable"), ("m/1", "ok")]
        # What the broken ones had sent is paid for, and is no part of the answer's usage.
        costs = [n.details["cost_usd"] for n in ctx.trail.notes if n.name == "attempt"]
        assert all(cost > 0 for cost in costs)
        assert answered.facts.cost_usd == pytest.approx(sum(costs))
        assert answered.facts.usage is not None
        assert answered.facts.usage.input_tokens == 100


async def test_what_breaks_in_the_middle_of_a_live_stream_is_told() -> None:
    async with rig({}, CHEAPER) as r:
        r.providers[0].steps = [Step([ROLE, HALF], cut=True)]
        ctx = context()
        answered = await r.chain(ctx, request())
        with pytest.raises(UpstreamUnavailable):
            await text_of(answered)
        assert attempts(ctx) == [("m/0", "unavailable")]
        assert r.seen == [1, 0]


@pytest.mark.parametrize(
    "step", [Step([ROLE, HALF], hold=True), Step([ROLE, HALF, *[ROLE] * 50], gap_s=0.05)]
)
async def test_a_live_stream_that_stalls_is_ended_also_behind_empty_chunks(step: Step) -> None:
    async with rig({}, max_attempts=1) as r:
        r.providers[0].steps = [step]
        answered = await r.chain(context(), request())
        with pytest.raises(UpstreamTimeout, match="gap"):
            await text_of(answered)


async def test_an_answer_longer_than_may_be_held_back_is_no_answer() -> None:
    async with rig({}, max_attempts=1) as r:
        r.providers[0].steps = [Step(answer(*["word " * 40_000] * (MAX_HELD_BYTES // 200_000 + 1)))]
        with pytest.raises(UpstreamProtocolError, match="held back"):
            await r.chain(context(is_whole=True), request())


async def test_after_a_429_the_account_is_left_alone_by_the_next_requests_too() -> None:
    async with rig({}, CHEAPER) as r:
        r.providers[0].steps = [Step(status=429, headers={"Retry-After": "30"})]
        for _ in range(3):
            assert await text_of(await r.chain(context(), request())) == WELL
        assert r.seen == [1, 3]


async def test_rate_headers_turn_callers_to_another_before_the_provider_refuses() -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30s"}
    async with rig({}, CHEAPER) as r:
        r.providers[0].steps = [
            Step(answer("First."), headers={"Content-Type": "text/event-stream", **headers})
        ]
        assert await text_of(await r.chain(context(), request())) == "First."
        assert await text_of(await r.chain(context(), request())) == WELL
        assert r.seen == [1, 1]


@pytest.mark.parametrize("step", [Step(status=401), error("insufficient_quota", 429)])
async def test_an_account_that_is_refused_is_out_for_all_its_models(step: Step) -> None:
    shared = {"account": "ours"}
    async with rig(shared, {**CHEAPER, **shared}, {**CHEAPER, "model": "qwen3-32b"}) as r:
        r.providers[0].steps = [step]
        for _ in range(2):
            assert await text_of(await r.chain(context(), request())) == WELL
        assert r.seen == [1, 0, 2]
        assert r.breakers.of("m/0").state(0.0) is State.CLOSED


@pytest.mark.parametrize("step", [error("invalid_value"), error("content_filter"), error("x", 422)])
async def test_what_is_the_callers_own_is_told_in_the_providers_words_and_nobody_else_is_asked(
    step: Step,
) -> None:
    async with rig({}, CHEAPER) as r:
        r.providers[0].steps = [step]
        with pytest.raises(UpstreamRejected) as caught:
            await r.chain(context(), request())
        assert caught.value.is_callers
        assert caught.value.body == step.parts[0]
        assert r.seen == [1, 0]


async def test_an_upstream_that_says_not_to_retry_is_asked_once() -> None:
    async with rig({}) as r:
        r.providers[0].steps = [error("server_error", 500, x_should_retry="false")]
        with pytest.raises(UpstreamUnavailable):
            await r.chain(context(), request())
        assert r.seen == [1]


async def test_a_context_refused_upstream_goes_to_the_longer_window_and_ends_in_one_code() -> None:
    too_long = Step([b'{"error":{"message":"maximum context length is 10"}}'], status=400)
    async with rig({"model": "small"}, {"model": "large", "tier": "longer"}) as r:
        r.providers[0].steps = [too_long] * 2
        assert await text_of(await r.chain(context(), request())) == WELL
        r.providers[1].steps = [too_long]
        with pytest.raises(ContextTooLong) as caught:
            await r.chain(context(), request())
        assert caught.value.code == "context_length_exceeded"


async def test_a_conversation_too_long_for_the_equals_goes_to_the_longer_window_unsent() -> None:
    long_text = "word " * 3000
    async with rig({"model": "small"}, {"model": "large", "tier": "longer"}, max_attempts=1) as r:
        assert await text_of(await r.chain(context(), request(RagMode.AUTO, text=long_text))) == WELL
        assert r.seen == [0, 1]
        with pytest.raises(ContextTooLong, match="8000"):
            await r.chain(context(), request(RagMode.AUTO, text=long_text * 3))
        assert r.seen == [0, 1]


async def test_passages_fill_the_window_of_the_upstream_that_is_asked() -> None:
    async with rig({"model": "small"}, {"model": "large", "tier": "cheaper"}, max_attempts=2) as r:
        r.providers[0].steps = [Step([ROLE], hold=True)]
        ctx = context()
        asked = request(RagMode.AUTO).with_passages(passages(8, 400))
        answered = await r.chain(ctx, asked)
        sent = [p.seen[0].body["messages"][0]["content"].count("number=") for p in r.providers]
        assert sent == [2, 8]
        assert len(answered.facts.passages) == 8
        await answered.aclose()


async def test_equal_windows_are_packed_once() -> None:
    async with rig({}, {}, {}) as r:
        for provider in r.providers:
            provider.steps = [DEAD]
        ctx = context()
        with pytest.raises(UpstreamUnavailable):
            await r.chain(ctx, request(RagMode.AUTO).with_passages(passages(2, 10)))
        assert sum(r.seen) == 3
        assert len([n for n in ctx.trail.notes if n.name == "packed"]) == 1


@pytest.mark.parametrize(
    ("hint", "text", "expected"),
    [
        ("", "Who won?", [1, 0, 0]),
        ("economy", "Who won?", [0, 0, 1]),
        ("long_context", "Who won?", [0, 1, 0]),
        ("auto", "Who won?", [0, 0, 1]),
        ("auto", "Compare them. " * 60, [1, 0, 0]),
        ("auto", "word " * 3000, [0, 1, 0]),
    ],
)
@pytest.mark.parametrize("mode", [RagMode.OFF, RagMode.AUTO])
async def test_the_hint_says_where_a_request_begins(
    hint: str, text: str, expected: list[int], mode: RagMode
) -> None:
    async with rig({"model": "small"}, {"model": "large", "tier": "longer"}, CHEAPER) as r:
        await text_of(await r.chain(context(complexity=hint), request(mode, text=text)))
        assert r.seen == expected


async def test_fifty_callers_of_a_dead_model_make_no_more_than_sixty_calls() -> None:
    async with rig({}, CHEAPER) as r:
        for provider in r.providers:
            provider.steps = [DEAD] * 200
        asked = [r.chain(context(), request()) for _ in range(50)]
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(each, GatewayError) for each in ended)
        assert sum(r.seen) <= 60
        with pytest.raises(UpstreamUnavailable) as caught:
            await r.chain(context(), request())
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s > 0


async def test_fifty_callers_of_a_dead_primary_are_all_answered_by_the_other() -> None:
    async with rig({}, CHEAPER) as r:
        r.providers[0].steps = [DEAD] * 200
        asked = [r.chain(context(), request()) for _ in range(50)]
        for answered in await asyncio.gather(*asked):
            assert await text_of(answered) == WELL
        assert r.seen[0] <= 60
        assert r.seen[1] == 50


async def test_a_caller_in_a_hurry_is_told_so_and_opens_no_breaker() -> None:
    async with rig({}) as r:
        r.providers[0].steps = [Step([ROLE], hold=True)] * 8
        for _ in range(8):
            with pytest.raises(DeadlineExceeded):
                await r.chain(context(0.1), request())
        assert await text_of(await r.chain(context(), request())) == WELL


async def test_a_silent_primary_leaves_time_for_the_other_also_under_a_short_deadline() -> None:
    async with rig({}, CHEAPER) as r:
        r.providers[0].steps = [Step([ROLE], hold=True)]
        assert await text_of(await r.chain(context(0.6), request())) == WELL


async def test_a_caller_that_leaves_before_content_cancels_the_call_and_blames_nobody() -> None:
    async with rig({}) as r:
        r.providers[0].steps = [Step([ROLE], hold=True)]
        ctx = context()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await r.chain(ctx, request())
        async with asyncio.timeout(1):
            await r.providers[0].left.wait()
        assert attempts(ctx) == [("m/0", "left")]


async def test_usage_that_the_provider_does_not_tell_is_estimated_and_sent() -> None:
    async with rig({}) as r:
        r.providers[0].steps = [
            Step([ROLE, chunk({"content": "Four words of answer"}), chunk({}, "stop"), DONE])
        ]
        answered = await r.chain(context(), request())
        async with answered:
            last = [event async for event in answered][-1]
        assert last.usage is not None
        assert last.usage.output_tokens == 4
        assert last.chunk["choices"] == []
        assert last.chunk["usage"]["completion_tokens"] == 4
        assert answered.facts.cost_usd > 0


async def test_an_answer_in_one_piece_gets_the_usage_that_it_lacks_and_keeps_the_rest() -> None:
    async with rig({}) as r:
        r.providers[0].tells_usage = False
        answered = await r.chain(context(), request(stream=False))
        async with answered:
            (event,) = [event async for event in answered]
        assert event.raw is not None
        body = msgspec.json.decode(event.raw)
        assert body["usage"]["completion_tokens"] == 3
        assert body["x_unknown_field"] == {"kept": True}


async def test_a_stream_that_is_finished_is_not_waited_for() -> None:
    async with rig({}) as r:
        r.providers[0].steps = [Step([*answer("All.")[:-2], usage_chunk()], hold=True)]
        ctx = context()
        assert await text_of(await r.chain(ctx, request())) == "All."
        assert attempts(ctx) == [("m/0", "ok")]


async def test_a_plain_request_reaches_the_upstream_untouched() -> None:
    fields: dict[str, Any] = {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "n": 2,
        "logprobs": True,
        "x_unknown": {"deep": [1, None]},
    }
    async with rig({}) as r:
        await (await r.chain(context(), request(stream=False, **fields))).aclose()
        body = r.providers[0].seen[0].body
        assert {name: body[name] for name in fields} == fields


async def test_an_open_breaker_is_told_with_when_to_come_again() -> None:
    async with rig({}, breaker={"min_failures": 1, "open_s": 20}) as r:
        r.providers[0].steps = [DEAD] * 5
        with pytest.raises(UpstreamUnavailable):
            await r.chain(context(), request())
        with pytest.raises(UpstreamUnavailable) as caught:
            await r.chain(context(), request())
        assert not isinstance(caught.value, CircuitOpen)
        assert 0 < (caught.value.retry_after_s or 0) <= 20
        assert r.seen == [1]
