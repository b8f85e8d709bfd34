"""The client against a server that says what the test told it to: real sockets, no index."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from regions.changes import (
    CreateNamespace,
    Delete,
    DeleteAll,
    DeleteByFilter,
    DropNamespace,
    Update,
    UpdateByFilter,
    Upsert,
)
from regions.errors import ReplicaRejected, ReplicaUnavailable
from regions.names import IndexName, NamespaceRef, RegionId
from regions.records import Query, Record
from regions.replicas.pinecone import Config, PineconeReplica, build

NAMESPACE = NamespaceRef(IndexName("docs"), "tenant0000000001.a/b c")
QUERY = Query(top_k=1, vector=[1.0])
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def app_of(answer: Answer) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


@asynccontextmanager
async def replica_of(answer: Answer, **config: object) -> AsyncIterator[PineconeReplica]:
    """A client of a server that gives every request to `answer`."""
    async with TestServer(app_of(answer)) as server:
        client = build(
            Config(url=str(server.make_url("/")), **config),
            index=IndexName("docs"),
            region=RegionId("us-east"),
            resolve=lambda ref: f"secret of {ref}",
        )
        try:
            yield client
        finally:
            await client.close()


def saying(status: int, body: str, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, headers=headers)

    return answer


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 504])
async def test_trouble_that_another_replica_may_not_have_is_unavailable(status: int) -> None:
    async with replica_of(saying(status, "no", **{"Retry-After": "7"})) as replica:
        with pytest.raises(ReplicaUnavailable) as caught:
            await replica.query(NAMESPACE, QUERY, timeout_s=5)
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("asked", "wait_s"), [("9" * 400, 3600), ("0", 0), ("-1", None), ("Mon, 23 Nov 2026 12:00:00 GMT", None)]
)
async def test_a_wait_that_is_asked_for_is_bounded(asked: str, wait_s: float | None) -> None:
    async with replica_of(saying(503, "no", **{"Retry-After": asked})) as replica:
        with pytest.raises(ReplicaUnavailable) as caught:
            await replica.query(NAMESPACE, QUERY, timeout_s=5)
    assert caught.value.retry_after_s == wait_s


async def test_an_answer_without_end_is_given_up_before_it_fills_the_memory() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 10_000)

    async with TestServer(app_of(endless)) as server:
        replica = PineconeReplica(
            Config(url=str(server.make_url("/"))),
            index=IndexName("docs"),
            region=RegionId("us-east"),
            api_key=None,
            max_answer_bytes=50_000,
        )
        with pytest.raises(ReplicaUnavailable, match="more than 50000 bytes"):
            await replica.query(NAMESPACE, QUERY, timeout_s=5)
        await replica.close()


async def test_a_refusal_keeps_the_indexs_own_words() -> None:
    body = '{"code":3,"message":"Vector dimension 1 does not match","details":[]}'
    async with replica_of(saying(400, body)) as replica:
        with pytest.raises(ReplicaRejected, match="Vector dimension 1") as caught:
            await replica.query(NAMESPACE, QUERY, timeout_s=5)
    assert (caught.value.status, caught.value.code) == (400, 3)


@pytest.mark.parametrize("body", ["<html>please log in</html>", "", '{"matches":[{"id":5}]}', '{"matches":'])
async def test_a_success_that_is_not_pinecones_is_unavailable(body: str) -> None:
    async with replica_of(saying(200, body)) as replica:
        with pytest.raises(ReplicaUnavailable, match="not Pinecone's"):
            await replica.query(NAMESPACE, QUERY, timeout_s=5)


async def test_an_unreadable_position_is_unavailable_rather_than_zero() -> None:
    async with replica_of(saying(200, "{}", **{"x-pinecone-max-indexed-lsn": "soon"})) as replica:
        with pytest.raises(ReplicaUnavailable, match="unreadable"):
            await replica.query(NAMESPACE, QUERY, timeout_s=5)


async def test_positions_are_read_from_pinecones_headers_or_their_older_names() -> None:
    async with replica_of(saying(200, "{}", **{"x-pinecone-max-indexed-lsn": "12"})) as replica:
        assert (await replica.query(NAMESPACE, QUERY, timeout_s=5)).lsn == 12
    async with replica_of(saying(200, "{}", **{"x-pinecone-lsn-committed": "13"})) as replica:
        assert (await replica.apply(NAMESPACE, DeleteAll(), timeout_s=5)).lsn == 13
    async with replica_of(saying(200, "{}")) as replica:
        assert (await replica.query(NAMESPACE, QUERY, timeout_s=5)).lsn is None


async def test_silence_is_unavailable_within_the_timeout() -> None:
    gone = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await gone.wait()
        return web.Response()

    async with replica_of(silent) as replica:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(ReplicaUnavailable, match="did not answer"):
            await replica.query(NAMESPACE, QUERY, timeout_s=0.1)
        assert loop.time() - began < 1
        gone.set()


async def test_nobody_listening_is_unavailable() -> None:
    replica = build(
        Config(url="http://127.0.0.1:1"),
        index=IndexName("docs"),
        region=RegionId("us-east"),
        resolve=str,
    )
    with pytest.raises(ReplicaUnavailable, match="cannot be reached"):
        await replica.query(NAMESPACE, QUERY, timeout_s=5)
    await replica.close()


def closing_every_second(seen: list[str]) -> Answer:
    """Answers the first request of a connection, and closes it under the second."""
    served = set[object]()

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.path)
        await request.read()
        if request.transport in served:
            assert request.transport is not None
            request.transport.abort()
        served.add(request.transport)
        return web.json_response({})

    return answer


async def test_a_stale_connection_costs_one_silent_repetition() -> None:
    seen: list[str] = []
    async with replica_of(closing_every_second(seen)) as replica:
        await replica.apply(NAMESPACE, DeleteAll(), timeout_s=5)
        await replica.apply(NAMESPACE, DeleteAll(), timeout_s=5)
    assert len(seen) == 3


async def test_a_change_that_is_not_idempotent_is_not_repeated() -> None:
    seen: list[str] = []
    async with replica_of(closing_every_second(seen)) as replica:
        await replica.apply(NAMESPACE, DeleteAll(), timeout_s=5)
        with pytest.raises(ReplicaUnavailable):
            await replica.apply(NAMESPACE, CreateNamespace(), timeout_s=5)
    assert len(seen) == 2


async def test_a_fresh_connection_that_breaks_is_not_repeated() -> None:
    seen: list[str] = []

    async def breaking(request: web.Request) -> web.Response:
        seen.append(request.path)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with replica_of(breaking) as replica:
        with pytest.raises(ReplicaUnavailable):
            await replica.query(NAMESPACE, QUERY, timeout_s=5)
    assert len(seen) == 1


async def test_every_change_becomes_pinecones_call_for_it() -> None:
    seen: list[tuple[str, str, object]] = []

    async def note(request: web.Request) -> web.Response:
        told = await request.json() if request.can_read_body else None
        seen.append((request.method, request.raw_path, told))
        return web.json_response({"upsertedCount": 1, "matchedRecords": 4})

    stored = NAMESPACE.stored
    async with replica_of(note) as replica:
        await replica.apply(NAMESPACE, Upsert([Record("a", [1.0])]), timeout_s=5)
        await replica.apply(NAMESPACE, Update("a", set_metadata={"n": 1}), timeout_s=5)
        by_filter = await replica.apply(NAMESPACE, UpdateByFilter({"a": 1}, {"n": 1}), timeout_s=5)
        await replica.apply(NAMESPACE, Delete(["a"]), timeout_s=5)
        await replica.apply(NAMESPACE, DeleteByFilter({"a": 1}), timeout_s=5)
        await replica.apply(NAMESPACE, DeleteAll(), timeout_s=5)
        await replica.apply(NAMESPACE, CreateNamespace(), timeout_s=5)
        await replica.apply(NAMESPACE, DropNamespace(), timeout_s=5)
        counted = await replica.count_matching(NAMESPACE, {"a": 1}, timeout_s=5)
    assert by_filter.matched == counted.matched == 4
    dry_run = seen.pop()[2]
    assert isinstance(dry_run, dict)
    assert dry_run["dryRun"] is True
    assert seen == [
        ("POST", "/vectors/upsert", {"vectors": [{"id": "a", "values": [1.0]}], "namespace": stored}),
        ("POST", "/vectors/update", {"namespace": stored, "id": "a", "setMetadata": {"n": 1}}),
        ("POST", "/vectors/update", {"namespace": stored, "filter": {"a": 1}, "setMetadata": {"n": 1}}),
        ("POST", "/vectors/delete", {"namespace": stored, "ids": ["a"]}),
        ("POST", "/vectors/delete", {"namespace": stored, "filter": {"a": 1}}),
        ("POST", "/vectors/delete", {"namespace": stored, "deleteAll": True}),
        ("POST", "/namespaces", {"name": stored}),
        ("DELETE", "/namespaces/tenant0000000001.a%2Fb%20c", None),
    ]


async def test_the_key_goes_with_every_call() -> None:
    keys: list[str | None] = []

    async def note(request: web.Request) -> web.Response:
        keys.append(request.headers.get("Api-Key"))
        return web.json_response({})

    async with replica_of(note, api_key="env:PINECONE") as replica:
        await replica.query(NAMESPACE, QUERY, timeout_s=5)
    async with replica_of(note) as replica:
        await replica.query(NAMESPACE, QUERY, timeout_s=5)
    assert keys == ["secret of env:PINECONE", None]


@pytest.mark.parametrize("url", ["", "host", "ftp://host", "https://", "https://host?x=1"])
def test_a_url_that_is_none_is_refused_by_the_config(url: str) -> None:
    with pytest.raises(ValidationError, match="must look like"):
        Config(url=url)
