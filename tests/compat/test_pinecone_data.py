"""The vectors API through the official SDK: the node and the gateway give the same answers."""

import pytest

from tests.compat.conftest import Place
from tests.compat.servers import DIMENSION

pytestmark = pytest.mark.compat


def axis(number: int, scale: float = 1.0) -> list[float]:
    """A unit vector along one axis, times `scale`."""
    return [scale if place == number else 0.0 for place in range(DIMENSION)]


async def fill(place: Place, count: int = 4) -> None:
    """Records r0, r1, …: one axis each, with a number, a parity and a list of strings."""
    await place.index.upsert(
        vectors=[
            {
                "id": f"r{n}",
                "values": axis(n),
                "sparse_values": {"indices": [n, 100], "values": [1.0, 0.5]},
                "metadata": {"n": n, "even": n % 2 == 0, "tags": [f"t{n}", "all"], "name": f"name {n}"},
            }
            for n in range(count)
        ],
        namespace=place.namespace,
    )


async def ids(place: Place, **query: object) -> list[str]:
    """Ids of a query's matches, best first."""
    found = await place.index.query(namespace=place.namespace, **{"top_k": 10, **query})
    return [match.id for match in found.matches]


async def test_upsert_takes_dicts_tuples_and_vectors(place: Place) -> None:
    from pinecone import Vector

    vectors = [{"id": "a", "values": axis(0)}, ("b", axis(1), {"n": 1}), Vector(id="c", values=axis(2))]
    written = await place.index.upsert(vectors=vectors, namespace=place.namespace)
    assert written.upserted_count == 3
    assert set(await ids(place, vector=axis(0))) == {"a", "b", "c"}


async def test_a_dense_query_ranks_by_dot_product(place: Place) -> None:
    await fill(place)
    found = await place.index.query(
        vector=axis(2, 3.0), top_k=2, namespace=place.namespace, include_values=True, include_metadata=True
    )
    best = found.matches[0]
    assert (best.id, best.score) == ("r2", pytest.approx(3.0))
    assert best.metadata == {"n": 2, "even": True, "tags": ["t2", "all"], "name": "name 2"}
    assert best.values == axis(2)
    assert found.namespace == place.namespace
    assert found.usage.read_units >= 1


async def test_a_query_without_includes_gives_ids_and_scores_only(place: Place) -> None:
    await fill(place)
    found = await place.index.query(vector=axis(1), top_k=1, namespace=place.namespace)
    assert not found.matches[0].values
    assert not found.matches[0].metadata


async def test_a_hybrid_query_adds_the_sparse_score(place: Place) -> None:
    await fill(place)
    found = await place.index.query(
        vector=axis(0),
        sparse_vector={"indices": [3], "values": [5.0]},
        top_k=2,
        namespace=place.namespace,
    )
    assert [(m.id, m.score) for m in found.matches] == [("r3", pytest.approx(5)), ("r0", pytest.approx(1))]


async def test_a_query_by_id_uses_the_stored_vector(place: Place) -> None:
    await fill(place)
    assert (await ids(place, id="r1", top_k=1)) == ["r1"]


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ({"n": {"$eq": 1}}, {"r1"}),
        ({"n": 1}, {"r1"}),
        ({"n": {"$ne": 1}}, {"r0", "r2", "r3"}),
        ({"n": {"$gte": 1, "$lt": 3}}, {"r1", "r2"}),
        ({"name": {"$in": ["name 0", "name 3"]}}, {"r0", "r3"}),
        ({"name": {"$nin": ["name 0", "name 3"]}}, {"r1", "r2"}),
        ({"tags": "t2"}, {"r2"}),
        ({"tags": {"$in": ["all"]}}, {"r0", "r1", "r2", "r3"}),
        ({"missing": {"$exists": False}, "even": True}, {"r0", "r2"}),
        ({"$or": [{"n": 0}, {"$and": [{"even": False}, {"n": {"$gt": 2}}]}]}, {"r0", "r3"}),
        ({"n": {"$gt": 100}}, set()),
    ],
)
async def test_filters_narrow_a_query(place: Place, filter_: dict[str, object], expected: set[str]) -> None:
    await fill(place)
    assert set(await ids(place, vector=axis(0), filter=filter_)) == expected


async def test_several_namespaces_are_queried_as_one(place: Place) -> None:
    await fill(place, 1)
    other = f"{place.namespace}-2"
    await place.index.upsert(vectors=[("x", axis(0, 2.0))], namespace=other)
    found = await place.index.query_namespaces(
        vector=axis(0), namespaces=[place.namespace, other], metric="dotproduct", top_k=2
    )
    assert [match.id for match in found.matches] == ["x", "r0"]


async def test_fetch_gives_whole_records_and_leaves_out_unknown_ids(place: Place) -> None:
    await fill(place)
    found = await place.index.fetch(ids=["r0", "r3", "nobody"], namespace=place.namespace)
    assert set(found.vectors) == {"r0", "r3"}
    record = found.vectors["r3"]
    assert record.values == axis(3)
    assert list(record.sparse_values.indices) == [3, 100]
    assert record.metadata["n"] == 3
    assert found.namespace == place.namespace


async def test_fetch_takes_a_thousand_ids_in_its_url(place: Place) -> None:
    names = [f"{'x' * 40}-{n}" for n in range(1000)]  # with more, the SDK itself refuses the URL
    await place.index.upsert(vectors=[(names[-1], axis(0))], namespace=place.namespace)
    found = await place.index.fetch(ids=names, namespace=place.namespace)
    assert set(found.vectors) == {names[-1]}


