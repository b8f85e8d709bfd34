"""What every kind of replica must do: one suite, run for each file in `regions/replicas/`.

A new kind adds its line to `MAKERS`; a kind without one fails the first test.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from regions import replicas
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
from regions.records import Query, Record, SparseVector
from regions.replicas import memory, pinecone
from regions.replicas.base import Replica
from regions.runtime import lifecycle, plugins
from tests.compat.conftest import create_index
from tests.compat.servers import DIMENSION, INDEX, KEY, node_argv, running

T = 10.0


@pytest.fixture(scope="module")
def index_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real node process with one index of dot product, dense and sparse."""
    directory: Path = tmp_path_factory.mktemp("node")
    port = lifecycle.free_port()
    url = f"http://127.0.0.1:{port}"
    with running(node_argv(directory, port), directory / "node.log", f"{url}/indexes"):
        yield create_index(url)


def over_http(index_url: str) -> Replica:
    config = pinecone.Config(url=index_url, api_key="env:KEY")
    return pinecone.build(config, index=IndexName(INDEX), region=RegionId("us-east"), resolve=lambda _: KEY)


def in_memory(_: str) -> Replica:
    return memory.MemoryReplica(IndexName(INDEX), time.monotonic, dimension=DIMENSION)


MAKERS: dict[str, Callable[[str], Replica]] = {"memory": in_memory, "pinecone": over_http}


@pytest.fixture(params=sorted(MAKERS))
async def replica(request: pytest.FixtureRequest, index_url: str) -> AsyncIterator[Replica]:
    made = MAKERS[request.param](index_url)
    yield made
    await made.close()


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> NamespaceRef:
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return NamespaceRef(IndexName(INDEX), f"tenant0000000001.{name}/ %2F?#")


def axis(number: int) -> list[float]:
    return [1.0 if place == number else 0.0 for place in range(DIMENSION)]


def record(number: int) -> Record:
    sparse = SparseVector([number, 1000], [1.0, 0.5])
    return Record(f"r{number}", axis(number), sparse, {"n": number, "tags": ["all", f"t{number}"]})


async def fill(replica: Replica, namespace: NamespaceRef, count: int = 5) -> None:
    await replica.apply(namespace, Upsert([record(n) for n in range(count)]), timeout_s=T)


async def ids(replica: Replica, namespace: NamespaceRef, **query: Any) -> list[str]:
    asked = Query(**{"top_k": 100, "vector": axis(0), **query})
    found = await replica.query(namespace, asked, timeout_s=T)
    return sorted(match.id for match in found.matches)


def test_every_kind_has_a_maker() -> None:
    assert set(MAKERS) == set(plugins.kinds(replicas))


async def test_what_is_written_is_read_back_whole(replica: Replica, namespace: NamespaceRef) -> None:
    await fill(replica, namespace, 2)
    fetched = await replica.fetch(namespace, ["r0", "r1", "nobody"], timeout_s=T)
    assert fetched.records == {"r0": record(0), "r1": record(1)}


async def test_a_hybrid_score_is_the_sum_of_both_dot_products(
    replica: Replica, namespace: NamespaceRef
) -> None:
    await fill(replica, namespace)
    query = Query(top_k=1, vector=axis(2), sparse_vector=SparseVector([2, 1000], [2.0, 2.0]))
    [match] = (await replica.query(namespace, query, timeout_s=T)).matches
    assert match.id == "r2"
    assert match.score == pytest.approx(4.0)


async def test_each_way_to_change_a_namespace_changes_it(replica: Replica, namespace: NamespaceRef) -> None:
    await fill(replica, namespace)
    await replica.apply(namespace, Update("r0", values=axis(9), set_metadata={"new": True}), timeout_s=T)
    changed = (await replica.fetch(namespace, ["r0"], timeout_s=T)).records["r0"]
    assert changed.values == axis(9)
    assert changed.metadata == {"n": 0, "tags": ["all", "t0"], "new": True}

    counted = await replica.count_matching(namespace, {"n": {"$gte": 3}}, timeout_s=T)
    applied = await replica.apply(namespace, UpdateByFilter({"n": {"$gte": 3}}, {"big": True}), timeout_s=T)
    assert counted.matched == applied.matched == 2
    assert await ids(replica, namespace, filter={"big": True}) == ["r3", "r4"]

    await replica.apply(namespace, Delete(["r0", "nobody"]), timeout_s=T)
    await replica.apply(namespace, DeleteByFilter({"big": True}), timeout_s=T)
    assert await ids(replica, namespace) == ["r1", "r2"]
    await replica.apply(namespace, DeleteAll(), timeout_s=T)
    assert await ids(replica, namespace) == []


async def test_a_change_applied_twice_equals_it_applied_once(
    replica: Replica, namespace: NamespaceRef
) -> None:
    await fill(replica, namespace)
    for change in (Update("r1", set_metadata={"x": 1}), Delete(["r2"]), DeleteByFilter({"n": 3})):
        await replica.apply(namespace, change, timeout_s=T)
        once = await ids(replica, namespace)
        await replica.apply(namespace, change, timeout_s=T)
        assert await ids(replica, namespace) == once


