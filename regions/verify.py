"""Compares the replicas of an index record by record, and repairs differences through the log.

A namespace is compared at one position: every replica is waited for until it has what the home's log has,
then read whole; when the log took a change of the namespace meanwhile, that is done again. Replicas that do
not come to the position in time are named and left out.

A repair appends what most replicas hold of a record (the home's, when they are all different), so it reaches
everyone in order and is no exception to anything. Between the comparison and the append there are
milliseconds in which somebody may write the same record: then the later of both stays, as with any two
writers.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from regions.changes import Delete, Resolved, Upsert
from regions.errors import LogUnavailable
from regions.fences import Fences
from regions.live import Live
from regions.logs.base import Append
from regions.names import IndexName, NamespaceRef, RegionId, is_tenants
from regions.positions import Lsn, make_lsn
from regions.records import Record
from regions.replicas.base import Replica
from regions.replicator.digest import Digest, hash_of
from regions.topology import Topology, shard_of

CALL_S: Final = 10.0
CATCH_UP_S: Final = 30.0
PAGE: Final = 100
"""Ids a page: what Pinecone lists and fetches at once."""
SCANS: Final = 5
REPAIR_RECORDS: Final = 100


@dataclass(frozen=True, slots=True)
class Compared:
    """A namespace at one position: each replica's digest, and the records that are not the same everywhere.

    `differences` says of a record which regions hold which hash (None: they lack it). `absent` are regions
    that could not be compared, and why. `is_settled` is False when it changed during every scan.
    """

    namespace: NamespaceRef
    position: Lsn
    digests: Mapping[RegionId, Digest]
    differences: Mapping[str, Mapping[RegionId, int | None]] = field(default_factory=dict)
    absent: Mapping[RegionId, str] = field(default_factory=dict)
    is_settled: bool = True

    @property
    def is_equal(self) -> bool:
        return not self.differences and not self.absent and self.is_settled


async def namespaces(index: IndexName, replicas: Mapping[RegionId, Replica]) -> list[NamespaceRef]:
    """Every tenant's namespace that any replica has. Raises: ReplicaUnavailable."""
    found: set[str] = set()
    for replica in replicas.values():
        token: str | None = None
        while True:
            page = await replica.list_namespaces(prefix="", limit=PAGE, token=token, timeout_s=CALL_S)
            found.update(info.stored for info in page.namespaces if is_tenants(info.stored))
            token = page.next_token
            if token is None:
                break
    return [NamespaceRef(index, stored) for stored in sorted(found)]


async def compare(
    live: Live,
    namespace: NamespaceRef,
    replicas: Mapping[RegionId, Replica],
    *,
    catch_up_s: float = CATCH_UP_S,
) -> Compared:
    """Where the replicas differ in a namespace.

    Raises: LogUnavailable: the home's log, which says what there is to have. ReplicaUnavailable.
    """
    home = live.topology.homes.get(namespace.index)
    if home is None:
        raise LogUnavailable(f"the home of {namespace.index} is not known")
    log, shard = live.logs[home.region], shard_of(namespace, live.topology.shards)
    for left in reversed(range(SCANS)):
        at = await log.state(shard, timeout_s=CALL_S)
        position = make_lsn(home.epoch, at.last)
        absent = await _absent(live, namespace, position, replicas, catch_up_s)
        present = {region: replica for region, replica in replicas.items() if region not in absent}
        async with asyncio.TaskGroup() as group:
            scans = {r: group.create_task(_scan(replica, namespace)) for r, replica in present.items()}
        held = {region: task.result() for region, task in scans.items()}
        is_settled = not await _changed(live, home.region, shard, namespace, at.last, at.incarnation)
        if is_settled or not left:
            digests = {region: _digest(hashes) for region, hashes in held.items()}
            return Compared(namespace, position, digests, _differences(held), absent, is_settled)
    raise AssertionError("the last scan returns")


