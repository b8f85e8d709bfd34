"""Breakers around replicas and logs: who is passed over, for how long, and what a caller is told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.context import RequestContext
from gateway.errors import (
    BadRequest,
    CircuitOpen,
    HomeUnavailable,
    RetrievalUnavailable,
    UpstreamUnavailable,
    WriteOutcomeUnknown,
)
from gateway.policies.breaker import BreakerTerms
from gateway.stages import nearest_read
from gateway.stages.apply_write import ApplyWrite
from gateway.stages.nearest_read import Candidate, NearestRead
from gateway.tenants import Tenant
from regions.changes import DeleteAll, Write
from regions.logs.memory import Landing
from regions.names import IndexName, NamespaceRef, RegionId
from regions.records import Query
from regions.replicas.pinecone import Config, build
from tests.fakes.regions import AP, EU, US
from tests.gateway.stages.regional import Rig, context, rig, upsert

FLOOR = BreakerTerms().min_failures
QUICK = BreakerTerms(open_s=0.3)
INDEX = IndexName("docs")
NAMESPACE = NamespaceRef(INDEX, "tenant0000000001.a")
QUERY = nearest_read.query(NAMESPACE, Query(top_k=1, vector=[1.0]))


class Scripted:
    """Replicas in order of regions, each answering every call with the status it has now."""

    def __init__(self, **statuses: int) -> None:
        self.statuses = statuses
        self.headers: dict[str, str] = {}
        self.asked = dict.fromkeys(statuses, 0)
        self.now_s = 100.0

    async def __aenter__(self) -> dict[IndexName, list[Candidate]]:
        app = web.Application()
        app.router.add_route("*", "/{region}/{path:.*}", self._answer)
        self._server = TestServer(app, shutdown_timeout=0.1)
        await self._server.start_server()
        self._replicas = [
            build(
                Config(url=str(self._server.make_url(f"/{name}"))),
                index=INDEX,
                region=RegionId(name),
                resolve=str,
            )
            for name in self.statuses
        ]
        return {INDEX: [Candidate(each.region, each) for each in self._replicas]}

    async def __aexit__(self, *_: object) -> None:
        for replica in self._replicas:
            await replica.close()
        await self._server.close()

    async def _answer(self, request: web.Request) -> web.Response:
        region = request.match_info["region"]
        self.asked[region] += 1
        status = self.statuses[region]
        if status == 200:
            return web.json_response({"matches": [], "namespace": "", "usage": {"readUnits": 1}})
        body = {"code": 3, "message": "scripted"}
        return web.json_response(body, status=status, headers=self.headers)

    def context(self) -> RequestContext:
        tenant = Tenant(id="tenant0000000001", name="t")
        return RequestContext("r", tenant, "pinecone", self.now_s, self.now_s + 5, clock=lambda: self.now_s)


async def test_a_replica_that_fails_is_passed_over_and_tried_by_one_request_later() -> None:
    script = Scripted(near=503, far=200)
    async with script as replicas:
        read = NearestRead(replicas)
        for _ in range(20):
            assert (await read(script.context(), QUERY)).region == "far"
        assert script.asked == {"near": FLOOR, "far": 20}
        ctx = script.context()
        await read(ctx, QUERY)
        assert ctx.trail.last("replica_passed_over")["region"] == "near"
        script.now_s += 30
        await read(script.context(), QUERY)
        await read(script.context(), QUERY)
        assert script.asked["near"] == FLOOR + 1
        script.now_s += 30
        script.statuses["near"] = 200
        assert (await read(script.context(), QUERY)).region == "near"
        assert (await read(script.context(), QUERY)).region == "near"


async def test_when_all_are_left_alone_nobody_is_asked_and_the_shortest_wait_is_said() -> None:
    script = Scripted(near=503, far=429)
    script.headers = {"Retry-After": "120"}
    async with script as replicas:
        read = NearestRead(replicas)
        for _ in range(FLOOR + 5):
            with pytest.raises(RetrievalUnavailable) as caught:
                await read(script.context(), QUERY)
        assert script.asked == {"near": FLOOR, "far": FLOOR}
        assert caught.value.retry_after_s == pytest.approx(120)


async def test_refusals_open_no_breaker() -> None:
    script = Scripted(near=400)
    async with script as replicas:
        read = NearestRead(replicas)
        for _ in range(FLOOR + 5):
            with pytest.raises(BadRequest):
                await read(script.context(), QUERY)
        assert script.asked == {"near": FLOOR + 5}


async def test_a_replica_that_takes_no_writes_is_still_read() -> None:
    script = Scripted(near=507)
    async with script as replicas:
        write, change = ApplyWrite(replicas), Write(NAMESPACE, DeleteAll())
        for _ in range(FLOOR):
            with pytest.raises(UpstreamUnavailable):
                await write(script.context(), change)
        with pytest.raises(CircuitOpen):
            await write(script.context(), change)
        assert script.asked == {"near": FLOOR}
        script.statuses["near"] = 200
        assert (await NearestRead(replicas)(script.context(), QUERY)).region == "near"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path, QUICK) as made:
        yield made


async def test_a_replica_whose_wire_is_cut_is_passed_over_and_found_again(world: Rig) -> None:
    await world.acknowledged("a")
    await world.settle()
    world.nodes[EU].kill()
    for _ in range(FLOOR):
        ctx = context()
        _, source = await world[EU].fetch(ctx, "a")
        assert source.region == US
        assert ctx.trail.last("replica_unavailable")["region"] == EU
    ctx = context()
    _, source = await world[EU].fetch(ctx, "a")
    assert (source.region, ctx.trail.last("replica_unavailable")) == (US, {})
    assert ctx.trail.last("replica_passed_over")["region"] == EU
    await world.nodes[EU].open()
    async with asyncio.timeout(5):
        while source.region != EU:
            await world.world.beat()
            _, source = await world[EU].fetch(context(), "a")


async def test_a_log_that_is_down_refuses_writes_at_once_until_it_is_tried_again(world: Rig) -> None:
    log = world.world[US].log
    await world.acknowledged("a", at=AP)
    log.go_down()
    for _ in range(FLOOR):
        with pytest.raises(HomeUnavailable):
            await world[AP].write(context(), upsert("b"))
    log.come_up()
    with pytest.raises(HomeUnavailable) as caught:
        await world[AP].write(context(), upsert("b"))
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= QUICK.open_s
    await world.acknowledged("c", at=US)  # another gateway has breakers of its own


async def test_writes_of_unknown_outcome_count_as_failures_of_the_log(world: Rig) -> None:
    for _ in range(FLOOR):
        world.world[US].log.lose_next_ack(Landing.NOW)
        with pytest.raises(WriteOutcomeUnknown):
            await world[US].write(context(), upsert("a"))
    with pytest.raises(HomeUnavailable, match="nothing was written"):
        await world[US].write(context(), upsert("b"))