async def test_an_update_of_an_unknown_id_and_a_delete_in_no_namespace_are_no_errors(
    replica: Replica, namespace: NamespaceRef
) -> None:
    await replica.apply(namespace, Delete(["a"]), timeout_s=T)
    await replica.apply(namespace, DeleteAll(), timeout_s=T)
    await replica.apply(namespace, Update("a", set_metadata={"n": 1}), timeout_s=T)
    assert await ids(replica, namespace) == []


async def test_positions_grow_and_reads_pass_them(replica: Replica, namespace: NamespaceRef) -> None:
    first = (await replica.apply(namespace, Upsert([record(0)]), timeout_s=T)).lsn
    second = (await replica.apply(namespace, Delete(["r0"]), timeout_s=T)).lsn
    seen = (await replica.query(namespace, Query(top_k=1, vector=axis(0)), timeout_s=T)).lsn
    assert first is not None
    assert second is not None
    assert seen is not None
    assert first < second <= seen


async def test_ids_are_listed_in_order_and_pages_neither_repeat_nor_skip(
    replica: Replica, namespace: NamespaceRef
) -> None:
    await fill(replica, namespace, 7)
    listed: list[str] = []
    token = None
    while True:
        page = await replica.list_ids(namespace, prefix="r", limit=3, token=token, timeout_s=T)
        listed += page.ids
        token = page.next_token
        if token is None:
            break
        # What goes while the list is read must not push anything else off the page.
        await replica.apply(namespace, Delete([page.ids[0]]), timeout_s=T)
    assert listed == [f"r{n}" for n in range(7)]


async def test_records_are_fetched_by_metadata_page_by_page(
    replica: Replica, namespace: NamespaceRef
) -> None:
    await fill(replica, namespace)
    found: list[str] = []
    token = None
    while True:
        page = await replica.fetch_by_metadata(namespace, {"tags": "all"}, limit=2, token=token, timeout_s=T)
        found += page.records
        token = page.next_token
        if token is None:
            break
    assert sorted(found) == [f"r{n}" for n in range(5)]


async def test_a_namespace_lives_from_its_first_write_to_its_drop(
    replica: Replica, namespace: NamespaceRef
) -> None:
    with pytest.raises(ReplicaRejected) as caught:
        await replica.describe_namespace(namespace, timeout_s=T)
    assert caught.value.status == 404
    await replica.apply(namespace, CreateNamespace({"fields": {"n": {"filterable": True}}}), timeout_s=T)
    with pytest.raises(ReplicaRejected) as caught:
        await replica.apply(namespace, CreateNamespace(), timeout_s=T)
    assert caught.value.status == 409
    await fill(replica, namespace, 3)
    described = await replica.describe_namespace(namespace, timeout_s=T)
    assert (described.stored, described.record_count) == (namespace.stored, 3)
    page = await replica.list_namespaces(prefix=namespace.stored, limit=10, token=None, timeout_s=T)
    assert [(n.stored, n.record_count) for n in page.namespaces] == [(namespace.stored, 3)]
    assert page.total_count == 1
    await replica.apply(namespace, DropNamespace(), timeout_s=T)
    with pytest.raises(ReplicaRejected):
        await replica.describe_namespace(namespace, timeout_s=T)


async def test_namespaces_are_listed_by_prefix_in_order(replica: Replica, namespace: NamespaceRef) -> None:
    names = [NamespaceRef(namespace.index, f"{namespace.stored}-{n}") for n in range(3)]
    for name in names:
        await replica.apply(name, Upsert([record(0)]), timeout_s=T)
    first = await replica.list_namespaces(prefix=namespace.stored, limit=2, token=None, timeout_s=T)
    rest = await replica.list_namespaces(
        prefix=namespace.stored, limit=2, token=first.next_token, timeout_s=T
    )
    assert [n.stored for n in (*first.namespaces, *rest.namespaces)] == [name.stored for name in names]
    assert first.total_count == 3
    assert rest.next_token is None


async def test_the_index_tells_what_it_is(replica: Replica) -> None:
    told = await replica.describe(timeout_s=T)
    assert (told.dimension, told.metric) == (DIMENSION, "dotproduct")
    assert replica.index == INDEX


async def test_a_value_of_the_wrong_shape_is_refused(replica: Replica, namespace: NamespaceRef) -> None:
    with pytest.raises(ReplicaRejected) as caught:
        await replica.query(namespace, Query(top_k=1, vector=[1.0]), timeout_s=T)
    assert caught.value.status == 400


async def test_no_time_left_is_unavailable(index_url: str, namespace: NamespaceRef) -> None:
    """Of an index that is asked over a wire; one in memory has answered by then."""
    replica = over_http(index_url)
    try:
        with pytest.raises(ReplicaUnavailable):
            await replica.query(namespace, Query(top_k=1, vector=axis(0)), timeout_s=1e-6)
    finally:
        await replica.close()
