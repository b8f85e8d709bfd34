"""The whole product in three regions: real log servers, nodes, replicators and gateways in one loop."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from gateway.cli import _app
from regions.positions import epoch_of, parse_lsn
from tests.gateway.running import OTHER_KEY
from tests.gateway.three_regions import DIMENSION, Three, three_regions

pytestmark = pytest.mark.asyncio(loop_scope="module")

US, EU, AP = "us-east", "eu-west", "ap-southeast"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Three]:
    async with three_regions(tmp_path_factory.mktemp("three")) as made:
        async with asyncio.timeout(30):
            for _ in range(300):
                if (await call(made, US, "/vectors/upsert", upsert("warm"))).status == 200:
                    break
                await asyncio.sleep(0.1)  # no home is established yet
        yield made


def upsert(*ids: str, namespace: str = "a") -> dict[str, Any]:
    vectors = [{"id": id_, "values": [1.0] * DIMENSION, "metadata": {"of": id_}} for id_ in ids]
    return {"vectors": vectors, "namespace": namespace}


def query(**fields: Any) -> dict[str, Any]:
    return {"vector": [1.0] * DIMENSION, "topK": 100, "namespace": "a", **fields}


async def call(
    three: Three, region: str, path: str, body: dict[str, Any] | None = None, **headers: str
) -> aiohttp.ClientResponse:
    gateway = three.gateways[region]
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    method = "GET" if body is None else "POST"
    async with gateway.session.request(method, gateway.url + path, json=body, headers=named) as response:
        await response.read()
        return response


async def ids(response: aiohttp.ClientResponse) -> set[str]:
    assert response.status == 200, await response.text()
    return {match["id"] for match in (await response.json())["matches"]}


async def test_a_write_through_one_region_is_read_at_once_in_another_with_its_floor(three: Three) -> None:
    for number in range(10):
        written = await call(three, EU, "/vectors/upsert", upsert(f"f{number}"))
        assert written.status == 200, await written.text()
        lsn = written.headers["x-pinecone-request-lsn"]
        assert lsn == written.headers["x-meridian-lsn"]
        found = await call(three, AP, "/query", query(), x_meridian_min_lsn=lsn)
        assert f"f{number}" in await ids(found)
        assert parse_lsn(found.headers["x-pinecone-max-indexed-lsn"]) >= parse_lsn(lsn)
        assert found.headers["x-meridian-lsn"] == found.headers["x-pinecone-max-indexed-lsn"]
        assert int(found.headers["x-meridian-staleness-ms"]) >= 0
        assert found.headers["x-meridian-replica"] in (US, EU, AP)


async def test_an_ack_waits_for_the_replica_that_is_named(three: Three) -> None:
    written = await call(three, US, "/vectors/upsert", upsert("acked"), x_meridian_ack=f"region={AP}")
    assert written.headers["x-meridian-acked"] == f"region={AP}"
    fetched = await call(three, AP, "/vectors/fetch?ids=acked&namespace=a")
    assert "acked" in (await fetched.json())["vectors"]


async def test_filters_are_resolved_once_for_all_regions(three: Three) -> None:
    await call(three, US, "/vectors/upsert", upsert("x1", "x2"), x_meridian_ack="applied")
    change = {"filter": {"of": {"$eq": "x1"}}, "setMetadata": {"seen": True}, "namespace": "a"}
    updated = await call(three, EU, "/vectors/update", change, x_meridian_ack="applied")
    assert (await updated.json())["matchedRecords"] == 1
    assert updated.headers["x-meridian-counted-lsn"]
    gone = await call(
        three,
        AP,
        "/vectors/delete",
        {"filter": {"seen": {"$eq": True}}, "namespace": "a"},
        x_meridian_ack=f"region={US}",
    )
    assert gone.headers["x-meridian-acked"] == f"region={US}"
    lsn = gone.headers["x-meridian-lsn"]
    for region in (US, EU, AP):
        left = await ids(await call(three, region, "/query", query(), x_meridian_min_lsn=lsn))
        assert "x1" not in left
        assert "x2" in left


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x_meridian_min_lsn", "soon"),
        ("x_meridian_max_staleness_s", "0"),
        ("x_meridian_max_staleness_s", "-1"),
        ("x_meridian_ack", "perhaps"),
    ],
)
async def test_a_header_that_says_nothing_is_the_callers_mistake(
    three: Three, header: str, value: str
) -> None:
    answer = await call(three, US, "/query", query(), **{header: value})
    assert answer.status == 400
    assert header.replace("_", "-") in (await answer.json())["message"]


async def test_a_floor_of_no_epoch_is_superseded_in_pinecones_shape(three: Three) -> None:
    answer = await call(three, EU, "/query", query(), x_meridian_min_lsn=str(500 << 40 | 1))
    body = await answer.json()
    assert (answer.status, body["code"], body["details"]) == (409, 9, [])


async def test_stats_are_the_tenants_own_and_have_no_floor(three: Three) -> None:
    await call(three, US, "/vectors/upsert", upsert("s"), x_meridian_ack="applied")
    stats = await call(three, US, "/describe_index_stats", {})
    assert set((await stats.json())["namespaces"]) == {"a"}
    assert (await call(three, US, "/describe_index_stats", {}, x_meridian_min_lsn="1")).status == 400
    other = await call(three, US, "/i/docs/describe_index_stats", {}, Api_Key=OTHER_KEY, Authorization="")
    assert (await other.json())["namespaces"] == {}


async def command(three: Three, *arguments: str) -> tuple[int, str]:
    """A `meridian` command, in a thread with a loop of its own; its exit code and output."""
    argv = [*arguments, "--config", str(three.file)]
    result = await asyncio.to_thread(CliRunner().invoke, _app(arguments[0]), argv)
    return result.exit_code, result.output


async def test_status_shows_every_region_home_and_namespace(three: Three) -> None:
    code, out = await command(three, "status", "--json")
    facts = json.loads(out)
    assert code == 0, out
    assert facts["homes"]["docs"]["region"] == US
    assert set(facts["replicas"]["docs"]) == {US, EU, AP}
    ((stored, standings),) = facts["namespaces"]["docs"].items()
    assert stored.endswith(".a")
    assert all(each["queryable_lag_s"] < 5 for each in standings.values())
    code, out = await command(three, "status")
    assert "epoch 1" in out


async def test_verify_finds_a_difference_and_repairs_it_through_the_log(three: Three) -> None:
    code, out = await command(three, "verify", "--index", "docs")
    assert (code, "equal" in out) == (0, True), out
    # Somebody writes to one replica behind everyone's back.
    url = next(r["url"] for r in three.config["indexes"]["docs"]["replicas"] if r["region"] == AP)
    stored = json.loads((await command(three, "verify", "--index", "docs", "--json"))[1].splitlines()[0])
    async with aiohttp.ClientSession() as session:
        body = {"ids": ["warm"], "namespace": stored["namespace"]}
        async with session.post(f"{url}/vectors/delete", json=body) as response:
            assert response.status == 200
        rogue = {**upsert("rogue"), "namespace": stored["namespace"]}
        async with session.post(f"{url}/vectors/upsert", json=rogue) as response:
            assert response.status == 200
    code, out = await command(three, "verify", "--index", "docs")
    assert code == 1
    assert "warm: missing in ap-southeast" in out
    assert "rogue: missing in eu-west, us-east" in out
    code, out = await command(three, "verify", "--index", "docs", "--repair")
    assert code == 0, out
    found = await call(three, AP, "/vectors/fetch?ids=warm&ids=rogue&namespace=a")
    assert set((await found.json())["vectors"]) == {"warm"}


async def test_an_order_to_resync_is_carried_out_and_heals_the_replica(three: Three) -> None:
    url = next(r["url"] for r in three.config["indexes"]["docs"]["replicas"] if r["region"] == AP)
    stored = json.loads((await command(three, "verify", "--index", "docs", "--json"))[1].splitlines()[0])
    namespace = stored["namespace"]
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/vectors/delete", json={"ids": ["warm"], "namespace": namespace}) as response,
    ):
        assert response.status == 200
    assert (await command(three, "verify", "--index", "docs"))[0] == 1
    where = ("--index", "docs", "--region", AP, "--namespace", namespace)
    code, out = await command(three, "replica", "resync", *where)
    assert code == 0, out
    async with asyncio.timeout(20):
        while (await command(three, "verify", "--index", "docs"))[0] != 0:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    found = await call(three, AP, "/vectors/fetch?ids=warm&namespace=a")
    assert set((await found.json())["vectors"]) == {"warm"}


async def test_a_home_that_is_down_is_said_in_pinecones_shape_and_a_promotion_heals_it(three: Three) -> None:
    code, out = await command(three, "promote", "--index", "docs", "--to", EU)
    assert code == 0, out
    moved = await call(three, AP, "/vectors/upsert", upsert("moved"), x_meridian_ack="applied")
    assert epoch_of(parse_lsn(moved.headers["x-meridian-lsn"])) == 2
    three.servers[EU].kill()
    answer = await call(three, US, "/vectors/upsert", upsert("down"), x_meridian_deadline_ms="3000")
    body = await answer.json()
    assert (answer.status, body["details"]) == (503, []), body
    assert answer.headers["Retry-After"]
    assert "moved" in await ids(await call(three, US, "/query", query()))
    code, out = await command(three, "promote", "--index", "docs", "--to", US, "--forced", "--drain-s", "1")
    assert code == 0, out
    again = await call(three, AP, "/vectors/upsert", upsert("again"), x_meridian_ack=f"region={US}")
    assert again.status == 200, await again.text()
    assert epoch_of(parse_lsn(again.headers["x-meridian-lsn"])) == 3
    assert "again" in await ids(await call(three, US, "/query", query()))
