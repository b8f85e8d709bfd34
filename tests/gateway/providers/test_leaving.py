"""A caller that leaves ends its upstream's work within a second, behind TLS and on uvloop too.

A connection that is merely closed would be left to TLS to end in an orderly way: with an endpoint that goes
on sending, under uvloop, that takes some 30 s of downloading.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from gateway.providers.openai import OpenAIProvider
from tests.fakes.provider import ROLE, chunk
from tests.gateway.providers.asking import opened, started
from tests.gateway.providers.endless import HEAD, Endless, chunked, endless

SOON_S = 1.0
CONTENT = chunked(chunk({"content": "word "}) * 20)
NOISE = chunked(b": keep-alive\n\n" * 100)

Leave = Callable[[OpenAIProvider, Endless], Awaitable[float]]


async def leave_after_content(provider: OpenAIProvider, _: Endless) -> float:
    """Close an answer that has begun."""
    answer = await opened(provider)
    await anext(answer.rest)
    left_s = time.monotonic()
    await answer.close()
    return left_s


async def leave_while_reading(provider: OpenAIProvider, _: Endless) -> float:
    """Be cancelled in the midst of an answer, and close it."""
    answer = await opened(provider)

    async def read() -> None:
        async for _event in answer.rest:
            pass

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 0.1)
    left_s = time.monotonic()
    await answer.close()
    return left_s


async def leave_before_content(provider: OpenAIProvider, server: Endless) -> float:
    """Be cancelled while the first content is awaited."""
    waiting = asyncio.get_running_loop().create_task(opened(provider, timeout_s=30))
    await asyncio.to_thread(server.asked.wait)
    await asyncio.sleep(0.1)  # some of what it sends is on its way, and none of it is content
    waiting.cancel()
    left_s = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    return left_s


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
@pytest.mark.parametrize(
    ("first", "piece", "leave"),
    [
        ((HEAD, chunked(ROLE)), CONTENT, leave_after_content),
        ((HEAD, chunked(ROLE)), CONTENT, leave_while_reading),
        ((HEAD, chunked(ROLE)), NOISE, leave_before_content),
        ((), b"", leave_before_content),
    ],
    ids=["after content", "while reading", "before content", "before the head"],
)
def test_an_endpoint_sees_at_once_that_its_caller_left(
    tmp_path: Path,
    loop: Callable[[], asyncio.AbstractEventLoop],
    first: tuple[bytes, ...],
    piece: bytes,
    leave: Leave,
) -> None:
    async def ask() -> None:
        async with started(
            server.url, {"file:ca.pem": server.certificate}, ca_file="file:ca.pem"
        ) as provider:
            left_s = await leave(provider, server)
            # The loop goes on, as a gateway's does: what it would still download, it could.
            took_s = await asyncio.to_thread(server.until_left_s, left_s)
            assert took_s < SOON_S
            sent = server.sent_bytes
            await asyncio.sleep(0.05)
            assert server.sent_bytes == sent

    with endless(tmp_path, first, piece) as server, asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ask())
