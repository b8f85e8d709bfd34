"""A fallback chain over scripted endpoints on real sockets, asked without an edge before it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp.test_utils import TestServer

from gateway.config import GatewayConfig
from gateway.context import RequestContext
from gateway.llm import LlmPath
from gateway.messages import ChatRequest, Degrade, Passage, RagMode
from gateway.policies.breaker import Breakers
from gateway.stages.fallback import Fallback
from gateway.tenants import Tenant
from gateway.wire.openai import decode_chat
from tests.fakes.provider import ScriptedProvider

TIMERS = {"first_content_s": 1.0, "gap_s": 0.3, "total_s": 5}


@dataclass
class Rig:
    """A route `m` over one scripted endpoint an upstream, in the order of the configuration."""

    chain: Fallback
    providers: list[ScriptedProvider]
    breakers: Breakers

    @property
    def seen(self) -> list[int]:
        """How often each was asked."""
        return [len(provider.seen) for provider in self.providers]


def context(left_s: float = 5.0, *, is_whole: bool = False, complexity: str = "") -> RequestContext:
    clock = asyncio.get_running_loop().time
    tenant = Tenant(id="tenant0000000001", name="t")
    return RequestContext(
        "r",
        tenant,
        "openai",
        clock(),
        clock() + left_s,
        clock=clock,
        is_whole=is_whole,
        complexity=complexity,
    )


def request(
    mode: RagMode = RagMode.OFF, *, stream: bool = True, text: str = "Who won?", **fields: Any
) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream, **fields}
    return decode_chat(msgspec.json.encode(body)).settled(mode=mode, degrade=Degrade.ALLOW)


def passages(count: int, words: int) -> list[Passage]:
    return [Passage(n, f"p{n}", f"{n} " + "word " * words, 1.0 / n) for n in range(1, count + 1)]


async def text_of(answer: Any) -> str:
    async with answer:
        return "".join([event.content async for event in answer])


def attempts(ctx: RequestContext) -> list[tuple[str, str]]:
    """The receipt: whom we asked, and what became of it."""
    return [(n.details["upstream"], n.details["outcome"]) for n in ctx.trail.notes if n.name == "attempt"]


@asynccontextmanager
async def rig(*upstreams: dict[str, Any], **model: Any) -> AsyncIterator[Rig]:
    """One endpoint for each of `upstreams`, which are overrides of its section."""
    async with AsyncExitStack() as stack:
        providers = [ScriptedProvider() for _ in upstreams]
        sections = []
        for provider, own in zip(providers, upstreams, strict=True):
            server = await stack.enter_async_context(
                TestServer(provider.application(), handler_cancellation=True)
            )
            url = str(server.make_url("/v1"))
            sections.append({"kind": "openai", "base_url": url, "model": "gpt-4o", **own})
        config = GatewayConfig.model_validate(
            {
                "region": "us-east",
                "tenants": {"pepper": "env:X"},
                "models": {"m": {"upstreams": sections, "timers": TIMERS, **model}},
                "catalogue": {
                    "small": {"input_usd": 1, "output_usd": 2, "window_tokens": 1500},
                    "large": {"input_usd": 1, "output_usd": 2, "window_tokens": 8000},
                },
                "rag": {"answer_tokens": 100},
            }
        )
        breakers = Breakers(config.breakers)
        _, chain = await LlmPath(breakers, b"fence key of the tests").build(config, lambda _: "key", stack)
        yield Rig(chain, providers, breakers)
