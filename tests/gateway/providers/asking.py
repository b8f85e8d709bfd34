"""Ask a provider as the pipeline does."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from gateway.errors import GatewayError
from gateway.messages import ChatEvent
from gateway.providers import openai
from gateway.providers.base import OpenedAnswer
from gateway.providers.openai import OpenAIProvider
from gateway.wire.openai import decode_chat


def request_body(**more: Any) -> bytes:
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "Who won?"}], **more})


@asynccontextmanager
async def started(
    base_url: str, secrets: Mapping[str, str] | None = None, **more: Any
) -> AsyncIterator[OpenAIProvider]:
    """A provider of that endpoint; `secrets` is what its references stand for."""
    config = openai.Config(base_url=base_url, **more)
    provider = openai.build(config, "gpt/0", "gpt-4o", lambda ref: (secrets or {})[str(ref)])
    await provider.start()
    try:
        yield provider
    finally:
        await provider.close()


async def opened(
    provider: OpenAIProvider, *, stream: bool = True, timeout_s: float = 5.0, **more: Any
) -> OpenedAnswer:
    return await provider.open(decode_chat(request_body(**more)), stream=stream, timeout_s=timeout_s)


async def whole(answer: OpenedAnswer) -> list[ChatEvent]:
    """Every event of an answer, which is then closed."""
    try:
        return [*answer.head, *[event async for event in answer.rest]]
    finally:
        await answer.close()


async def failure_of(provider: OpenAIProvider, *, stream: bool = True, **more: Any) -> GatewayError:
    """The error before content."""
    with pytest.raises(GatewayError) as caught:
        await opened(provider, stream=stream, **more)
    return caught.value


async def later_failure_of(answer: OpenedAnswer) -> GatewayError:
    """The error after content."""
    with pytest.raises(GatewayError) as caught:
        await whole(answer)
    return caught.value


def text_of(events: list[ChatEvent]) -> str:
    return "".join(event.content for event in events)
