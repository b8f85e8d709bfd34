"""`meridian replicate` as it is composed: a real log server and a real node, one region."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from regions import promotion
from regions.changes import Change, Upsert
from regions.live import Place
from regions.logs import jetstream as jetstream_log
from regions.logs.base import Append
from regions.names import IndexName, NamespaceRef, RegionId
from regions.records import Record
from regions.registers import jetstream as jetstream_registers
from regions.registers.base import Registers
from regions.replicator import lease
from regions.runtime import lifecycle
from regions.topology import shard_of
from tests.contracts.nats_process import NatsProcess
from tests.gateway.three_regions import DIMENSION, regions_config, replicating
from tests.regions.node.running import make_index, running_node

HERE = RegionId("us-east")
NAMESPACE = NamespaceRef(IndexName("docs"), "0123456789abcdef.a")


@asynccontextmanager
async def one_region(directory: Path) -> AsyncIterator[tuple[dict[str, Any], Place]]:
    """The configuration of a region that has nothing but its log and its index, and that log."""
    server = NatsProcess(directory, domain=HERE)
    (directory / "node").mkdir()
    async with AsyncExitStack() as stack:
        server.start()
        stack.callback(server.kill)
        node = await stack.enter_async_context(running_node(directory / "node"))
        await make_index(node, "docs", DIMENSION)
        registers = jetstream_registers.build(
            jetstream_registers.Config(urls=[server.url]), region=HERE, resolve=str
        )
        stack.push_async_callback(registers.close)
        await registers.start()
        log = jetstream_log.build(
            jetstream_log.Config(urls=[server.url], shards=2), region=HERE, registers=registers, resolve=str
        )
        stack.push_async_callback(log.close)
        await log.start()
        config = regions_config({HERE: server}, {HERE: node.url}, wait_s=1.0)
        yield {**config, "region": HERE}, Place(HERE, log, registers)


async def held(registers: Registers, *, not_by: str = "") -> lease.Holding:
    """The lease, once somebody has it who is not that one."""
    async for register in registers.watch(lease.KEY):
        holding = msgspec.json.decode(register.value, type=lease.Holding)
        if holding.holder and holding.holder != not_by:
            return holding
    raise AssertionError("the watch ended")


@pytest.mark.asyncio
async def test_a_replicator_that_was_stopped_leaves_its_place_to_the_next_one_at_once(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30), one_region(tmp_path) as (config, place):
        async with replicating(tmp_path, config):
            first = await held(place.registers)
        left = await place.registers.get(lease.KEY, timeout_s=2)
        assert left is not None
        assert msgspec.json.decode(left.value, type=lease.Holding) == lease.Holding("", 0.0, is_settled=True)
        began_s = loop.time()
        async with replicating(tmp_path, config):
            second = await held(place.registers, not_by=first.holder)
            assert loop.time() - began_s < second.lease_s / 2, "it has waited for the lease to end"


async def append(place: Place, change: Change) -> None:
    """Put a change into the home's log as no gateway would: one that the index refuses."""
    home = await promotion.establish([place], NAMESPACE.index, HERE)
    fence = await place.log.open_epoch(NAMESPACE.index, home.epoch, timeout_s=5)
    shard = shard_of(NAMESPACE, place.log.shards)
    await place.log.append(fence, shard, [Append(NAMESPACE.stored, change)], timeout_s=5)


async def metric(session: aiohttp.ClientSession, port: int, name: str) -> float | None:
    """A sample of the replicator's metrics, by its whole name; None: there is none."""
    async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), None)


@pytest.mark.asyncio
async def test_a_refused_change_raises_an_alarm_in_the_log_and_the_metrics(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    parked = 'meridian_parked_namespaces{index="docs"}'
    alarms = 'meridian_parked_alarms_total{index="docs"}'
    port = lifecycle.free_port()
    async with asyncio.timeout(30), one_region(tmp_path) as (config, place):
        config["regions"]["replicator"] = {"operators_port": port}
        async with aiohttp.ClientSession() as session, replicating(tmp_path, config):
            await held(place.registers)
            assert await metric(session, port, parked) == 0.0
            assert await metric(session, port, alarms) == 0.0
            await append(place, Upsert([Record("x", values=[1.0] * (DIMENSION + 1))]))
            while await metric(session, port, parked) != 1.0:  # noqa: ASYNC110 - a scrape is all that there is
                await asyncio.sleep(0.05)
            assert await metric(session, port, alarms) == 1.0
            assert await metric(session, port, "meridian_replicator_working") == 1.0
            async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                assert (await response.json())["working"] is True
    told = [json.loads(line) for line in capfdbinary.readouterr().err.splitlines() if b"parked" in line]
    assert [(line["level"], line["event"], line["namespace"]) for line in told] == [
        ("error", "namespace_parked", NAMESPACE.stored)
    ]
