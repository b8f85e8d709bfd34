"""The whole product in three regions: real log servers, nodes, replicators and gateways in one loop."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from gateway.cli import _app
from regions.changes import Delete
from regions.logs import jetstream as jetstream_log
from regions.logs.base import Append
from regions.names import IndexName, NamespaceRef, RegionId
from regions.orders import ORDERS_PREFIX
from regions.positions import Epoch, epoch_of, parse_lsn
from regions.registers import jetstream as jetstream_registers
from regions.runtime import lifecycle
from regions.topology import shard_of
from tests.contracts.nats_process import NatsProcess
from tests.gateway.running import OTHER_KEY
from tests.gateway.three_regions import DIMENSION, Three, three_regions

pytestmark = pytest.mark.asyncio(loop_scope="module")

US, EU, AP = "us-east", "eu-west", "ap-southeast"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Three]:
    async with three_regions(tmp_path_factory.mktemp("three")) as made:
        async with asyncio.timeout(30):
            while (await call(made, US, "/vectors/upsert", upsert("warm"))).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # no home is established yet
            while not all([await sees_all(made, region) for region in (US, EU, AP)]):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        yield made


async def sees_all(three: Three, region: str) -> bool:
    """Whether a region's gateway takes every replica for readable."""
    gateway = three.gateways[region]
    async with gateway.session.get(f"{gateway.operators_url}/readyz") as response:
        replicas = (await response.json())["replicas"]["docs"]
    return all(each["state"] == "readable" for each in replicas.values())


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


async def test_an_apply_far_away_is_linked_to_the_write_that_it_carries(three: Three) -> None:
    caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    written = await call(
        three, US, "/vectors/upsert", upsert("traced"), x_meridian_ack=f"region={AP}", traceparent=caller
    )
    assert written.headers["x-meridian-acked"] == f"region={AP}"
    await three.collector.until(lambda c: any(apply.region == AP for apply in c.named("apply docs")))
    await three.collector.until(lambda c: bool(c.named("append docs") and c.named("POST /vectors/upsert")))

    (edge,), (append,) = three.collector.named("POST /vectors/upsert"), three.collector.named("append docs")
    assert (edge.trace_id, edge.parent_id) == tuple(caller.split("-")[1:3])
    assert (append.trace_id, append.parent_id, append.region) == (edge.trace_id, edge.span_id, US)
    assert append.attributes["meridian.home"] == US
    assert append.attributes["meridian.lsn"] == int(written.headers["x-meridian-lsn"])
    (apply,) = [span for span in three.collector.named("apply docs") if span.region == AP]
    assert apply.service == "meridian-replicator"
    assert apply.links == [(append.trace_id, append.span_id)]
    assert apply.attributes["meridian.lsn"] == append.attributes["meridian.lsn"]
    assert apply.trace_id != append.trace_id
    (sent,) = [span for span in three.collector.named("upsert docs") if span.trace_id == apply.trace_id]
    assert (sent.parent_id, sent.attributes["db.operation.name"]) == (apply.span_id, "upsert")
    (taken,) = [
        span
        for span in three.collector.named("POST /i/{index}/vectors/upsert")
        if span.trace_id == apply.trace_id
    ]
    assert (taken.parent_id, taken.service) == (sent.span_id, "meridian-node")


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


async def test_what_the_canaries_leave_in_an_index_is_nowhere_to_be_seen(three: Three) -> None:
    await call(three, US, "/vectors/upsert", upsert("seen"), x_meridian_ack="applied")
    url = next(r["url"] for r in three.config["indexes"]["docs"]["replicas"] if r["region"] == US)
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        there: dict[str, Any] = {}
        while "_m.canary" not in there:  # the index itself has it
            async with session.post(f"{url}/describe_index_stats", json={}) as response:
                there = (await response.json())["namespaces"]
    stats = await (await call(three, US, "/describe_index_stats", {})).json()
    assert set(stats["namespaces"]) == {"a"}
    assert stats["totalVectorCount"] == stats["namespaces"]["a"]["vectorCount"]
    listed = await (await call(three, US, "/namespaces")).json()
    assert [each["name"] for each in listed["namespaces"]] == ["a"]
    for name in ("_m.canary", "_meridian"):  # as a tenant's own name it is another namespace
        found = await call(three, US, "/query", query(namespace=name))
        assert (await found.json())["matches"] == []
        assert (await call(three, US, f"/namespaces/{name}")).status == 404


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
    for replica in facts["replicas"]["docs"].values():
        assert 0 < replica["canary_lag_s"] <= replica["queryable_lag_s"]
    code, out = await command(three, "status")
    assert "epoch 1" in out
    assert "canary" in out


