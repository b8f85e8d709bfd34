"""What commands that speak to the regions themselves stand on: a gateway's file, without a gateway."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.up.problems import CommandFailed
from regions.names import IndexName, RegionId
from regions.runtime.config_file import SecretRef, resolve_secret

if TYPE_CHECKING:
    from gateway.config import GatewayConfig
    from regions.live import Live, Place
    from regions.replicas.base import Replica
    from regions.topology import Topology

LOOK_S: Final = 3.0
"""How long a command waits to hear from every region before it goes on without those that are silent."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Every region's log, registers and replicas, and what is known of them."""

    places: "list[Place]"
    live: "Live"
    replicas: "Mapping[IndexName, Mapping[RegionId, Replica]]"


@asynccontextmanager
async def connected(config: "GatewayConfig", path: Path) -> AsyncIterator[Regions]:
    """The regions of a configuration, once each was heard of or had its time.

    Raises: CommandFailed: it has none.
    """
    from functools import partial

    from gateway import connect
    from regions.live import Live
    from regions.runtime import lifecycle

    if config.regions is None:
        raise CommandFailed(
            f"{path} describes no regions", "this is for gateways with a regions section", code=2
        )

    def resolve(ref: SecretRef) -> str:
        return resolve_secret(ref, path.parent, os.environ)

    async with AsyncExitStack() as stack:
        places = await connect.places(config, resolve, stack)
        candidates = connect.replicas(config, resolve, stack)
        live = Live(
            RegionId(config.region),
            places,
            {
                (index, each.region): partial(connect.describe, each.replica)
                for index, found in candidates.items()
                for each in found
            },
            clock=asyncio.get_running_loop().time,
            wall_clock=lifecycle.wall_clock,
            skew_s=config.regions.clock_skew_ms / 1000,
        )
        await stack.enter_async_context(live.running())
        await live.until(_is_heard_of, LOOK_S)
        replicas = {
            index: {each.region: each.replica for each in found} for index, found in candidates.items()
        }
        yield Regions(places, live, replicas)


def _is_heard_of(topology: "Topology") -> bool:
    """Whether there is nothing more to wait for."""
    return (
        set(topology.logs_s) >= set(topology.regions)
        and set(topology.homes) >= set(topology.replicas)
        and all(
            (region, home.region, shard) in topology.progress
            for index, home in topology.homes.items()
            for region in topology.replicas.get(index, ())
            for shard in range(topology.shards)
        )
    )


def known_index(config: "GatewayConfig", name: str, path: Path) -> IndexName:
    """Raises: CommandFailed: the configuration has no such index."""
    if name not in config.indexes:
        known = ", ".join(sorted(config.indexes)) or "none"
        raise CommandFailed(f"{path} has no index {name!r}", f"there are: {known}", code=2)
    return IndexName(name)


def known_region(config: "GatewayConfig", index: IndexName, name: str) -> RegionId:
    """Raises: CommandFailed: the index has no replica there."""
    regions = [replica.region for replica in config.indexes[index].replicas]
    if name not in regions:
        raise CommandFailed(
            f"the index {index} has no replica in {name!r}", f"it has: {', '.join(regions)}", code=2
        )
    return RegionId(name)
