"""langchain-openai against a running gateway: invoke, stream, tools, usage, errors, timeouts."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.compat.scripted import CALL_ID, TOOL, refusal, silence, tool_call
from tests.compat.sdk import Flavour
from tests.compat.servers import DIMENSION, KEY, Servers
from tests.fakes.provider import ROLE, Step, chunk

pytestmark = pytest.mark.compat

QUESTION = [HumanMessage("Who composed Carmen?")]
ANSWER = "Georges Bizet composed it [1]."


class Chain:
    """A runnable of langchain, sync or async, whose calls are awaited."""

    def __init__(self, inner: Any, flavour: Flavour) -> None:
        self.inner, self.flavour = inner, flavour

    def bound(self, inner: Any) -> "Chain":
        return Chain(inner, self.flavour)

    async def invoke(self, messages: Any, **more: Any) -> Any:
        if self.flavour == "async":
            return await self.inner.ainvoke(messages, **more)
        return await asyncio.to_thread(lambda: self.inner.invoke(messages, **more))

    async def stream(self, messages: Any, **more: Any) -> list[Any]:
        if self.flavour == "async":
            return [part async for part in self.inner.astream(messages, **more)]
        return await asyncio.to_thread(lambda: list(self.inner.stream(messages, **more)))


class Models:
    """Chat models of langchain, whose connections are closed in the end: by itself it keeps them."""

    def __init__(self, servers: Servers, flavour: Flavour) -> None:
        self._url, self._flavour = f"{servers.gateway_url}/v1", flavour
        self._client, self._async_client = openai.DefaultHttpxClient(), openai.DefaultAsyncHttpxClient()

    def chat(self, rag: dict[str, Any], **more: Any) -> Chain:
        options: dict[str, Any] = {
            "model": "scripted",
            "api_key": KEY,
            "base_url": self._url,
            "max_retries": 0,
            "extra_body": {"rag": rag},
            "stream_usage": True,
            "http_client": self._client,
            "http_async_client": self._async_client,
            **more,
        }
        return Chain(ChatOpenAI(**options), self._flavour)

    async def close(self) -> None:
        self._client.close()
        await self._async_client.aclose()


@pytest.fixture
async def models(servers: Servers, flavour: Flavour) -> AsyncIterator[Models]:
    servers.provider.steps.clear()
    made = Models(servers, flavour)
    yield made
    await made.close()


@pytest.fixture
def chat(models: Models, library: str) -> Chain:
    return models.chat({"index": "docs", "namespace": library})


@pytest.fixture
def plain(models: Models) -> Chain:
    """The same without retrieval: a proxy to the model."""
    return models.chat({"mode": "off"})


async def test_invoke_gives_the_answer_its_usage_and_its_model(chat: Chain) -> None:
    answer: AIMessage = await chat.invoke(QUESTION)
    assert answer.text == ANSWER
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 110
    assert answer.response_metadata["finish_reason"] == "stop"


async def test_a_stream_adds_up_to_the_same_answer(chat: Chain) -> None:
    parts = await chat.stream(QUESTION)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert total.text == ANSWER
    assert len(parts) > 2
    assert total.usage_metadata["total_tokens"] == 110
    assert total.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_tool_call_comes_parsed_and_its_result_goes_back(
    chat: Chain, servers: Servers, streamed: bool
) -> None:
    servers.provider.steps.append(tool_call())
    bound = chat.bound(chat.inner.bind_tools([TOOL]))
    asked: AIMessage
    if streamed:
        parts = await bound.stream(QUESTION)
        asked = parts[0]
        for part in parts[1:]:
            asked = asked + part
    else:
        asked = await bound.invoke(QUESTION)
    [call] = asked.tool_calls
    assert (call["name"], call["args"], call["id"]) == ("weather", {"city": "Seville"}, CALL_ID)
    assert servers.provider.seen[-1].body["tools"] == [TOOL]

    answer = await bound.invoke([*QUESTION, asked, ToolMessage("Sunny.", tool_call_id=CALL_ID)])
    assert answer.text == ANSWER
    *_, call_sent, result_sent = servers.provider.seen[-1].body["messages"]
    assert call_sent["tool_calls"][0]["id"] == CALL_ID
    assert (result_sent["role"], result_sent["content"]) == ("tool", "Sunny.")


async def test_json_mode_goes_through(plain: Chain, servers: Servers) -> None:
    await plain.bound(plain.inner.bind(response_format={"type": "json_object"})).invoke(QUESTION)
    assert servers.provider.seen[-1].body["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("step", "error", "code"),
    [
        (refusal(400, "content_policy_violation"), openai.BadRequestError, "content_policy_violation"),
        (refusal(400, "context_length_exceeded"), openai.BadRequestError, "context_length_exceeded"),
        (refusal(422, None), openai.UnprocessableEntityError, None),
    ],
)
async def test_a_models_refusal_is_the_sdks_own_exception(
    plain: Chain, servers: Servers, step: Step, error: type[openai.APIStatusError], code: str | None
) -> None:
    servers.provider.steps.append(step)
    with pytest.raises(error) as caught:
        await plain.invoke(QUESTION)
    assert caught.value.code == code


async def test_a_stream_that_breaks_raises(plain: Chain, servers: Servers) -> None:
    servers.provider.steps.append(Step([ROLE, chunk({"content": "Georges "})], cut=True))
    with pytest.raises(openai.APIError):
        await plain.stream(QUESTION)


async def test_the_callers_own_timeout_is_kept(models: Models, servers: Servers) -> None:
    hasty = models.chat({"mode": "off"}, timeout=0.3)
    for ask in (hasty.invoke, hasty.stream):
        servers.provider.steps[:] = [silence()]
        with pytest.raises(openai.APITimeoutError):
            await ask(QUESTION)


async def test_embeddings_are_the_models(servers: Servers) -> None:
    with openai.DefaultHttpxClient() as client:
        options: dict[str, Any] = {
            "model": "minilm",
            "api_key": KEY,
            "base_url": f"{servers.gateway_url}/v1",
            "check_embedding_ctx_length": False,  # or it would fetch a tokenizer's files
            "max_retries": 0,
            "http_client": client,
        }
        embeddings = OpenAIEmbeddings(**options)
        one, two = await asyncio.to_thread(embeddings.embed_documents, ["a text", "another"])
    assert (len(one), len(two)) == (DIMENSION, DIMENSION)