async def repair(
    live: Live, fences: Fences, compared: Compared, replicas: Mapping[RegionId, Replica]
) -> Lsn | None:
    """Append what the records that differ are to be; the position, None when there was nothing to do.

    Raises: LogError: not appended, or perhaps (AppendUnknown); doing it again is safe. ReplicaUnavailable.
    """
    home = live.topology.homes[compared.namespace.index]
    right = {id_: chosen(holds, home.region) for id_, holds in compared.differences.items()}
    gone = [id_ for id_, region in right.items() if region is None]
    bodies: list[Upsert | Delete] = [Delete(each) for each in _chunks(gone)]
    for region in sorted({region for region in right.values() if region is not None}):
        for ids in _chunks([id_ for id_, each in right.items() if each == region]):
            fetched = await replicas[region].fetch(compared.namespace, ids, timeout_s=CALL_S)
            bodies.append(Upsert(list(fetched.records.values())))
    lsn: Lsn | None = None
    for body in bodies:
        fence, log = await fences.fence(compared.namespace.index, timeout_s=CALL_S)
        append = Append(compared.namespace.stored, body)
        lsns = await log.append(fence, shard_of(compared.namespace, log.shards), [append], timeout_s=CALL_S)
        lsn = lsns[-1]
    return lsn


def chosen(holds: Mapping[RegionId, int | None], home: RegionId) -> RegionId | None:
    """A region that holds what most hold, or else what the home holds; None: the record is to be gone."""
    ((version, count), *_) = Counter(holds.values()).most_common()
    if count * 2 <= len(holds) and home in holds:
        version = holds[home]
    if version is None:
        return None
    return min(region for region, each in holds.items() if each == version)


# --- Scanning --------------------------------------------------------------------------------------


async def _absent(
    live: Live,
    namespace: NamespaceRef,
    position: Lsn,
    replicas: Mapping[RegionId, Replica],
    timeout_s: float,
) -> dict[RegionId, str]:
    """The replicas that do not come to the position, and why."""
    absent: dict[RegionId, str] = {}
    until_s = asyncio.get_running_loop().time() + timeout_s
    for region in replicas:

        def has_come(topology: Topology, region: RegionId = region) -> bool:
            standing = topology.standing(namespace, region, 0.0)
            return standing.is_readable and standing.lsn >= position

        if not await live.until(has_come, max(0.0, until_s - asyncio.get_running_loop().time())):
            absent[region] = live.topology.standing(namespace, region, 0.0).why or "behind"
    return absent


async def _scan(replica: Replica, namespace: NamespaceRef) -> dict[str, int]:
    """The hash of every record."""
    return {record.id: hash_of(record) async for record in _records(replica, namespace)}


async def _records(replica: Replica, namespace: NamespaceRef) -> AsyncIterator[Record]:
    token: str | None = None
    while True:
        page = await replica.list_ids(namespace, prefix="", limit=PAGE, token=token, timeout_s=CALL_S)
        if page.ids:
            fetched = await replica.fetch(namespace, page.ids, timeout_s=CALL_S)
            for record in fetched.records.values():
                yield record
        token = page.next_token
        if token is None:
            return


async def _changed(
    live: Live, home: RegionId, shard: int, namespace: NamespaceRef, after: int, incarnation: str
) -> bool:
    """Whether the home's log took a change of the namespace after that sequence."""
    log = live.logs[home]
    last = (await log.state(shard, timeout_s=CALL_S)).last
    if last == after:
        return False
    async with asyncio.timeout(CALL_S), aclosing(log.read(shard, after, incarnation)) as entries:
        async for entry in entries:
            is_of_it = entry.index == namespace.index and entry.namespace == namespace.stored
            if is_of_it and not isinstance(entry.body, Resolved):
                return True
            if entry.sequence >= last:
                return False
    return False


def _digest(hashes: Mapping[str, int]) -> Digest:
    return Digest(len(hashes), sum(hashes.values()) % (1 << 128))


def _differences(
    held: Mapping[RegionId, Mapping[str, int]],
) -> dict[str, dict[RegionId, int | None]]:
    everything = {id_ for hashes in held.values() for id_ in hashes}
    versions = {id_: {region: hashes.get(id_) for region, hashes in held.items()} for id_ in everything}
    return {id_: holds for id_, holds in sorted(versions.items()) if len(set(holds.values())) > 1}


def _chunks(ids: Sequence[str]) -> list[list[str]]:
    return [[*ids[at : at + REPAIR_RECORDS]] for at in range(0, len(ids), REPAIR_RECORDS)]
