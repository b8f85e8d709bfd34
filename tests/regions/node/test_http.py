"""The node over HTTP: calls, limits, error shapes, positions, visibility, restarts."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from regions.node.config import NodeConfig
from regions.node.main import DirectoryLocked, run_node
from tests.regions.node.running import NodeClient, make_index, running_node

T = TypeVar("T")

UPSERT, QUERY, DELETE, UPDATE = (
    "/i/a/vectors/upsert",
    "/i/a/query",
    "/i/a/vectors/delete",
    "/i/a/vectors/update",
)
WRITE_LSN, READ_LSN = "x-pinecone-request-lsn", "x-pinecone-max-indexed-lsn"
INCARNATION = "x-meridian-incarnation"


def vector(id_: str, *values: float, **metadata: Any) -> dict[str, Any]:
    return {"id": id_, "values": list(values)} | ({"metadata": metadata} if metadata else {})


async def ids_found(node: NodeClient, namespace: str = "", **options: Any) -> list[str]:
    answer = await node.ok("POST", QUERY, {"vector": [1, 1], "topK": 100, "namespace": namespace} | options)
    return [match["id"] for match in answer.body["matches"]]


async def until(ask: Callable[[], Awaitable[T]], is_good: Callable[[T], bool]) -> None:
    """Ask until the answer is good, for five seconds at most."""
    async with asyncio.timeout(5):
        while not is_good(await ask()):  # noqa: ASYNC110 - the event is behind a socket
            await asyncio.sleep(0.02)


async def test_what_is_written_can_be_found_fetched_listed_and_counted(tmp_path: Path) -> None:
    async with running_node(tmp_path) as node:
        await make_index(node)
        vectors = [
            vector("a1", 0.1, 2, n=1, f=1.0, t=["x", "y"], b=True),
            vector("a2", 3, 4, n=2),
            vector("b", 5, 6),
        ]
        answer = await node.ok("POST", UPSERT, {"vectors": vectors, "namespace": "n"})
        assert (answer.body, answer.headers[WRITE_LSN]) == ({"upsertedCount": 3}, "1")
        assert await ids_found(node, "n", filter={"t": "y"}) == ["a1"]
        fetched = await node.ok("GET", "/i/a/vectors/fetch", ids="a1", namespace="n")
        record = fetched.body["vectors"]["a1"]
        assert record["metadata"] == {"n": 1, "f": 1.0, "t": ["x", "y"], "b": True}
        assert isinstance(record["metadata"]["f"], float)
        assert isinstance(record["metadata"]["n"], int)
        assert record["values"] == pytest.approx([0.1, 2], rel=1e-7)
        page = await node.ok("GET", "/i/a/vectors/list", namespace="n", prefix="a", limit="1")
        assert [each["id"] for each in page.body["vectors"]] == ["a1"]
        token = page.body["pagination"]["next"]
        page = await node.ok("GET", "/i/a/vectors/list", namespace="n", prefix="a", paginationToken=token)
        assert (page.body["vectors"], "pagination" in page.body) == ([{"id": "a2"}], False)
        stats = await node.ok("POST", "/i/a/describe_index_stats", {})
        assert (stats.body["totalVectorCount"], stats.body["dimension"]) == (3, 2)
        assert stats.body["namespaces"] == {"n": {"vectorCount": 3}}


async def test_pages_by_metadata_visit_every_match_once(tmp_path: Path) -> None:
    async with running_node(tmp_path) as node:
        await make_index(node)
        vectors = [vector(f"r{n:02d}", 1, n, even=n % 2 == 0) for n in range(20)]
        await node.ok("POST", UPSERT, {"vectors": vectors})
        seen: list[str] = []
        body: dict[str, Any] = {"filter": {"even": True}, "limit": 4}
        while True:
            page = (await node.ok("POST", "/i/a/vectors/fetch_by_metadata", body)).body
            seen += page["vectors"]
            if "pagination" not in page:
                break
            body["paginationToken"] = page["pagination"]["next"]
        assert seen == [f"r{n:02d}" for n in range(0, 20, 2)]


async def test_updates_and_deletes_reach_exactly_what_they_name(tmp_path: Path) -> None:
    async with running_node(tmp_path) as node:
        await make_index(node)
        await node.ok("POST", UPSERT, {"vectors": [vector(f"r{n}", 1, n, n=n) for n in range(6)]})
        await node.ok("POST", UPDATE, {"id": "r0", "values": [9, 9], "setMetadata": {"x": "new"}})
        await node.ok("POST", UPDATE, {"id": "unknown", "setMetadata": {"x": "new"}})
        by_filter = {"filter": {"n": {"$gte": 4}}, "setMetadata": {"x": "new"}}
        assert (await node.ok("POST", UPDATE, by_filter | {"dryRun": True})).body == {"matchedRecords": 2}
        assert await ids_found(node, filter={"x": "new"}) == ["r0"]
        assert (await node.ok("POST", UPDATE, by_filter)).body == {"matchedRecords": 2}
        assert await ids_found(node, filter={"x": "new"}) == ["r0", "r5", "r4"]
        await node.ok("POST", DELETE, {"filter": {"n": {"$in": [1, 5]}}})
        await node.ok("POST", DELETE, {"ids": ["r2", "unknown"]})
        assert await ids_found(node) == ["r0", "r4", "r3"]
        await node.ok("POST", DELETE, {"deleteAll": True})
        assert await ids_found(node) == []


async def test_namespaces_are_made_listed_by_prefix_and_dropped(tmp_path: Path) -> None:
    async with running_node(tmp_path) as node:
        await make_index(node)
        schema = {"fields": {"g": {"filterable": True}}}
        created = await node.ok("POST", "/i/a/namespaces", {"name": "t/1", "schema": schema})
        assert created.body["record_count"] == "0"
        assert created.body["indexed_fields"] == {"fields": ["g"]}
        assert (await node("POST", "/i/a/namespaces", {"name": "t/1"})).status == 409
        for name in ("t/2", "u"):
            await node.ok("POST", UPSERT, {"vectors": [vector("a", 1, 1)], "namespace": name})
        page = (await node.ok("GET", "/i/a/namespaces", prefix="t/", limit="1")).body
        assert ([each["name"] for each in page["namespaces"]], page["total_count"]) == (["t/1"], 2)
        token = page["pagination"]["next"]
        page = (await node.ok("GET", "/i/a/namespaces", prefix="t/", limit="1", paginationToken=token)).body
        assert [each["name"] for each in page["namespaces"]] == ["t/2"]
        assert (await node.ok("GET", "/i/a/namespaces/t%2F2")).body["record_count"] == "1"
        await node.ok("DELETE", "/i/a/namespaces/t%2F2")
        assert (await node("GET", "/i/a/namespaces/t%2F2")).status == 404


async def test_positions_grow_through_restarts_and_through_the_end_of_a_namespace(tmp_path: Path) -> None:
    upsert = {"vectors": [vector("a", 1, 1)], "namespace": "n"}
    async with running_node(tmp_path) as node:
        await make_index(node)
        assert (await node.ok("POST", UPSERT, upsert)).headers[WRITE_LSN] == "1"
        assert (await node.ok("DELETE", "/i/a/namespaces/n")).headers[WRITE_LSN] == "2"
    async with running_node(tmp_path) as node:
        assert (await node.ok("POST", UPSERT, upsert)).headers[WRITE_LSN] == "3"
        found = await node.ok("POST", QUERY, {"vector": [1, 1], "topK": 1, "namespace": "n"})
        assert found.headers[READ_LSN] == "3"
        assert await ids_found(node, "n") == ["a"]


async def test_with_a_delay_a_write_is_acknowledged_first_and_visible_later(tmp_path: Path) -> None:
    query = {"vector": [1, 1], "topK": 9}
    async with running_node(tmp_path, visibility_delay_ms=300) as node:
        await make_index(node)
        written = await node.ok("POST", UPSERT, {"vectors": [vector("a", 1, 1, n=1)]})
        await node.ok("POST", UPDATE, {"id": "a", "setMetadata": {"n": 2}})
        early = await node.ok("POST", QUERY, query)
        assert (early.body["matches"], early.headers[READ_LSN]) == ([], "0")
        assert written.headers[WRITE_LSN] == "1"
        await until(lambda: node.ok("POST", QUERY, query), lambda answer: answer.headers[READ_LSN] == "2")
        assert await ids_found(node, filter={"n": 2}) == ["a"]


async def test_a_write_that_was_not_yet_visible_survives_a_restart(tmp_path: Path) -> None:
    async with running_node(tmp_path, visibility_delay_ms=600_000) as node:
        await make_index(node)
        await node.ok("POST", UPSERT, {"vectors": [vector("a", 1, 1)]})
        assert await ids_found(node) == []
    async with running_node(tmp_path) as node:
        await until(lambda: ids_found(node), lambda ids: ids == ["a"])


async def test_namespaces_beyond_the_memory_limit_leave_and_come_back(tmp_path: Path) -> None:
    async with running_node(tmp_path, memory_limit_bytes=1 << 20) as node:
        await make_index(node, dimension=256)
        values = [1.0] * 256
        for n in range(12):
            vectors = [{"id": f"r{i}", "values": values, "metadata": {"n": n}} for i in range(150)]
            await node.ok("POST", UPSERT, {"vectors": vectors, "namespace": f"n{n}"})
        for n in (*range(12), 0, 5):
            body = {"vector": values, "topK": 3, "namespace": f"n{n}", "filter": {"n": n}}
            assert len((await node.ok("POST", QUERY, body)).body["matches"]) == 3
        status = (await node.ok("GET", "/statusz")).body
        assert status["loaded_bytes"] <= 1 << 20
        assert 0 < status["loaded_namespaces"] < 12


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", QUERY, b"{", 400, 3),
        ("POST", QUERY, b'{"topK":1,"topK":2,"vector":[1,1]}', 400, 3),
        ("POST", QUERY, {"topK": 1, "vector": [1, 1], "top_k": 1}, 400, 3),
        ("POST", QUERY, {"topK": 1, "vector": ["x", 1]}, 400, 3),
        ("POST", QUERY, b'{"topK":1,"vector":[NaN,1]}', 400, 3),
        ("POST", QUERY, {"topK": 10_001, "vector": [1, 1]}, 400, 3),
        ("POST", QUERY, {"topK": 1, "vector": [1, 1], "filter": {"a": {"$no": 1}}}, 400, 3),
        ("POST", UPSERT, {"vectors": [vector("a", 1)]}, 400, 3),
        ("POST", UPSERT, {"vectors": [vector("a", 1, 1, m=None)]}, 400, 3),
        ("POST", UPSERT, {"vectors": [vector("a", 1, 1, m={"nested": 1})]}, 400, 3),
        ("POST", UPSERT, {"vectors": [vector("a", 1, 1)], "namespace": "é"}, 400, 3),
        ("POST", UPSERT, b" " * ((2 << 20) + 1), 413, 8),
        ("POST", DELETE, {"filter": {}}, 400, 3),
        ("POST", DELETE, {"ids": ["a"], "deleteAll": True}, 400, 3),
        ("POST", DELETE, {}, 400, 3),
        ("POST", UPDATE, {"id": "a", "filter": {"a": 1}}, 400, 3),
        ("POST", UPDATE, {"filter": {}, "setMetadata": {"a": 1}}, 400, 3),
        ("POST", UPDATE, {"filter": {"a": 1}, "values": [1, 1]}, 400, 3),
        ("POST", "/i/a/vectors/fetch_by_metadata", {"filter": {}}, 400, 3),
        ("POST", "/i/a/describe_index_stats", {"filter": {"a": 1}}, 400, 3),
        ("GET", "/i/a/vectors/list?limit=101", None, 400, 3),
        ("GET", "/i/a/vectors/list?paginationToken=%21", None, 400, 3),
        ("GET", "/i/a/vectors/fetch", None, 400, 3),
        ("POST", "/i/a/namespaces", {"name": "__default__"}, 400, 3),
        ("DELETE", "/i/a/namespaces/none", None, 404, 5),
        ("POST", "/i/none/query", {"topK": 1, "vector": [1, 1]}, 404, 5),
        ("GET", "/i/a/nothing/here", None, 404, 5),
        ("GET", "/i/a/bulk/imports", None, 501, 12),
        ("POST", "/i/a/records/namespaces/n/search", {}, 501, 12),
        ("POST", "/i/a/namespaces/n/documents/upsert", {}, 501, 12),
    ],
)
async def test_a_bad_data_plane_call_is_answered_in_its_shape(
    refusing: NodeClient, method: str, path: str, body: Any, status: int, code: int
) -> None:
    answer = await refusing(method, path, body)
    assert (answer.status, answer.body["code"], answer.body["details"]) == (status, code, [])
    assert answer.body["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/indexes/none", None, 404, "NOT_FOUND"),
        ("DELETE", "/indexes/none", None, 404, "NOT_FOUND"),
        ("POST", "/indexes", {"name": "a", "dimension": 2}, 409, "ALREADY_EXISTS"),
        ("POST", "/indexes", {"name": "A", "dimension": 2}, 400, "INVALID_ARGUMENT"),
        ("POST", "/indexes", {"name": "b"}, 400, "INVALID_ARGUMENT"),
        ("POST", "/indexes", {"name": "b", "dimension": 20_001}, 400, "INVALID_ARGUMENT"),
        ("POST", "/indexes", {"name": "b", "dimension": 2, "metric": "x"}, 400, "INVALID_ARGUMENT"),
        ("POST", "/indexes", {"name": "b", "dimension": 2, "vector_type": "sparse"}, 400, "INVALID_ARGUMENT"),
        ("PATCH", "/indexes/a", {"deployment": {"replicas": 2}}, 400, "INVALID_ARGUMENT"),
    ],
)
async def test_a_bad_control_plane_call_is_answered_in_its_shape(
    refusing: NodeClient, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = await refusing(method, path, body)
    assert (answer.status, answer.body["status"], answer.body["error"]["code"]) == (status, status, code)


async def test_an_index_is_protected_until_it_is_configured_otherwise(tmp_path: Path) -> None:
    async with running_node(tmp_path) as node:
        fields = {
            "_values": {"type": "dense_vector", "dimension": 2, "metric": "dotproduct"},
            "_sparse_values": {"type": "sparse_vector"},
        }
        body = {
            "name": "h",
            "schema": {"fields": fields},
            "deletion_protection": "enabled",
            "tags": {"a": "b"},
        }
        created = (await node.ok("POST", "/indexes", body)).body
        assert (created["schema"]["fields"], created["host"]) == (fields, f"{node.url}/i/h")
        assert (await node("DELETE", "/indexes/h")).status == 403
        change = {"deletion_protection": "disabled", "tags": {"a": "", "c": "d"}}
        assert (await node.ok("PATCH", "/indexes/h", change)).body["tags"] == {"c": "d"}
    async with running_node(tmp_path) as node:
        assert (await node.ok("GET", "/indexes")).body["indexes"][0]["tags"] == {"c": "d"}
        assert (await node("DELETE", "/indexes/h")).status == 202


async def test_without_the_key_nobody_comes_in(tmp_path: Path) -> None:
    async with running_node(tmp_path, api_key=SecretStr("right")) as node:
        await node.ok("GET", "/indexes")
        for key in ("wrong", ""):
            async with node.session.get(f"{node.url}/indexes", headers={"Api-Key": key}) as response:
                assert (response.status, response.content_type) == (401, "text/plain")
        async with node.session.get(f"{node.url}/livez", headers={"Api-Key": ""}) as response:
            assert response.status == 200


async def test_requests_beyond_the_bound_are_refused_at_once(tmp_path: Path) -> None:
    async with running_node(tmp_path, max_in_flight=1) as node:
        answers = await asyncio.gather(*(node("GET", "/statusz") for _ in range(20)))
        refused = [answer for answer in answers if answer.status == 503]
        assert refused
        assert refused[0].headers["retry-after"] == "1"


async def test_a_directory_in_use_is_refused_by_name(tmp_path: Path) -> None:
    async with running_node(tmp_path):
        with pytest.raises(DirectoryLocked, match="in use by another node"):
            await run_node(NodeConfig(data_dir=tmp_path), asyncio.Event())


async def test_many_writers_share_commits_and_lose_nothing(tmp_path: Path) -> None:
    async with running_node(tmp_path) as node:
        await make_index(node)
        bodies = [{"vectors": [vector(f"r{n}", 1, n)], "namespace": f"n{n % 3}"} for n in range(90)]
        answers = await asyncio.gather(*(node.ok("POST", UPSERT, body) for body in bodies))
        positions = sorted(int(answer.headers[WRITE_LSN]) for answer in answers)
        assert positions == sorted([*range(1, 31)] * 3)
        stats = await node.ok("POST", "/i/a/describe_index_stats", {})
        assert stats.body["totalVectorCount"] == 90


async def test_no_answer_of_a_new_index_is_told_as_the_old_ones(tmp_path: Path) -> None:
    """Filled, deleted and made anew under reads: whoever is told it is the filled one finds the record."""
    clock = asyncio.get_running_loop().time
    filled_s: dict[str, float] = {}
    seen: list[tuple[str, float, bool]] = []
    async with running_node(tmp_path) as node:

        async def read(stop: asyncio.Event) -> None:
            while not stop.is_set():
                began_s = clock()
                told = await node("GET", "/i/a/vectors/fetch", ids="r")
                if told.status == 200:
                    seen.append((told.headers[INCARNATION], began_s, "r" in told.body["vectors"]))

        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(read(stop))
            for _ in range(12):
                await make_index(node)
                written = await node.ok("POST", UPSERT, {"vectors": [vector("r", 1, 1)]})
                filled_s[written.headers[INCARNATION]] = clock()
                await asyncio.sleep(0.03)
                await node.ok("DELETE", "/indexes/a")
                await make_index(node)
                await node.ok("DELETE", "/indexes/a")
            stop.set()
    of_filled = [is_there for told, began_s, is_there in seen if began_s > filled_s.get(told, clock())]
    assert len(of_filled) > 50
    assert all(of_filled)


async def test_every_answer_tells_which_index_of_that_name_it_is_about(tmp_path: Path) -> None:
    async with running_node(tmp_path) as node:
        await make_index(node)
        first = (await node.ok("POST", QUERY, {"vector": [1, 1], "topK": 1})).headers[INCARNATION]
        written = await node.ok("POST", UPSERT, {"vectors": [vector("r", 1, 1)]})
        assert written.headers[INCARNATION] == first
        await node.ok("DELETE", "/indexes/a")
        await make_index(node)
        second = (await node.ok("GET", "/i/a/vectors/list")).headers[INCARNATION]
        assert second != first
    async with running_node(tmp_path) as node:
        assert (await node.ok("GET", "/i/a/vectors/list")).headers[INCARNATION] == second
