"""A node under a replicator: it remembers where in the log a namespace is, and refuses what is older.

Driven through the replica's own client, so that header, status and error mean the same on both sides.
"""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from regions.changes import Change, Delete, DeleteAll, DropNamespace, Update, Upsert
from regions.errors import ReplicaAhead
from regions.names import IndexName, NamespaceRef, RegionId
from regions.node.schema import FORMAT, open_for_writing
from regions.positions import Lsn
from regions.records import Record
from regions.replicas.pinecone import Config, PineconeReplica
from tests.regions.node.running import running_node

INDEX = IndexName("docs")
NAMESPACE = NamespaceRef(INDEX, "t.a")


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[PineconeReplica]:
    async with running_node(tmp_path) as node:
        spec = {"serverless": {"cloud": "aws", "region": "us-east-1"}}
        body = {"name": INDEX, "dimension": 2, "metric": "dotproduct", "spec": spec}
        await node.ok("POST", "/indexes", body)
        config = Config.model_validate({"url": f"{node.url}/i/{INDEX}"})
        replica = PineconeReplica(config, index=INDEX, region=RegionId("here"), api_key=None)
        yield replica
        await replica.close()


def put(n: int) -> Upsert:
    return Upsert([Record("x", [float(n), 1.0])])


async def apply(replica: PineconeReplica, change: Change, position: int | None) -> None:
    at = None if position is None else Lsn(position)
    await replica.apply(NAMESPACE, change, timeout_s=5, position=at)


async def value(replica: PineconeReplica) -> float | None:
    found = (await replica.fetch(NAMESPACE, ["x"], timeout_s=5)).records.get("x")
    return None if found is None else found.values[0]


async def test_an_older_change_is_refused_and_the_refusal_says_where_the_namespace_is(
    replica: PineconeReplica,
) -> None:
    await apply(replica, put(1), 10)
    await apply(replica, put(2), 20)
    with pytest.raises(ReplicaAhead) as refused:
        await apply(replica, put(3), 19)
    assert refused.value.position == 20
    assert await value(replica) == 2.0


async def test_the_same_position_is_applied_again(replica: PineconeReplica) -> None:
    await apply(replica, put(1), 10)
    await apply(replica, put(2), 10)
    assert await value(replica) == 2.0


@pytest.mark.parametrize(
    "change", [put(3), Delete(["x"]), Update("x", [3.0, 1.0]), DeleteAll(), DropNamespace()], ids=repr
)
async def test_every_kind_of_write_is_refused_when_it_is_older(
    replica: PineconeReplica, change: Change
) -> None:
    await apply(replica, put(1), 10)
    with pytest.raises(ReplicaAhead):
        await apply(replica, change, 9)
    assert await value(replica) == 1.0


async def test_positions_outlive_the_namespace(replica: PineconeReplica) -> None:
    await apply(replica, put(1), 10)
    await apply(replica, DropNamespace(), 11)
    with pytest.raises(ReplicaAhead):
        await apply(replica, put(2), 10)
    await apply(replica, put(3), 12)
    assert await value(replica) == 3.0


async def test_a_write_without_a_position_moves_none(replica: PineconeReplica) -> None:
    await apply(replica, put(1), 10)
    await apply(replica, put(2), None)
    await apply(replica, put(3), 10)
    assert await value(replica) == 3.0


async def test_a_header_that_is_no_position_is_a_bad_call(tmp_path: Path) -> None:
    async with running_node(tmp_path) as node:
        body = {"name": INDEX, "dimension": 2, "metric": "dotproduct"}
        spec = {"serverless": {"cloud": "aws", "region": "us-east-1"}}
        await node.ok("POST", "/indexes", body | {"spec": spec})
        url, vectors = f"{node.url}/i/{INDEX}/vectors/delete", {"ids": ["x"], "namespace": "t.a"}
        headers = {"x-meridian-apply": "soon"}
        async with node.session.post(url, json=vectors, headers=headers) as answer:
            assert answer.status == 400


def test_a_store_of_the_format_before_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    db = open_for_writing(path)
    db.execute("ALTER TABLE namespaces DROP COLUMN position")
    db.execute("PRAGMA user_version=1")
    db.close()
    db = open_for_writing(path)
    assert db.execute("PRAGMA user_version").fetchone()[0] == FORMAT
    db.execute("SELECT position FROM namespaces")
    db.close()


def test_a_store_of_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    db = open_for_writing(path)
    db.execute(f"PRAGMA user_version={FORMAT + 1}")
    db.close()
    with pytest.raises(sqlite3.DatabaseError, match="format"):
        open_for_writing(path)