async def test_fetch_by_metadata_goes_page_by_page(place: Place) -> None:
    await fill(place, 5)
    seen: list[str] = []
    token = None
    while True:
        page = await place.index.fetch_by_metadata(
            filter={"tags": "all"}, namespace=place.namespace, limit=2, pagination_token=token
        )
        seen += page.vectors
        assert len(page.vectors) <= 2
        if page.pagination is None or not page.pagination.next:
            break
        token = page.pagination.next
    assert sorted(seen) == ["r0", "r1", "r2", "r3", "r4"]


async def test_update_by_id_changes_the_parts_it_names(place: Place) -> None:
    await fill(place)
    await place.index.update(
        id="r0", values=axis(9), set_metadata={"n": 100, "new": "x"}, namespace=place.namespace
    )
    record = (await place.index.fetch(ids=["r0"], namespace=place.namespace)).vectors["r0"]
    assert record.values == axis(9)
    assert record.metadata == {"n": 100, "even": True, "tags": ["t0", "all"], "name": "name 0", "new": "x"}


async def test_update_by_filter_counts_first_and_then_changes(place: Place) -> None:
    await fill(place)
    by_filter = {"filter": {"even": True}, "set_metadata": {"seen": True}, "namespace": place.namespace}
    counted = await place.index.update(**by_filter, dry_run=True)
    assert counted.matched_records == 2
    assert await ids(place, vector=axis(0), filter={"seen": True}) == []
    assert (await place.index.update(**by_filter)).matched_records == 2
    assert set(await ids(place, vector=axis(0), filter={"seen": True})) == {"r0", "r2"}


async def test_delete_by_ids_by_filter_and_of_everything(place: Place) -> None:
    await fill(place, 5)
    await place.index.delete(ids=["r0", "nobody"], namespace=place.namespace)
    assert set(await ids(place, vector=axis(0))) == {"r1", "r2", "r3", "r4"}
    await place.index.delete(filter={"n": {"$gt": 2}}, namespace=place.namespace)
    assert set(await ids(place, vector=axis(0))) == {"r1", "r2"}
    await place.index.delete(delete_all=True, namespace=place.namespace)
    assert await ids(place, vector=axis(0)) == []


async def test_list_gives_every_id_once_in_order(place: Place) -> None:
    await fill(place, 7)
    await place.index.upsert(vectors=[("other", axis(0))], namespace=place.namespace)
    pages = await place.index.all("list", prefix="r", limit=3, namespace=place.namespace)
    listed = [[item.id for item in page.vectors] for page in pages]
    assert listed == [["r0", "r1", "r2"], ["r3", "r4", "r5"], ["r6"]]


async def test_list_paginated_hands_out_a_token_until_the_last_page(place: Place) -> None:
    await fill(place, 3)
    first = await place.index.list_paginated(limit=2, namespace=place.namespace)
    last = await place.index.list_paginated(
        limit=2, namespace=place.namespace, pagination_token=first.pagination.next
    )
    assert [item.id for item in (*first.vectors, *last.vectors)] == ["r0", "r1", "r2"]
    assert last.pagination is None


async def test_stats_count_the_namespace(place: Place) -> None:
    await fill(place, 3)
    stats = await place.index.describe_index_stats()
    assert stats.namespaces[place.namespace].vector_count == 3
    assert stats.dimension == DIMENSION
    assert stats.total_vector_count >= 3


async def test_a_namespace_is_made_described_listed_and_dropped(place: Place) -> None:
    made = await place.index.create_namespace(
        name=place.namespace, schema={"fields": {"n": {"filterable": True}}}
    )
    assert (made.name, made.record_count) == (place.namespace, 0)
    assert made.indexed_fields.fields == ["n"]
    await fill(place, 2)
    assert (await place.index.describe_namespace(name=place.namespace)).record_count == 2
    page = await place.index.list_namespaces_paginated(prefix=place.namespace, limit=1)
    assert [n.name for n in page.namespaces] == [place.namespace]
    assert page.total_count == 1
    await place.index.delete_namespace(name=place.namespace)
    assert (
        await place.index.all("list_namespaces", prefix=place.namespace) == []
        or [n for p in await place.index.all("list_namespaces", prefix=place.namespace) for n in p.namespaces]
        == []
    )


async def test_namespaces_are_listed_page_by_page(place: Place) -> None:
    names = [f"{place.namespace}-{n}" for n in range(3)]
    for name in names:
        await place.index.upsert(vectors=[("a", axis(0))], namespace=name)
    pages = await place.index.all("list_namespaces", prefix=f"{place.namespace}-", limit=2)
    assert [[n.name for n in page.namespaces] for page in pages] == [names[:2], names[2:]]


async def test_the_default_namespace_has_two_names(place: Place) -> None:
    await place.index.upsert(vectors=[(place.namespace, axis(0))])
    found = await place.index.fetch(ids=[place.namespace], namespace="__default__")
    assert set(found.vectors) == {place.namespace}


async def test_a_write_tells_its_position_and_a_read_how_far_it_saw(place: Place) -> None:
    written = await place.index.upsert(vectors=[("a", axis(0))], namespace=place.namespace)
    lsn = written.response_info.lsn_committed
    assert lsn is not None
    found = await place.index.query(vector=axis(0), top_k=1, namespace=place.namespace)
    assert found.response_info.is_reconciled(lsn)
    again = await place.index.upsert(vectors=[("a", axis(1))], namespace=place.namespace)
    assert again.response_info.lsn_committed > lsn
