"""A TCP gate before a server: open, refusing, or taking everything and answering nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Self


class State(StrEnum):
    OPEN = "open"
    RESET = "reset"  # connections are cut, new ones too
    SILENT = "silent"  # what is sent is swallowed, and nothing comes back


class Gate:
    """Made by `open`; `url` stands for the server behind it."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._connections: set[asyncio.Task[None]] = set()
        self._state = State.OPEN
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, target_port: int) -> AsyncIterator[Self]:
        gate = cls(target_port)
        server = await asyncio.start_server(gate._relay, "127.0.0.1", 0, backlog=1024)
        gate.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield gate
        finally:
            server.close()
            await gate._cut()

    async def set(self, state: State) -> None:
        """From now on; what is under way is cut, unless it is to wait in silence."""
        self._state = state
        if state is not State.SILENT:
            await self._cut()

    async def _cut(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._state is State.RESET:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))
        finally:
            self._connections.discard(task)
            writer.transport.abort()
            there_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self._state is State.OPEN:
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError
