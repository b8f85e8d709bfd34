"""Generations: what answers chats can be replaced while it answers.

A generation is a chat pipeline with the providers it was built on. The newest takes every new request; an
older one finishes what it began, and only then lets go of its connections: closing a pool that streams still
read from would cut them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

from gateway.context import RequestContext
from gateway.messages import ChatRequest
from gateway.stages.base import ChatHandler
from gateway.stream import EventStream


@dataclass(slots=True)
class Generation:
    """A pipeline, the models it offers, and how to let go of what it holds."""

    handler: ChatHandler
    models: Sequence[str]
    close: Callable[[], Awaitable[None]]
    _under_way: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self) -> None:
        self._under_way += 1
        self._idle.clear()

    def leave(self) -> None:
        self._under_way -= 1
        if self._under_way == 0:
            self._idle.set()

    async def finish(self) -> None:
        """Wait for what is under way, then close."""
        if self._under_way:
            await self._idle.wait()
        await self.close()


class Generations:
    """A chat handler that asks the newest generation; it is `running` for as long as it answers."""

    def __init__(self, first: Generation) -> None:
        self._newest = first
        self._finishing: asyncio.TaskGroup | None = None

    @property
    def models(self) -> Sequence[str]:
        """The names that the newest generation answers to."""
        return self._newest.models

    async def __call__(self, ctx: RequestContext, request: ChatRequest) -> EventStream:
        generation = self._newest
        generation.enter()
        try:
            answer = await generation.handler(ctx, request)
        except BaseException:
            generation.leave()
            raise
        return answer.tap(lambda _: generation.leave())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Until the block ends; then every generation is closed, once its answers have ended."""
        async with asyncio.TaskGroup() as tasks:
            self._finishing = tasks
            try:
                yield self
            finally:
                await self._newest.finish()

    def replace(self, newest: Generation) -> None:
        """Give every request from now on to `newest`."""
        if self._finishing is None:
            raise RuntimeError("only what is running can be replaced")
        old, self._newest = self._newest, newest
        self._finishing.create_task(old.finish())
