"""The OpenAI dialect through the official SDK: answers, streams, citations, embeddings, errors."""

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.compat.conftest import answer_about_bizet
from tests.compat.scripted import CALL_ID, TOOL, refusal, silence, tool_call
from tests.compat.sdk import Flavour
from tests.compat.servers import DIMENSION, KEY, Servers
from tests.fakes.provider import ROLE, Step, chunk

pytestmark = pytest.mark.compat

QUESTION: list[dict[str, str]] = [{"role": "user", "content": "Who composed Carmen?"}]


class Client:
    """The SDK, sync or async, whose calls are awaited and whose streams are read to the end."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def call(self, path: str, **arguments: Any) -> Any:
        """`call("chat.completions.create", …)`; a page or stream comes back as a list."""
        method: Any = self.inner
        for name in path.split("."):
            method = getattr(method, name)
        if isinstance(self.inner, openai.OpenAI):
            return await asyncio.to_thread(lambda: _read(method(**arguments)))
        found = method(**arguments)
        answer = await found if inspect.isawaitable(found) else found
        return [item async for item in answer] if isinstance(answer, openai.AsyncStream) else answer

    async def chat(self, **more: Any) -> Any:
        return await self.call(
            "chat.completions.create", **{"model": "scripted", "messages": QUESTION, **more}
        )


def _read(answer: Any) -> Any:
    return list(answer) if isinstance(answer, openai.Stream) else answer


@pytest.fixture
async def client(servers: Servers, flavour: Flavour) -> AsyncIterator[Client]:
    servers.provider.steps.clear()
    base_url = f"{servers.gateway_url}/v1"
    if flavour == "sync":
        with openai.OpenAI(api_key=KEY, base_url=base_url, max_retries=0) as made:
            yield Client(made)
    else:
        async with openai.AsyncOpenAI(api_key=KEY, base_url=base_url, max_retries=0) as made_async:
            yield Client(made_async)


def rag(namespace: str, **more: Any) -> dict[str, Any]:
    return {"rag": {"index": "docs", "namespace": namespace, **more}}


async def test_an_answer_cites_the_passage_it_rests_on(client: Client, library: str) -> None:
    answer = await client.chat(extra_body=rag(library, include_context=True))
    message = answer.choices[0].message
    assert message.content == "Georges Bizet composed it [1]."
    [annotation] = message.annotations
    assert annotation.type == "url_citation"
    citation = annotation.url_citation
    assert message.content[citation.start_index : citation.end_index] == "[1]"
    assert citation.url == "https://example.org/carmen"
    assert "Bizet" in message.context["citations"][0]["content"]
    assert (answer.choices[0].finish_reason, answer.usage.total_tokens) == ("stop", 110)
    assert answer.model_extra["meridian"]["region"] == "us-east"


async def test_a_marker_that_no_passage_has_is_dropped(
    client: Client, servers: Servers, library: str
) -> None:
    servers.provider.steps.append(answer_about_bizet("Bizet [77] did [1]."))
    answer = await client.chat(extra_body=rag(library))
    assert answer.choices[0].message.content == "Bizet did [1]."


async def test_the_model_is_given_the_passages_as_fenced_data(
    client: Client, servers: Servers, library: str
) -> None:
    await client.chat(extra_body=rag(library))
    sent = servers.provider.seen[-1].body["messages"]
    assert sent[-1] == QUESTION[-1]
    assert any("<passage-" in str(message["content"]) for message in sent[:-1])


async def test_a_stream_is_the_answer_with_context_first_and_annotations_last(
    client: Client, library: str
) -> None:
    chunks = await client.chat(
        stream=True, stream_options={"include_usage": True}, extra_body=rag(library, include_context=True)
    )
    deltas = [part.choices[0].delta for part in chunks if part.choices]
    assert "".join(delta.content or "" for delta in deltas) == "Georges Bizet composed it [1]."
    assert deltas[0].role == "assistant"
    assert "context" in (deltas[0].model_extra or {})
    assert [bool((delta.model_extra or {}).get("annotations")) for delta in deltas][-1]
    assert [part.usage.total_tokens for part in chunks if part.usage] == [110]
    assert [c.finish_reason for part in chunks for c in part.choices if c.finish_reason] == ["stop"]


async def test_a_stream_that_breaks_is_an_error_and_no_short_answer(
    client: Client, servers: Servers, library: str
) -> None:
    servers.provider.steps.append(Step([ROLE, chunk({"content": "Georges "})], cut=True))
    with pytest.raises(openai.APIError):
        await client.chat(stream=True, extra_body=rag(library))


async def test_a_model_that_fails_is_answered_for_by_excerpts(
    client: Client, servers: Servers, library: str
) -> None:
    servers.provider.steps[:] = [Step(status=503, headers={})] * 3
    answer = await client.chat(extra_body=rag(library))
    assert answer.model == "snippets"
    assert "Bizet" in answer.choices[0].message.content
    assert answer.choices[0].message.annotations
    assert answer.model_extra["degraded"]["reason"] == "llm_unavailable"


async def test_a_model_without_an_upstream_answers_by_excerpts(client: Client, library: str) -> None:
    answer = await client.chat(model="silent", extra_body=rag(library))
    assert (answer.model, answer.choices[0].finish_reason) == ("snippets", "stop")
    streamed = await client.chat(model="silent", stream=True, extra_body=rag(library))
    text = "".join(c.delta.content or "" for part in streamed for c in part.choices)
    assert text == answer.choices[0].message.content


async def test_a_caller_who_takes_no_excerpt_gets_an_error(
    client: Client, servers: Servers, library: str
) -> None:
    servers.provider.steps[:] = [Step(status=503, headers={})] * 3
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat(extra_body=rag(library, degrade="never"))
    assert caught.value.status_code == 503


async def test_mode_off_is_a_plain_proxy(client: Client, servers: Servers) -> None:
    answer = await client.chat(seed=7, extra_body={"rag": {"mode": "off"}})
    assert answer.choices[0].message.content == "Georges Bizet composed it [1]."
    sent = servers.provider.seen[-1].body
    assert (sent["messages"], sent["seed"], "rag" in sent) == (QUESTION, 7, False)


async def test_embeddings_come_in_both_encodings(client: Client) -> None:
    texts = ["a text", "another"]
    plain = await client.call("embeddings.create", model="minilm", input=texts, encoding_format="float")
    packed = await client.call("embeddings.create", model="minilm", input=texts)
    assert [len(row.embedding) for row in plain.data] == [DIMENSION, DIMENSION]
    assert [row.index for row in packed.data] == [0, 1]
    for one, other in zip(plain.data, packed.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert plain.usage.prompt_tokens > 0


async def test_models_are_listed_and_found(client: Client) -> None:
    listed = await client.call("models.list")
    assert {"scripted", "silent", "minilm"} <= {model.id for model in listed.data}
    assert (await client.call("models.retrieve", model="scripted")).id == "scripted"


@pytest.mark.parametrize(
    ("arguments", "error", "code"),
    [
        ({"model": "nothing"}, openai.NotFoundError, "model_not_found"),
        ({"messages": []}, openai.BadRequestError, None),
        ({"messages": "hello"}, openai.BadRequestError, None),
        ({"extra_body": {"rag": {"nonsense": 1}}}, openai.BadRequestError, None),
        ({"extra_body": {"rag": {"index": "nowhere"}}}, openai.NotFoundError, "index_not_found"),
        ({"extra_body": {"rag": {"filter": {"_m.text": "x"}}}}, openai.BadRequestError, None),
    ],
)
async def test_a_mistake_is_the_sdks_own_exception(
    client: Client, arguments: dict[str, Any], error: type[openai.APIStatusError], code: str | None
) -> None:
    with pytest.raises(error) as caught:
        await client.chat(**arguments)
    body: Any = caught.value.body
    assert {"message", "type", "param", "code"} <= set(body)
    assert code is None or body["code"] == code


async def test_a_models_own_refusal_reaches_the_caller(client: Client, servers: Servers) -> None:
    refusal = b'{"error":{"message":"bad seed","type":"invalid_request_error","param":"seed","code":null}}'
    servers.provider.steps.append(Step([refusal], 400, {"Content-Type": "application/json"}))
    with pytest.raises(openai.BadRequestError, match="bad seed"):
        await client.chat(extra_body={"rag": {"mode": "off"}})


async def test_a_wrong_key_is_an_authentication_error(servers: Servers) -> None:
    async with openai.AsyncOpenAI(
        api_key="nobody's", base_url=f"{servers.gateway_url}/v1", max_retries=0
    ) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            await stranger.models.list()
    assert caught.value.code == "invalid_api_key"


async def test_an_unknown_path_is_a_404_of_the_dialect(client: Client) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.call("responses.create", model="scripted", input="hello")
    assert caught.value.code == "unknown_url"


@pytest.mark.parametrize("mode", ["live", "whole"])
async def test_a_stream_is_complete_in_either_mode_and_says_what_it_used(
    client: Client, library: str, mode: str
) -> None:
    chunks = await client.chat(
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"x-meridian-stream": mode},
        extra_body=rag(library),
    )
    text = "".join(c.delta.content or "" for part in chunks for c in part.choices)
    assert text == "Georges Bizet composed it [1]."
    assert [part.usage.completion_tokens for part in chunks if part.usage] == [10]


@pytest.mark.parametrize("options", [{"mode": "off"}, {}])
async def test_tool_calls_pass_through_a_stream_piece_by_piece(
    client: Client, servers: Servers, library: str, options: dict[str, Any]
) -> None:
    servers.provider.steps.append(tool_call())
    chunks = await client.chat(
        stream=True, tools=[TOOL], tool_choice="auto", extra_body=rag(library, **options)
    )
    calls = [call for part in chunks for c in part.choices for call in c.delta.tool_calls or ()]
    assert calls[0].id == CALL_ID
    assert "".join(call.function.arguments or "" for call in calls) == '{"city": "Seville"}'
    assert [c.finish_reason for part in chunks for c in part.choices if c.finish_reason] == ["tool_calls"]
    sent = servers.provider.seen[-1].body
    assert (sent["tools"], sent["tool_choice"]) == ([TOOL], "auto")


async def test_a_whole_answer_holds_the_tool_calls_of_the_stream_behind_it(
    client: Client, servers: Servers, library: str
) -> None:
    servers.provider.steps.append(tool_call())
    answer = await client.chat(tools=[TOOL], extra_body=rag(library))
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert (call.id, call.function.name) == (CALL_ID, "weather")
    assert call.function.arguments == '{"city": "Seville"}'


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("step", "error", "status", "code"),
    [
        (refusal(400, "content_filter"), openai.BadRequestError, 400, "content_filter"),
        (refusal(400, "context_length_exceeded"), openai.BadRequestError, 400, "context_length_exceeded"),
        (refusal(422, "bad_seed"), openai.UnprocessableEntityError, 422, "bad_seed"),
    ],
)
async def test_the_status_and_the_code_of_a_refusal_reach_the_sdk(
    client: Client,
    servers: Servers,
    stream: bool,
    step: Step,
    error: type[openai.APIStatusError],
    status: int,
    code: str,
) -> None:
    servers.provider.steps[:] = [step]
    with pytest.raises(error) as caught:
        await client.chat(stream=stream, extra_body={"rag": {"mode": "off"}})
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.request_id


async def test_our_own_account_being_refused_is_no_matter_of_the_callers_key(
    client: Client, servers: Servers
) -> None:
    servers.provider.steps[:] = [refusal(401, "invalid_api_key")]
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat(model="locked", extra_body={"rag": {"mode": "off"}})
    # The first caller finds it out; from then on that account is asked nothing for a while.
    assert caught.value.code in ("upstream_rejected", "upstream_unavailable")
    assert "api_key" not in str(caught.value)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_sdks_timeout_is_kept_and_the_model_let_go_of(
    client: Client, servers: Servers, stream: bool
) -> None:
    servers.provider.left.clear()
    servers.provider.steps[:] = [silence()]
    with pytest.raises(openai.APITimeoutError):
        await client.chat(stream=stream, timeout=0.3, extra_body={"rag": {"mode": "off"}})
    assert await asyncio.to_thread(_set_within, servers.provider.left, 2)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_deadline_that_passes_is_the_gateways_own_error(
    client: Client, servers: Servers, stream: bool
) -> None:
    servers.provider.steps[:] = [silence()]
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat(
            stream=stream,
            extra_headers={"x-meridian-deadline-ms": "400"},
            extra_body={"rag": {"mode": "off"}},
        )
    assert caught.value.status_code == 504
    assert caught.value.code in ("deadline_exceeded", "upstream_timeout")


def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether an event of another thread's loop is set in time."""
    deadline_s = time.monotonic() + seconds
    pause = threading.Event()
    while not event.is_set() and time.monotonic() < deadline_s:
        pause.wait(0.02)
    return event.is_set()
