"""A node in the test's own loop, behind a real socket."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from regions.node.config import NodeConfig
from regions.node.main import run_node


class Answer(msgspec.Struct, frozen=True):
    """A response: status, decoded body (text when it is no JSON), headers in lower case."""

    status: int
    body: Any
    headers: dict[str, str]


class NodeClient:
    """Speaks JSON to a running node."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self.session = url, session

    async def __call__(self, method: str, path: str, body: Any = None, **params: Any) -> Answer:
        encoded = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        data = None if encoded is None else io.BytesIO(encoded)  # large bytes as such make aiohttp warn
        async with self.session.request(method, self.url + path, data=data, params=params) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json"
            return Answer(
                response.status,
                msgspec.json.decode(raw) if is_json else raw.decode(),
                {name.lower(): value for name, value in response.headers.items()},
            )

    async def ok(self, method: str, path: str, body: Any = None, **params: Any) -> Answer:
        """A call that must succeed."""
        answer = await self(method, path, body, **params)
        assert answer.status < 300, answer
        return answer


@asynccontextmanager
async def running_node(data_dir: Path, **config: Any) -> AsyncIterator[NodeClient]:
    """A node over `data_dir` on a free port, stopped in an orderly way at the end."""
    ready = data_dir / "ready.json"
    ready.unlink(missing_ok=True)
    settings = NodeConfig(data_dir=data_dir, ready_file=ready, **config)
    stop = asyncio.Event()
    headers = {"Api-Key": settings.api_key.get_secret_value()} if settings.api_key else {}
    async with asyncio.TaskGroup() as group:
        group.create_task(run_node(settings, stop))
        async with asyncio.timeout(10):
            while not ready.exists():  # noqa: ASYNC110 - the node tells the outside through this file
                await asyncio.sleep(0.005)
        try:
            async with aiohttp.ClientSession(headers=headers) as session:
                yield NodeClient(msgspec.json.decode(ready.read_bytes())["url"], session)
        finally:
            stop.set()


async def make_index(
    client: NodeClient, name: str = "a", dimension: int = 2, metric: str = "dotproduct"
) -> None:
    body = {"name": name, "dimension": dimension, "metric": metric, "spec": {"serverless": {}}}
    await client.ok("POST", "/indexes", body)
