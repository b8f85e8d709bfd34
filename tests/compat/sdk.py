"""The official Pinecone SDK, sync or async, behind one face that a test can await."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pinecone import AsyncPinecone, Pinecone

Flavour = Literal["sync", "async"]
Target = Literal["node", "gateway"]


class Awaitable:
    """An SDK object whose methods are awaited, whichever flavour it is."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if inspect.iscoroutinefunction(method):
                return await method(*args, **kwargs)
            return await asyncio.to_thread(method, *args, **kwargs)

        return call

    async def all(self, name: str, **kwargs: Any) -> list[Any]:
        """Everything that an iterating method yields."""
        found = getattr(self.inner, name)(**kwargs)
        if hasattr(found, "__aiter__"):
            return [item async for item in found]
        return await asyncio.to_thread(list, found)


@dataclass
class Sdk:
    """A client of one control plane."""

    client: Any
    flavour: Flavour

    @property
    def indexes(self) -> Awaitable:
        return Awaitable(self.client.indexes)

    async def index(self, name: str = "", *, host: str = "") -> Awaitable:
        """The data plane of an index, by name or host."""
        if self.flavour == "async":
            return Awaitable(await self.client.index(name, host=host))
        return Awaitable(await asyncio.to_thread(lambda: self.client.index(name, host=host)))


@asynccontextmanager
async def open_sdk(flavour: Flavour, key: str, host: str) -> AsyncIterator[Sdk]:
    """A client that is closed with the block. TLS is off, because all hosts are loopback."""
    if flavour == "sync":
        with Pinecone(api_key=key, host=host, ssl_verify=False) as client:
            yield Sdk(client, flavour)
    else:
        async with AsyncPinecone(api_key=key, host=host, ssl_verify=False) as async_client:
            yield Sdk(async_client, flavour)
