"""A gateway's read and write stages in every one of three regions, over a real node."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.config import ReadsConfig, WritesConfig
from gateway.context import RequestContext
from gateway.messages import Source
from gateway.policies.breaker import Breakers, BreakerTerms
from gateway.stages import nearest_read
from gateway.stages.append_write import AppendWrite
from gateway.stages.fresh_read import FreshRead
from gateway.stages.nearest_read import Candidate
from gateway.tenants import Tenant, TenantDefaults
from regions import promotion
from regions.changes import Upsert, Write
from regions.fences import Fences
from regions.live import Live
from regions.names import NamespaceRef, RegionId
from regions.positions import Lsn
from regions.records import Record
from regions.replicas.pinecone import Config, PineconeReplica, build
from tests.fakes.regions import ALL, DOCS, SHARDS, US, World, running
from tests.regions.node.running import NodeClient, make_index, running_node

NAMESPACE = NamespaceRef(DOCS, "tenant0000000001.a")
READS = ReadsConfig(wait_s=0.3, attempt_s=0.3)
WRITES = WritesConfig(append_s=1, move_s=1)


def context(left_s: float = 5.0, *, serve_stale: bool = False, **fields: Any) -> RequestContext:
    """A request of the tenant that owns `NAMESPACE`, on the running loop's clock."""
    clock = asyncio.get_running_loop().time
    tenant = Tenant(id="tenant0000000001", name="t", defaults=TenantDefaults(serve_stale=serve_stale))
    return RequestContext("r", tenant, "pinecone", clock(), clock() + left_s, clock=clock, **fields)


def upsert(*ids: str) -> Write:
    return Write(NAMESPACE, Upsert([Record(id_, [1.0, 0.0], metadata={"of": id_}) for id_ in ids]))


@dataclass
class Gateway:
    """The stages of one region's gateway."""

    live: Live
    read: FreshRead
    write: AppendWrite

    async def fetch(self, ctx: RequestContext, *ids: str) -> tuple[set[str], Source]:
        """Which of the records are there, and where that was found."""
        served = await self.read(ctx, nearest_read.fetch(NAMESPACE, ids))
        return set(served.value.records), served.source


@dataclass
class Rig:
    """Three regions, `DOCS` at home in us-east."""

    world: World
    gateways: dict[RegionId, Gateway]
    nodes: dict[RegionId, "Cut"]
    node: NodeClient
    """The process behind them all; each region has an index of its own there."""

    def __getitem__(self, region: RegionId) -> Gateway:
        return self.gateways[region]

    async def settle(self, *regions: RegionId) -> None:
        """Wait until the gateways know that every replica of those regions has everything."""
        for gateway in self.gateways.values():
            lasts = {}
            for shard in range(SHARDS):
                home = gateway.live.topology.homes[DOCS].region
                lasts[home, shard] = (await self.world[home].log.state(shard, timeout_s=1)).last
            assert await gateway.live.until(
                lambda t, lasts=lasts: all(  # type: ignore[misc]
                    (told := t.progress.get((region, home, shard))) is not None and told.received >= last
                    for (home, shard), last in lasts.items()
                    for region in regions or ALL
                ),
                5,
            )

    async def lose_index(self, region: RegionId) -> None:
        """Delete a region's index."""
        await self.node.ok("DELETE", f"/indexes/docs-{region}")

    async def remake_index(self, region: RegionId) -> None:
        """Make it anew, empty."""
        await make_index(self.node, f"docs-{region}")

    async def mark(self, region: RegionId) -> None:
        """Have the region's followers tell by what they know its index, as it is now."""
        replica = self.world[region].replica
        await replica.describe(timeout_s=5)
        told = replica.incarnation
        assert told is not None
        for shard in range(SHARDS):
            await self.world[region].remember(US, shard, {DOCS: told})
        for gateway in self.gateways.values():
            assert await gateway.live.until(
                lambda t: t.standing(NAMESPACE, region, 0).marker == told,
                5,
            )

    async def acknowledged(self, *ids: str, at: RegionId = US) -> Lsn:
        """A write that was taken; its position."""
        written = await self[at].write(context(), upsert(*ids))
        assert written.lsn is not None
        return written.lsn


class Cut:
    """A TCP wire to a node that can be cut, also under calls that are on it."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Carry; after a `kill`, again on the same port."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """Refuse everybody and abort who is there, as when the process is killed."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, back}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, back))
                group.create_task(_pump(there, writer))
        finally:
            self._writers -= {writer, back}
            for end in (writer, back):
                end.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()


@asynccontextmanager
async def rig(directory: Path, terms: BreakerTerms | None = None) -> AsyncIterator[Rig]:
    """One node with an index for each region, behind a wire for each; the stages of three gateways.

    Each gateway has breakers of its own, under `terms`.
    """
    async with AsyncExitStack() as stack:
        node: NodeClient = await stack.enter_async_context(running_node(directory))
        cuts: dict[RegionId, Cut] = {}
        for region in ALL:
            await make_index(node, f"docs-{region}")
            cuts[region] = Cut(int(node.url.rsplit(":", 1)[1]))
            await cuts[region].open()
            stack.callback(cuts[region].kill)

        def replica(region: RegionId, through: int) -> PineconeReplica:
            config = Config(url=f"http://127.0.0.1:{through}/i/docs-{region}")
            made = build(config, index=DOCS, region=region, resolve=str)
            stack.push_async_callback(made.close)
            return made

        direct = int(node.url.rsplit(":", 1)[1])
        world = await stack.enter_async_context(running(lambda region: replica(region, direct)))
        await promotion.establish(world.places, DOCS, US)
        gateways = {}
        for here in ALL:
            live = world.live(here)
            await stack.enter_async_context(live.running())
            assert await live.until(lambda t: DOCS in t.homes, 5)
            near_first = [here, *(region for region in ALL if region != here)]
            for place, region in enumerate(near_first):
                live.took(DOCS, region, 0.001 + 0.1 * place)
            breakers = Breakers(terms)
            read = FreshRead(
                {DOCS: [Candidate(region, replica(region, cuts[region].port)) for region in near_first]},
                live,
                READS,
                breakers,
            )
            fences = Fences(live.logs, lambda live=live: live.topology)  # type: ignore[misc]
            gateways[here] = Gateway(live, read, AppendWrite(live, fences, read, WRITES, breakers))
        made = Rig(world, gateways, cuts, node)
        await world.beat()
        await made.settle()
        yield made