async def test_the_metrics_of_any_region_tell_every_replica(three: Three) -> None:
    for region in (US, EU, AP):
        gateway = three.gateways[region]
        async with gateway.session.get(f"{gateway.operators_url}/metrics") as response:
            text = await response.text()
        for replica in (US, EU, AP):
            where = f'{{index="docs",region="{replica}"'
            assert f"meridian_replica_readable{where}}} 1.0" in text
            assert f"meridian_namespaces_parked{where}}} 0.0" in text
            labels = f'{{index="docs",lag="queryable",region="{replica}"}} '
            (lag,) = re.findall(re.escape(f"meridian_replica_lag_seconds{labels}") + r"(\S+)", text)
            assert 0 < float(lag) < 5


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


async def test_an_order_to_unpark_what_is_not_parked_does_no_harm(three: Three) -> None:
    for namespace in ("no-such", next(iter((await status(three))["namespaces"]["docs"]))):
        where = ("--index", "docs", "--region", AP, "--namespace", namespace)
        code, out = await command(three, "replica", "unpark", *where)
        assert code == 0, out
    orders = jetstream_registers.build(
        jetstream_registers.Config(urls=[three.servers[AP].url]), region=RegionId(AP), resolve=str
    )
    async with asyncio.timeout(20):
        while any(each.value for each in await orders.scan(ORDERS_PREFIX, timeout_s=5)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await orders.close()
    written = await call(three, US, "/vectors/upsert", upsert("unharmed"), x_meridian_ack=f"region={AP}")
    assert written.headers["x-meridian-acked"] == f"region={AP}"


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


async def test_what_an_old_home_never_shipped_is_saved_when_it_is_back_and_applied_nowhere(
    three: Three,
) -> None:
    three.servers[EU].restart()
    async with asyncio.timeout(40):
        while (await command(three, "promote", "--index", "docs", "--to", EU))[0] != 0:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    written = await call(three, AP, "/vectors/upsert", upsert("shipped"), x_meridian_ack=f"region={US}")
    assert written.status == 200, await written.text()
    epoch = epoch_of(parse_lsn(written.headers["x-meridian-lsn"]))
    ((stored, _),) = (await status(three))["namespaces"]["docs"].items()
    three.servers[EU].kill()
    await take_unseen(three.servers[EU], NamespaceRef(IndexName("docs"), stored), epoch)
    code, out = await command(three, "promote", "--index", "docs", "--to", US, "--forced", "--drain-s", "1")
    assert code == 0, out
    three.servers[EU].start()
    async with asyncio.timeout(40):
        while not (found := [t for t in (await status(three))["tails"] if t["epoch"] == epoch]):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    (tail,) = found
    assert (tail["index"], tail["region"], tail["changes"], tail["error"]) == ("docs", EU, 1, "")
    (line,) = (await asyncio.to_thread(Path(tail["path"]).read_text)).splitlines()
    assert json.loads(line)["change"]["ids"] == ["shipped"]
    assert tail["path"] in (await command(three, "status"))[1].replace("\n", "")
    again = await call(three, AP, "/vectors/upsert", upsert("again"), x_meridian_ack=f"region={EU}")
    for region in (US, EU, AP):
        floor = again.headers["x-meridian-lsn"]
        assert "shipped" in await ids(await call(three, region, "/query", query(), x_meridian_min_lsn=floor))


async def status(three: Three) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((await command(three, "status", "--json"))[1])
    return facts


async def take_unseen(server: NatsProcess, namespace: NamespaceRef, epoch: Epoch) -> None:
    """Have a log whose server is down take the deletion of `shipped`, while nobody else can reach it."""
    usual, server.port = server.port, lifecycle.free_port()
    server.start()
    async with AsyncExitStack() as stack:
        region = RegionId(EU)
        registers = jetstream_registers.build(
            jetstream_registers.Config(urls=[server.url]), region=region, resolve=str
        )
        stack.push_async_callback(registers.close)
        log = jetstream_log.build(
            jetstream_log.Config(urls=[server.url], shards=2), region=region, registers=registers, resolve=str
        )
        stack.push_async_callback(log.close)
        await registers.start()
        await log.start()
        fence = await log.open_epoch(namespace.index, epoch, timeout_s=5)
        deletion = Append(namespace.stored, Delete(["shipped"]))
        await log.append(fence, shard_of(namespace, log.shards), [deletion], timeout_s=5)
    server.kill()
    server.port = usual
