"""An index is as late as its queries are, whatever it tells of itself: a real node, and indexes in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from regions.changes import Upsert
from regions.live import Live, Place
from regions.logs.base import Entry, Fence
from regions.logs.memory import MemoryLog
from regions.names import IndexName, NamespaceRef, RegionId, is_tenants
from regions.positions import Epoch
from regions.records import Record
from regions.registers.memory import MemoryRegisters
from regions.replicas.base import Replica
from regions.replicas.memory import MemoryReplica
from regions.replicas.pinecone import Config, build
from regions.replicator import canary
from regions.replicator.calls import Calls
from regions.replicator.canaries import CanaryTerms, Keeper
from regions.replicator.canary import Canary, canary_key, decode_canary, encode_canary
from regions.replicator.daemon import Daemon, Surroundings, Terms
from regions.replicator.driver import Cut
from regions.replicator.follower import Pace
from regions.replicator.pacing import Pacer
from regions.replicator.snapshot import Site
from regions.selection import Bounds, rank_index, rank_namespace
from regions.status import summary
from regions.topology import Home, Term, encode_home, home_key
from regions.verify import namespaces
from tests.regions.node.running import make_index, running_node

US = RegionId("us")
DOCS = IndexName("docs")
TENANTS = NamespaceRef(DOCS, "tenant0000000001.a")
PATIENCE_S = 10.0
DELAY_S = 1.2
AHEAD_S = 1_000_000.0
"""What the log's clock is ahead of ours."""


class Region:
    """One region with one index, and a `Live` that watches it."""

    def __init__(self, replica: Replica) -> None:
        self.now_s = asyncio.get_running_loop().time
        self.registers = MemoryRegisters()
        self.log = MemoryLog(US, self.registers, lambda: self.now_s() + AHEAD_S, shards=1)
        self.replica, self.site = replica, Site(US, self.registers, {DOCS: replica})
        self.lease_until_s = float("inf")

    def live(self) -> Live:
        async def ask(_: float) -> None:
            return None

        place = Place(US, self.log, self.registers)
        clock = self.now_s
        return Live(US, [place], {(DOCS, US): ask}, clock=clock, wall_clock=clock, skew_s=0.0)

    def keeper(self, every_s: float, writer: str = "one") -> Keeper:
        terms = CanaryTerms(writer, every_s, 1.0)
        pacer = Pacer(1_000)
        return Keeper(
            DOCS,
            self.site,
            self.log,
            pacer,
            terms,
            calls=Calls(settle_s=1.0),
            send_by_s=lambda: self.lease_until_s,
        )

    async def told(self, is_so: Callable[[Canary], bool]) -> Canary:
        """What is told of the canary, once it is as wanted."""
        async with asyncio.timeout(PATIENCE_S):
            async for register in self.registers.watch(canary_key(DOCS)):
                if is_so(found := decode_canary(register.value)):
                    return found
        raise AssertionError("a watch does not end")


@asynccontextmanager
async def kept(region: Region, every_s: float = 0.05, writer: str = "one") -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(region.keeper(every_s, writer).run())
        yield
        task.cancel()


def memory(visible_after_s: float = 0.0) -> MemoryReplica:
    clock = asyncio.get_running_loop().time
    return MemoryReplica(DOCS, clock, visible_after_s=visible_after_s, remembers_positions=False)


async def test_a_canary_that_is_found_at_once_says_so() -> None:
    region = Region(memory())
    async with kept(region):
        told = await region.told(lambda each: each.delay_s is not None)
    assert told.delay_s is not None
    assert 0 < told.delay_s < 1
    assert told.unseen_s == 0


async def test_an_index_that_acknowledges_and_shows_nothing_grows_old() -> None:
    region = Region(memory(visible_after_s=1e9))
    began_s = region.now_s() + AHEAD_S
    async with kept(region):
        told = await region.told(lambda each: each.unseen_s > 0)
        assert told.delay_s is None
        assert began_s <= told.unseen_s <= region.now_s() + AHEAD_S
        written = region.replica.contents(canary.NAMESPACE)  # type: ignore[attr-defined]
        assert list(written) == [canary.ID]


async def test_an_index_that_was_emptied_gets_a_new_one() -> None:
    replica = memory()
    region = Region(replica)
    async with kept(region):
        await region.told(lambda each: each.delay_s is not None)
        replica.wipe()
        async with asyncio.timeout(PATIENCE_S):
            while not replica.contents(canary.NAMESPACE):  # noqa: ASYNC110 - the keeper tells nobody
                await asyncio.sleep(0.01)
    assert list(replica.contents(canary.NAMESPACE)) == [canary.ID]


async def test_nothing_is_written_once_the_lease_is_about_to_end() -> None:
    replica = memory()
    region = Region(replica)
    region.lease_until_s = region.now_s()
    async with kept(region, 0.01):
        await asyncio.sleep(0.1)  # time enough for ten of them
    assert not replica.contents(canary.NAMESPACE)
    assert await region.registers.get(canary_key(DOCS), timeout_s=1) is None


