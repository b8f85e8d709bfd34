"""Which replica is asked, and what its failures mean to a caller: real replicas of scripted servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.context import RequestContext
from gateway.errors import (
    BadRequest,
    Conflict,
    DeadlineExceeded,
    GatewayError,
    NotFound,
    RetrievalUnavailable,
    UpstreamUnavailable,
)
from gateway.stages import nearest_read
from gateway.stages.apply_write import ApplyWrite
from gateway.stages.nearest_read import Candidate, NearestRead
from gateway.tenants import Tenant
from regions.changes import DeleteAll, Write
from regions.names import IndexName, NamespaceRef, RegionId
from regions.records import Query
from regions.replicas.pinecone import Config, build

INDEX = IndexName("docs")
NAMESPACE = NamespaceRef(INDEX, "tenant0000000001.a")
SILENT = 0
QUERY = nearest_read.query(NAMESPACE, Query(top_k=1, vector=[1.0]))


def context(left_s: float = 5.0) -> RequestContext:
    tenant = Tenant(id="tenant0000000001", name="t")
    return RequestContext("r", tenant, "pinecone", 100.0, 100.0 + left_s, clock=lambda: 100.0)


@asynccontextmanager
async def regions(**statuses: int) -> AsyncIterator[dict[IndexName, list[Candidate]]]:
    """Candidates in order, each answering every call with its status."""
    async with AsyncExitStack() as stack:
        candidates = []
        for name, status in statuses.items():

            async def answer(_: web.Request, status: int = status) -> web.Response:
                if status == SILENT:
                    await asyncio.Event().wait()
                message = f"as told of {NAMESPACE.stored}"
                return web.json_response({"code": 3, "message": message}, status=status)

            app = web.Application()
            app.router.add_route("*", "/{path:.*}", answer)
            server = await stack.enter_async_context(
                TestServer(app, handler_cancellation=True, shutdown_timeout=0.1)
            )
            replica = build(
                Config(url=str(server.make_url("/"))), index=INDEX, region=RegionId(name), resolve=str
            )
            stack.push_async_callback(replica.close)
            candidates.append(Candidate(RegionId(name), replica))
        yield {INDEX: candidates}


async def test_the_first_candidate_that_answers_serves() -> None:
    async with regions(here=503, near=429, far=200) as replicas:
        ctx = context()
        served = await NearestRead(replicas)(ctx, QUERY)
    assert served.region == "far"
    told = [(note.name, note.details["region"]) for note in ctx.trail.notes]
    assert told == [("replica_unavailable", "here"), ("replica_unavailable", "near"), ("read", "far")]
    assert "retrieve" in ctx.trail.stages_s


async def test_a_preferred_region_is_asked_first_and_is_no_condition() -> None:
    async with regions(here=200, near=200, far=503) as replicas:
        read = nearest_read.list_ids(NAMESPACE, prefix="", limit=1, token=None, prefer=RegionId("near"))
        with pytest.raises(RetrievalUnavailable):  # `{}` is no list: the fakes answer queries only
            await NearestRead(replicas)(context(), read)
        far = nearest_read.Read(INDEX, QUERY.ask, prefer=RegionId("far"))
        near = nearest_read.Read(INDEX, QUERY.ask, prefer=RegionId("near"))
        assert (await NearestRead(replicas)(context(), near)).region == "near"
        assert (await NearestRead(replicas)(context(), far)).region == "here"


async def test_a_silent_replica_leaves_time_for_the_others() -> None:
    async with regions(here=SILENT, near=200) as replicas:
        served = await NearestRead(replicas)(context(left_s=0.4), QUERY)
    assert served.region == "near"


async def test_a_refusal_names_namespaces_as_the_tenant_does() -> None:
    async with regions(here=404) as replicas:
        with pytest.raises(NotFound) as caught:
            await NearestRead(replicas)(context(), nearest_read.describe_namespace(NAMESPACE))
    assert caught.value.message == "as told of a"


async def test_no_replica_left_is_said_without_naming_what_stands_behind() -> None:
    async with regions(here=503) as replicas:
        with pytest.raises(RetrievalUnavailable) as caught:
            await NearestRead(replicas)(context(), QUERY)
    assert caught.value.message == "no replica of the index docs answered"
    with pytest.raises(RetrievalUnavailable):
        await NearestRead({})(context(), QUERY)


async def test_where_the_index_is_gone_another_replica_is_asked() -> None:
    async with regions(here=404, near=200) as replicas:
        assert (await NearestRead(replicas)(context(), QUERY)).region == "near"


@pytest.mark.parametrize(("status", "error"), [(400, BadRequest), (404, NotFound), (409, Conflict)])
async def test_a_refusal_is_the_callers_and_asks_nobody_else(status: int, error: type[GatewayError]) -> None:
    async with regions(here=status, near=200) as replicas:
        with pytest.raises(error, match="as told"):
            await NearestRead(replicas)(context(), nearest_read.describe_namespace(NAMESPACE))
        with pytest.raises(error, match="as told"):
            await ApplyWrite(replicas)(context(), Write(NAMESPACE, DeleteAll()))


async def test_no_replica_is_asked_after_the_deadline() -> None:
    async with regions(here=200) as replicas:
        with pytest.raises(DeadlineExceeded):
            await NearestRead(replicas)(context(left_s=0), QUERY)


async def test_a_write_goes_home_or_nowhere() -> None:
    async with regions(home=503, near=200) as replicas:
        with pytest.raises(UpstreamUnavailable):
            await ApplyWrite(replicas)(context(), Write(NAMESPACE, DeleteAll()))
