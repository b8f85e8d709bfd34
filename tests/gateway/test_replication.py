"""`meridian replicate` as it is composed: a real log server and a real node, one region."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from regions.names import RegionId
from regions.registers import jetstream as jetstream_registers
from regions.registers.base import Registers
from regions.replicator import lease
from tests.contracts.nats_process import NatsProcess
from tests.gateway.three_regions import DIMENSION, regions_config, replicating
from tests.regions.node.running import make_index, running_node

REGION = "us-east"


@asynccontextmanager
async def one_region(directory: Path) -> AsyncIterator[tuple[dict[str, Any], Registers]]:
    """The configuration of a region that has nothing but its log and its index, and its registers."""
    server = NatsProcess(directory, domain=REGION)
    (directory / "node").mkdir()
    server.start()
    registers = jetstream_registers.build(
        jetstream_registers.Config(urls=[server.url]), region=RegionId(REGION), resolve=str
    )
    try:
        async with running_node(directory / "node") as node:
            await make_index(node, "docs", DIMENSION)
            await registers.start()
            config = regions_config({REGION: server}, {REGION: node.url}, wait_s=1.0)
            yield {**config, "region": REGION}, registers
    finally:
        await registers.close()
        server.kill()


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
    async with asyncio.timeout(30), one_region(tmp_path) as (config, registers):
        async with replicating(tmp_path, config):
            first = await held(registers)
        left = await registers.get(lease.KEY, timeout_s=2)
        assert left is not None
        assert msgspec.json.decode(left.value, type=lease.Holding) == lease.Holding("", 0.0, is_settled=True)
        began_s = loop.time()
        async with replicating(tmp_path, config):
            second = await held(registers, not_by=first.holder)
            assert loop.time() - began_s < second.lease_s / 2, "it has waited for the lease to end"
