"""The client of a gateway's records API: patient with load, plain about refusals."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.ingest import gateway_client
from gateway.ingest.gateway_client import GatewayClient, GatewayFailed, Refused

Serve = Callable[[web.Application], Awaitable[TestServer]]


@dataclass
class Scripted:
    """Answers the statuses it is given, then 201."""

    statuses: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.paths.append(request.path_qs)
        self.bodies.append(await request.read())
        status = self.statuses.pop(0) if self.statuses else 201
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        headers = {"Retry-After": "0"} if status in (429, 503) else {"x-meridian-unchanged": "1"}
        return web.json_response({"message": f"said {status}"}, status=status, headers=headers)


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
async def client(
    scripted: Scripted, aiohttp_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GatewayClient]:
    monkeypatch.setattr(gateway_client, "FIRST_BACKOFF_S", 0.001)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", scripted.handle)
    server = await aiohttp_server(app)
    url = str(server.make_url("/"))
    async with GatewayClient(url, "key", index="docs", namespace="a b", rng=random.Random(1)) as made:
        yield made


async def test_load_and_lost_connections_are_tried_again(client: GatewayClient, scripted: Scripted) -> None:
    scripted.statuses = [429, 503, 0, 500]
    assert await client.upsert([b'{"_id":"1"}\n', b'{"_id":"2"}\n']) == 1
    assert len(scripted.paths) == 5
    assert set(scripted.paths) == {"/i/docs/records/namespaces/a%20b/upsert"}
    assert set(scripted.bodies) == {b'{"_id":"1"}\n{"_id":"2"}\n'}


async def test_it_gives_up_after_a_bounded_number_of_attempts(
    client: GatewayClient, scripted: Scripted
) -> None:
    scripted.statuses = [503] * 100
    with pytest.raises(GatewayFailed, match="said 503"):
        await client.upsert([b"{}\n"])
    assert len(scripted.paths) == gateway_client.ATTEMPTS


async def test_a_refused_request_is_not_repeated(client: GatewayClient, scripted: Scripted) -> None:
    scripted.statuses = [400]
    with pytest.raises(Refused, match="said 400"):
        await client.upsert([b"{}\n"])
    assert len(scripted.paths) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_gateway_that_does_not_want_us_ends_the_run(
    client: GatewayClient, scripted: Scripted, status: int
) -> None:
    scripted.statuses = [status]
    with pytest.raises(GatewayFailed, match=f"said {status}"):
        await client.upsert([b"{}\n"])


async def test_an_answer_of_something_else_ends_the_run(client: GatewayClient, scripted: Scripted) -> None:
    scripted.statuses = [200]
    assert [id_ async for id_ in client.list_ids("x")] == []  # an answer without vectors is an empty page
    with pytest.raises(GatewayFailed):
        gateway_client._decode(b"<html>", dict)
