"""Three regions on loopback, all real but for the distance: log servers, nodes, replicators, gateways."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gateway.config import GatewayConfig
from gateway.replication import run_replicator
from regions.runtime import lifecycle
from tests.contracts.nats_process import NatsProcess
from tests.fakes.collector import Collector, running_collector
from tests.gateway.running import Running, running_gateway, tenants_file
from tests.regions.node.running import make_index, running_node

REGIONS = ("us-east", "eu-west", "ap-southeast")
DIMENSION = 4


@dataclass
class Three:
    """Everything by region, and a configuration file that commands can be given."""

    servers: dict[str, NatsProcess]
    collector: Collector
    gateways: dict[str, Running]
    file: Path
    config: dict[str, Any]


@asynccontextmanager
async def three_regions(directory: Path, *, wait_s: float = 2.0) -> AsyncIterator[Three]:
    """The index `docs`, at home in us-east, with a replica everywhere."""
    async with AsyncExitStack() as stack:
        servers, nodes = {}, {}
        collector = await stack.enter_async_context(running_collector())
        traced = {"endpoint": collector.url, "export_every_s": 0.05, "sample_ratio": 0}
        for region in REGIONS:
            (directory / region).mkdir()
            servers[region] = NatsProcess(directory / region, domain=region)
            servers[region].start()
            stack.callback(servers[region].kill)
            (directory / region / "node").mkdir()
            nodes[region] = await stack.enter_async_context(
                running_node(directory / region / "node", tracing=traced)
            )
            await make_index(nodes[region], "docs", DIMENSION)
        tenants_file(directory, index="docs")
        config = regions_config(servers, {region: node.url for region, node in nodes.items()}, wait_s)
        config["tracing"] = traced
        file = directory / "meridian.yaml"
        ports = {"operators_port": lifecycle.free_port(), "port": lifecycle.free_port()}
        file.write_text(
            yaml.safe_dump(
                {"region": "us-east", "tenants": {"pepper": "file:pepper"}, **config, "server": ports}
            )
        )
        gateways = {}
        for region in REGIONS:
            await stack.enter_async_context(replicating(directory, {**config, "region": region}))
            gateways[region] = await stack.enter_async_context(
                running_gateway(directory, {**config, "region": region})
            )
        yield Three(servers, collector, gateways, file, config)


def regions_config(servers: dict[str, NatsProcess], nodes: dict[str, str], wait_s: float) -> dict[str, Any]:
    """Sections that know these log servers and nodes, by region; the index `docs` is at home in us-east."""
    replicas = [{"region": r, "kind": "pinecone", "url": f"{url}/i/docs"} for r, url in nodes.items()]
    return {
        "indexes": {
            "docs": {
                "dimension": DIMENSION,
                "embedder": "none",
                "sparse": False,
                "home": "us-east",
                "replicas": replicas,
            }
        },
        "embedders": {
            "none": {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "none", "dimension": 4}
        },
        "regions": {
            "places": {
                region: {"log": {"kind": "jetstream", "urls": [server.url], "shards": 2}}
                for region, server in servers.items()
            },
            "reads": {"wait_s": wait_s},
        },
    }


@asynccontextmanager
async def replicating(directory: Path, config: dict[str, Any]) -> AsyncIterator[None]:
    """A region's replicator in this loop."""
    loaded = GatewayConfig.model_validate(
        {"tenants": {"pepper": "file:pepper"}, "log": {"level": "error"}, **config}
    )
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(run_replicator(loaded, config_dir=directory, stop=stop))
        try:
            yield
        finally:
            stop.set()