async def test_without_canaries_what_was_told_is_taken_back() -> None:
    replica = memory()
    region = Region(replica)
    await region.registers.put(canary_key(DOCS), encode_canary(Canary(0.1, 5.0)), timeout_s=1)
    async with kept(region, 0.0):
        assert await region.told(lambda each: not each.unseen_s) == Canary()
    assert not replica.contents(canary.NAMESPACE)


async def test_a_successor_takes_over_what_was_not_found() -> None:
    replica = memory(visible_after_s=0.3)
    region = Region(replica)
    old_s = region.now_s() + AHEAD_S - 50.0
    await region.registers.put(canary_key(DOCS), encode_canary(Canary(0.1, old_s)), timeout_s=1)
    async with kept(region, 0.1, writer="two"):
        told = await region.told(lambda each: each.unseen_s != old_s)
        assert told.delay_s is not None
        assert told.delay_s >= 0.3


async def test_the_canary_is_none_of_the_tenants_and_not_compared() -> None:
    replica = memory()
    region = Region(replica)
    await replica.apply(TENANTS, Upsert([Record("a", values=[1.0, 0.0])]), timeout_s=1)
    async with kept(region):
        await region.told(lambda each: each.delay_s is not None)
    page = await replica.list_namespaces(prefix="", limit=10, token=None, timeout_s=1)
    assert {info.stored for info in page.namespaces} == {canary.NAMESPACE, TENANTS.stored}
    assert not is_tenants(canary.NAMESPACE)
    assert await namespaces(DOCS, {US: replica}) == [TENANTS]


# --- A whole daemon over a real node --------------------------------------------------------------------


class Epochs:
    """One term: nothing came before."""

    def is_history(self, home: RegionId, entry: Entry) -> bool:
        return True

    def cuts(self, home: RegionId, shard: int, indexes: Sequence[IndexName]) -> Sequence[Cut]:
        return ()

    def has_moved_on(self, home: RegionId, shard: int, index: IndexName) -> bool:
        return False

    def is_only_stream(self, home: RegionId, shard: int, indexes: Sequence[IndexName], stream: str) -> bool:
        return False

    async def ready(self, index: IndexName, epoch: Epoch) -> None:
        """At once."""

    async def fence(self, index: IndexName) -> Fence:
        raise AssertionError("nothing is resolved here")


async def test_the_lag_of_a_node_is_never_told_less_than_its_delay(tmp_path: Path) -> None:
    async with running_node(tmp_path, visibility_delay_ms=int(DELAY_S * 1000)) as node:
        await make_index(node, DOCS)
        replica = build(
            Config(url=f"{node.url}/i/{DOCS}"), index=DOCS, region=US, resolve=lambda ref: f"secret of {ref}"
        )
        region = Region(replica)
        await region.log.start()
        await region.log.open_epoch(DOCS, Epoch(1), timeout_s=1)
        home = encode_home(Home(DOCS, [Term(1, US)]))
        await region.registers.put(home_key(DOCS), home, timeout_s=1)
        around = Surroundings(region.site, [], {US: region.log}, {US: [DOCS]}, Epochs())
        pace = Pace(call_timeout_s=1.0, apply_settle_s=0.1, clock_skew_s=0.1, save_every_s=0.05)
        daemon = Daemon("one", around, pace, Terms(beat_s=0.1, canary_every_s=0.3))
        live = region.live()
        async with live.running(), asyncio.TaskGroup() as tasks:
            working = tasks.create_task(daemon.run())
            assert await live.until(
                lambda t: bool(t.canaries) and t.standing(TENANTS, US, region.now_s()).is_readable, PATIENCE_S
            )
            until_s = region.now_s() + 2 * DELAY_S
            while region.now_s() < until_s:
                now_s, topology = region.now_s(), live.topology
                if (
                    topology.canaries[DOCS, US].lag_s(now_s + AHEAD_S) is not None
                    and now_s > until_s - DELAY_S
                ):
                    standing = topology.standing(TENANTS, US, now_s)
                    assert standing.staleness_s >= DELAY_S
                    assert topology.index_standings(DOCS, now_s)[0].staleness_s >= DELAY_S
                    assert standing.received_lag_s < DELAY_S  # heartbeats come: the index is what is late
                    told = summary(topology, now_s)["replicas"][DOCS][US]
                    assert told["queryable_lag_s"] >= told["canary_lag_s"] >= DELAY_S
                    assert not rank_namespace(topology, TENANTS, Bounds(DELAY_S / 2), now_s).fresh
                    assert not rank_index(topology, DOCS, Bounds(DELAY_S / 2), now_s).fresh
                    assert rank_namespace(topology, TENANTS, Bounds(90.0), now_s).fresh
                await live.until(lambda _: False, 0.05)
            working.cancel()
        await replica.close()
