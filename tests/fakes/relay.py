"""A TCP relay whose two directions can be stopped and whose connections can be cut.

What is stopped is swallowed, as by a network that delivers no more on this connection.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self


class Relay:
    """Made by `open`; `url` stands for the server behind it."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._connections: set[asyncio.Task[None]] = set()
        self.url = ""
        self.swallows_requests = False
        self.swallows_answers = False
        self.swallowed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, target_port: int) -> AsyncIterator[Self]:
        relay = cls(target_port)
        server = await asyncio.start_server(relay._relay, "127.0.0.1", 0)
        relay.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield relay
        finally:
            server.close()
            await relay.cut()

    async def cut(self) -> None:
        """End every connection, and from now on let everything through."""
        self.swallows_requests = self.swallows_answers = False
        self.swallowed.clear()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(
                    self._pump(reader, there_writer, "swallows_requests"),
                    self._pump(there_reader, writer, "swallows_answers"),
                )
        finally:
            self._connections.discard(task)
            writer.transport.abort()
            there_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, switch: str) -> None:
        while data := await reader.read(65_536):
            if getattr(self, switch):
                self.swallowed.set()
            else:
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError
