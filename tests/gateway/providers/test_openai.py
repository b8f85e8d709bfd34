"""What counts as an answer of an OpenAI-compatible endpoint, and what each of its failures is."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.errors import (
    GatewayError,
    Refusal,
    UpstreamProtocolError,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.messages import Usage
from gateway.providers.openai import MAX_HEAD_EVENTS, OpenAIProvider
from gateway.wire.rate_limits import RateLimits
from tests.fakes.provider import DONE, ROLE, ScriptedProvider, Step, answer, chunk, usage_chunk
from tests.gateway.providers.asking import failure_of, later_failure_of, opened, started, text_of, whole

HTML = {"Content-Type": "text/html"}
JSON = {"Content-Type": "application/json"}
STREAM = {"Content-Type": "text/event-stream"}
HALF = [ROLE, chunk({"content": "Half"})]


def told(**error: Any) -> bytes:
    """An error inside a stream."""
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"


def choice(index: int, text: str, finish: str | None = None) -> bytes:
    """A part of one choice of several."""
    return chunk({}, choices=[{"index": index, "delta": {"content": text}, "finish_reason": finish}])


def completion(**more: Any) -> bytes:
    message = {"role": "assistant", "content": "All of it.", "tool_calls": [{"id": "a"}, {"id": "b"}]}
    body = {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        **more,
    }
    return msgspec.json.encode(body)


@pytest.fixture
def script() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture
async def provider(script: ScriptedProvider) -> AsyncIterator[OpenAIProvider]:
    async with (
        TestServer(script.application(), handler_cancellation=True) as server,
        started(str(server.make_url("/v1"))) as provider,
    ):
        yield provider


# ---- before content


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (Step([b"<html>Sorry"], headers=HTML), UpstreamProtocolError),
        (Step([b'{"object": "list", "data": []}'], headers=JSON), UpstreamProtocolError),
        (Step([b"<html>Sorry"], headers=JSON), UpstreamProtocolError),
        (Step([completion(choices=[])], headers=JSON), UpstreamProtocolError),
        (Step([b'{"error": {"code": "rate_limit_exceeded"}}'], headers=JSON), UpstreamThrottled),
        (Step([b'{"object": "error", "message": "busy", "code": 503}'], headers=JSON), UpstreamUnavailable),
        (Step([ROLE, told(message="busy")]), UpstreamProtocolError),
        (Step([ROLE, told(code="server_error")]), UpstreamUnavailable),
        (Step([ROLE, told(code=429)]), UpstreamThrottled),
        (Step([ROLE, told(code="content_filter")]), UpstreamRejected),
        (
            Step([b": ping\n\n", b'event: error\ndata: {"code": "Busy", "message": "no"}\n\n']),
            UpstreamProtocolError,
        ),
        (Step([ROLE, b"data: {\n\n"]), UpstreamProtocolError),
        (Step([ROLE, DONE]), UpstreamProtocolError),
        (Step([ROLE]), UpstreamProtocolError),
        (Step([DONE]), UpstreamProtocolError),
        (Step([]), UpstreamProtocolError),
        (Step([ROLE, chunk({}, "error")]), UpstreamUnavailable),
        (Step([ROLE, chunk({}, "insufficient_system_resource")]), UpstreamUnavailable),
        (Step([ROLE], cut=True), UpstreamUnavailable),
        (Step([b"data: " + b"x" * 2_000_000]), UpstreamProtocolError),
        (Step([ROLE] * (MAX_HEAD_EVENTS + 2), hold=True), UpstreamProtocolError),
    ],
)
async def test_what_fails_before_content_is_an_error_of_the_open(
    provider: OpenAIProvider, script: ScriptedProvider, step: Step, kind: type[GatewayError]
) -> None:
    script.steps = [step]
    assert type(await failure_of(provider)) is kind
    assert len(script.seen) == 1


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (Step([b"<html>Sorry"], headers=HTML), UpstreamProtocolError),
        (Step([b'{"error": {"type": "overloaded_error"}}'], headers=JSON), UpstreamUnavailable),
        (
            Step([b'{"choices": [{"index": 0, "message": {"content": "x"}}]}'], headers=JSON),
            UpstreamProtocolError,
        ),
        (Step([completion()[:-9]], headers=JSON), UpstreamProtocolError),
    ],
)
async def test_what_is_no_whole_answer_is_an_error(
    provider: OpenAIProvider, script: ScriptedProvider, step: Step, kind: type[GatewayError]
) -> None:
    script.steps = [step]
    assert type(await failure_of(provider, stream=False)) is kind


@pytest.mark.parametrize(
    ("keep_alive", "pieces"),
    [(b": keep-alive\n\n", 40), (ROLE, 40), (chunk({"content": ""}), 40), (chunk({}, choices=[]), 40)],
)
async def test_what_is_no_content_does_not_put_off_the_timeout(
    provider: OpenAIProvider, script: ScriptedProvider, keep_alive: bytes, pieces: int
) -> None:
    script.steps = [Step([keep_alive] * pieces, gap_s=0.02, hold=True)]
    assert type(await failure_of(provider, timeout_s=0.2)) is UpstreamTimeout
    async with asyncio.timeout(1):
        await script.left.wait()


async def test_a_refusal_whose_words_never_come_is_known_by_its_status(
    provider: OpenAIProvider, script: ScriptedProvider
) -> None:
    headers = {"Retry-After": "7", "Content-Length": "100", "x-should-retry": "true"}
    script.steps = [Step([b'{"error":'], status=429, headers=headers, cut=True)]
    error = await failure_of(provider)
    assert type(error) is UpstreamThrottled
    assert (error.retry_after_s, error.should_retry) == (7.0, True)


async def test_a_refusal_says_what_it_is_about(provider: OpenAIProvider, script: ScriptedProvider) -> None:
    body = b'{"error": {"message": "too long", "code": "context_length_exceeded"}}'
    script.steps = [Step([body], status=400, headers=JSON)]
    error = await failure_of(provider)
    assert isinstance(error, UpstreamRejected)
    assert (error.reason, error.body) == (Refusal.CONTEXT, body)


async def test_what_is_left_of_our_rate_is_told_with_the_answer(
    provider: OpenAIProvider, script: ScriptedProvider
) -> None:
    limits = {"x-ratelimit-remaining-requests": "2", "x-ratelimit-reset-requests": "6m0s"}
    script.steps = [Step(answer("Yes."), headers={**STREAM, **limits}), Step(answer("Yes."))]
    first, second = await opened(provider), await opened(provider)
    assert (first.limits, second.limits) == (RateLimits(2, None, 360.0, None), None)
    await first.close()
    await second.close()


# ---- after content


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (Step([*HALF, told(message="busy")]), UpstreamProtocolError),
        (Step([*HALF, told(code="content_filter")]), UpstreamRejected),
        (Step([*HALF, b"data: {\n\n"]), UpstreamProtocolError),
        (Step([*HALF, DONE]), UpstreamProtocolError),
        (Step(HALF), UpstreamProtocolError),
        (Step(HALF, cut=True), UpstreamUnavailable),
        (Step([*HALF, chunk({}, "stop")[:-1]]), UpstreamProtocolError),
        (Step([*HALF, chunk({}, "insufficient_system_resource"), DONE]), UpstreamUnavailable),
    ],
)
async def test_what_fails_after_content_comes_out_of_the_rest(
    provider: OpenAIProvider, script: ScriptedProvider, step: Step, kind: type[GatewayError]
) -> None:
    script.steps = [step]
    answer = await opened(provider)
    assert text_of(list(answer.head)) == "Half"
    assert type(await later_failure_of(answer)) is kind


@pytest.mark.parametrize(
    "parts",
    [
        answer("All", " of it."),
        answer("All", " of it.")[:-1],  # no [DONE]
        answer("All", " of it.")[:-2],  # and no usage
        [ROLE, chunk({"content": "All of it."}, "stop"), b"data:[DONE]\r\r"],
        [b"\xef\xbb\xbf", *answer("All of it.")],
        [part.replace(b"\n", b"\r\n") for part in answer("All of it.")],
        [
            part.replace(b'"choices"', b'\ndata: "choices"').replace(b"{\n", b"{")
            for part in answer("All of it.")
        ],
    ],
)
@pytest.mark.parametrize("cut", [False, True])
async def test_an_answer_is_whole_with_its_finish(
    provider: OpenAIProvider, script: ScriptedProvider, parts: Sequence[bytes], cut: bool
) -> None:
    script.steps = [Step(parts, cut=cut, gap_s=0.01)]
    assert text_of(await whole(await opened(provider))) == "All of it."


async def test_a_filtered_finish_is_an_answer_and_no_error(
    provider: OpenAIProvider, script: ScriptedProvider
) -> None:
    script.steps = [Step([ROLE, chunk({}, "content_filter"), DONE])]
    assert (await whole(await opened(provider)))[-1].finish_reason == "content_filter"


async def test_every_choice_that_was_asked_for_is_waited_for(
    provider: OpenAIProvider, script: ScriptedProvider
) -> None:
    first = [choice(0, "One."), choice(0, "", "stop")]
    script.steps = [Step(first), Step(first, cut=True), Step([*first, DONE])]
    assert type(await later_failure_of(await opened(provider, n=2))) is UpstreamProtocolError
    assert type(await later_failure_of(await opened(provider, n=2))) is UpstreamUnavailable
    assert text_of(await whole(await opened(provider, n=2))) == "One."  # it says itself that this is all


async def test_choices_come_in_any_order(provider: OpenAIProvider, script: ScriptedProvider) -> None:
    script.steps = [
        Step([choice(1, "Two."), choice(0, "One."), choice(1, "", "stop"), choice(0, "", "length")])
    ]
    assert text_of(await whole(await opened(provider, n=2))) == "Two.One."


async def test_usage_that_rides_in_the_last_chunk_is_read_in_deepseeks_words(
    provider: OpenAIProvider, script: ScriptedProvider
) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 4}
    script.steps = [Step([ROLE, chunk({"content": "Yes."}), chunk({}, "stop", usage=usage), DONE])]
    assert (await whole(await opened(provider)))[-1].usage == Usage(9, 2, 4)


async def test_usage_is_always_asked_for_and_unknown_fields_are_passed_on(
    provider: OpenAIProvider, script: ScriptedProvider
) -> None:
    await whole(await opened(provider, stream_options={"include_usage": False}, seed=7))
    assert script.seen[0].body["stream_options"] == {"include_usage": True}
    assert script.seen[0].body["seed"] == 7


async def test_a_whole_completion_is_taken_where_a_stream_was_asked(
    provider: OpenAIProvider, script: ScriptedProvider
) -> None:
    script.steps = [Step([completion()], headers=JSON)]
    (event,) = await whole(await opened(provider))
    assert (event.content, event.finish_reason, event.usage) == ("All of it.", "stop", Usage(7, 3))
    assert event.raw is None
    assert event.chunk["object"] == "chat.completion.chunk"
    delta = event.chunk["choices"][0]["delta"]
    assert delta["tool_calls"] == [{"index": 0, "id": "a"}, {"index": 1, "id": "b"}]
    assert "message" not in event.chunk["choices"][0]


async def test_a_whole_answer_is_handed_on_in_its_own_bytes(
    provider: OpenAIProvider, script: ScriptedProvider
) -> None:
    script.steps = [Step([completion(x={"kept": 1})], headers=JSON)]
    (event,) = await whole(await opened(provider, stream=False))
    assert event.raw == completion(x={"kept": 1})


# ---- connections


async def test_an_answer_read_to_its_end_gives_its_connection_to_the_next(script: ScriptedProvider) -> None:
    async with (
        TestServer(script.application(), handler_cancellation=True) as server,
        started(str(server.make_url("/v1"))) as provider,
    ):
        for _ in range(3):
            await whole(await opened(provider))
        assert server.runner is not None
        assert isinstance(server.runner.server, web.Server)
        assert len(server.runner.server.connections) == 1


async def test_a_body_that_does_not_end_after_done_is_not_waited_for(
    provider: OpenAIProvider, script: ScriptedProvider
) -> None:
    script.steps = [Step([ROLE, chunk({"content": "Yes."}, "stop"), usage_chunk(), DONE], hold=True)]
    async with asyncio.timeout(1):
        assert text_of(await whole(await opened(provider))) == "Yes."
        await script.left.wait()
