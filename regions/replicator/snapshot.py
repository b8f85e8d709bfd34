"""Copies a namespace from the most advanced other replica: what a follower does when its log is not enough.

The copy is a mixture: the source goes on changing while it is read. It holds at least what the source had at
`start`, and nothing that came after `end`; applying the log from `start` to `end` over it makes it exact,
because a change says what an id becomes, never how it differs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from regions.changes import Change, CreateNamespace, Delete, DropNamespace, Upsert
from regions.errors import LogUnavailable, RegionsError, ReplicaAhead, ReplicaError, ReplicaRejected
from regions.logs.base import Log, ShardState
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import Lsn, sequence_of
from regions.registers.base import Registers
from regions.replicas.base import NamespaceInfo, Replica
from regions.replicator import canary, markers, moves
from regions.replicator.visibility import NOBODY, wait_visible
from regions.replicator.watermarks import Progress, decode, namespace_of, progress_key
from regions.topology import shard_of

_CALL_S: Final = 10.0
_AGAIN_S: Final = 1.0
_PAGE: Final = 100
"""Ids a page: what Pinecone lists at once, and few enough for one upsert of long records."""

Write = Callable[[NamespaceRef, Change, Lsn], Awaitable[Lsn | None]]
"""Changes our own index, under the lease and at its pace, until it is done."""
IsHistory = Callable[[str], bool]
"""Whether a stream of that incarnation is the only one that the route's indexes ever had there."""


@dataclass(frozen=True, slots=True)
class Site:
    """A region, as far as replication goes: where it notes things, and its indexes."""

    region: RegionId
    registers: Registers
    replicas: Mapping[IndexName, Replica]


@dataclass(frozen=True, slots=True)
class Route:
    """A shard of a home's log, on its way to a region; `indexes` are those with that home."""

    home: RegionId
    shard: int
    here: Site
    others: Sequence[Site]
    indexes: Sequence[IndexName]


class Snapshots:
    """Finds sources and copies from them, for one route."""

    def __init__(self, route: Route, log: Log, is_history_of: IsHistory = lambda _: False) -> None:
        self._route, self._log, self._is_history_of = route, log, is_history_of
        self._key = progress_key(route.home, route.shard)
        self._marker = markers.name_of(route.home, route.shard)

    # --- Which source ------------------------------------------------------------------------

    async def survey(self, effect: moves.Survey) -> moves.Surveyed | moves.Adopted | moves.Alone:
        """The most advanced other replica and all there is to copy; waits until somebody can be one.

        Where there is no other replica, the log is what there is: as long as it is whole.
        """
        while True:
            try:
                told = {site.region: await self._progress(site) for site in self._route.others}
                if self._goes_on(told, effect):
                    return moves.Adopted()
                best = self._best(told, effect)
                if best is not None:
                    return await self._surveyed(*best, effect)
                if not self._route.others and self._is_whole(effect.shard):
                    return moves.Alone()
            except (LogUnavailable, ReplicaError):
                pass  # whoever does not answer may be the most advanced: ask again
            await asyncio.sleep(_AGAIN_S)

    def _best(
        self, told: Mapping[RegionId, Progress | None], effect: moves.Survey
    ) -> tuple[Site, Progress] | None:
        found = [
            (progress.received, site, progress)
            for site in self._route.others
            if (progress := told[site.region]) is not None
            and progress.incarnation == effect.shard.incarnation
            and not progress.is_resyncing
            and progress.received >= effect.received
        ]
        best = max(found, key=lambda each: each[0], default=None)
        return best[1:] if best is not None else None

    def _goes_on(self, told: Mapping[RegionId, Progress | None], effect: moves.Survey) -> bool:
        """Whether to go on from what we hold, in a stream that is new to us.

        When it took the place of another one, that is for who got furthest there. Who never followed anything
        holds nothing, and begins at the origin when everything is in the stream: nobody else has followed one
        either, or no other one than this.
        """
        ours, shard = effect.progress, effect.shard
        if ours.incarnation == shard.incarnation:
            return False
        others = {r: each for r, each in told.items() if each is not None and each.incarnation}
        if not ours.incarnation:
            is_whole = shard.first <= shard.origin
            return all(
                is_whole and each.is_first and each.incarnation == shard.incarnation
                for each in others.values()
            )
        mine = (ours.received, self._route.here.region)
        return all(
            each.incarnation == ours.incarnation and (each.received, region) <= mine
            for region, each in others.items()
        )

    def _is_whole(self, shard: ShardState) -> bool:
        """Whether nothing was trimmed, and nothing went before in another stream."""
        return shard.first == shard.origin and self._is_history_of(shard.incarnation)

    async def _surveyed(self, site: Site, progress: Progress, effect: moves.Survey) -> moves.Surveyed:
        found = {namespace_of(key) for key in (*progress.behind, *effect.progress.behind)}
        for index in self._route.indexes if effect.indexes is None else effect.indexes:
            for replica in (site.replicas[index], self._route.here.replicas[index]):
                found.update(await _namespaces(replica))
        ours = (markers.NAMESPACE, canary.NAMESPACE)  # each index has its own
        found = {namespace for namespace in found if namespace.stored not in ours}
        shards = self._log.shards
        mine = [namespace for namespace in found if shard_of(namespace, shards) == self._route.shard]
        if effect.indexes is not None:
            mine = [namespace for namespace in mine if namespace.index in effect.indexes]
        return moves.Surveyed(progress, sorted(mine))

    async def _progress(self, site: Site) -> Progress | None:
        register = await site.registers.get(self._key, timeout_s=_CALL_S)
        return decode(register.value) if register is not None else None

    # --- Copying -----------------------------------------------------------------------------

    async def seek(self, effect: moves.Seek) -> moves.Sought:
        """Whether there is something to copy from: until there is, what we have stays readable."""
        try:
            source = await self._source(effect.namespace, effect.applied)
        except LogUnavailable:
            source = None
        return moves.Sought(effect.namespace, source is not None)

    async def copy(self, effect: moves.Copy, write: Write) -> moves.Copied | moves.CopyFailed:
        """Make our namespace what another region's is, between `start` and `end`."""
        namespace = effect.namespace
        try:
            return await self._copied(effect, write)
        except ReplicaAhead as error:
            ahead = error.position
        except (ReplicaError, LogUnavailable, _SourceWiped):
            return moves.CopyFailed(namespace)
        try:
            last = (await self._log.state(self._route.shard, timeout_s=_CALL_S)).last
        except LogUnavailable:
            return moves.CopyFailed(namespace)
        if sequence_of(ahead) <= last:
            return moves.CopyFailed(namespace, sequence_of(ahead))
        # Of another stream than this one, which never got there: there is nothing to wait for, only to write
        # over. What the new stream has in store comes under a later epoch.
        return await self.copy(msgspec.structs.replace(effect, position=ahead), write)

    async def _copied(self, effect: moves.Copy, write: Write) -> moves.Copied | moves.CopyFailed:
        """Raises: ReplicaError, LogUnavailable, _SourceWiped: it has to be done again."""
        namespace = effect.namespace
        source = await self._source(namespace, effect.applied)
        if source is None:
            return moves.CopyFailed(namespace)
        site, progress = source
        ours = self._route.here.replicas[namespace.index]
        theirs = _Source(site.replicas[namespace.index], self._marker, progress)
        # Our own index lists only what reads of it see: what was written before has to be visible first.
        await wait_visible(ours, namespace, await write(namespace, Delete([NOBODY]), effect.position))
        await self._declare(theirs, effect, write)
        kept = await self._put(theirs.replica, effect, write)
        await theirs.check()
        await self._remove(ours, kept, effect, write)
        await wait_visible(ours, namespace, await write(namespace, Delete([NOBODY]), effect.position))
        end = (await self._log.state(self._route.shard, timeout_s=_CALL_S)).last
        return moves.Copied(namespace, progress.mark(namespace).queryable, end)

    async def _source(self, namespace: NamespaceRef, applied: int) -> tuple[Site, Progress] | None:
        """The replica that is furthest, and where it is; none when all are behind ours.

        A readable one is preferred. One that is not yet exact after a copy of its own serves as well: it too
        is a mixture from `start` on, and no mixture goes past an intent whose ids nobody knows.
        """
        state = await self._log.state(self._route.shard, timeout_s=_CALL_S)
        found: list[tuple[bool, int, Site, Progress]] = []
        for site in self._route.others:
            try:
                progress = await self._progress(site)
            except LogUnavailable:
                continue  # then another one
            if progress is None or progress.incarnation != state.incarnation:
                continue
            start = progress.mark(namespace).queryable
            if progress.is_copyable(namespace) and start >= applied:
                found.append((progress.is_readable(namespace), start, site, progress))
        best = max(found, key=lambda each: each[:2], default=None)
        return best[2:] if best is not None else None

    async def _declare(self, theirs: "_Source", effect: moves.Copy, write: Write) -> None:
        """Have the namespace here if it is there, with its schema, and only then."""
        info: NamespaceInfo | None = None
        try:
            info = await theirs.replica.describe_namespace(effect.namespace, timeout_s=_CALL_S)
        except ReplicaRejected as error:
            if error.status != 404:
                raise
        await theirs.check()
        if info is None:
            await write(effect.namespace, DropNamespace(), effect.position)
        elif info.schema is not None:
            await write(effect.namespace, CreateNamespace(info.schema), effect.position)

    async def _put(self, theirs: Replica, effect: moves.Copy, write: Write) -> set[str]:
        """Write every record of the source here; their ids."""
        kept: set[str] = set()
        token: str | None = None
        while True:
            page = await theirs.list_ids(
                effect.namespace, prefix="", limit=_PAGE, token=token, timeout_s=_CALL_S
            )
            fetched = await theirs.fetch(effect.namespace, page.ids, timeout_s=_CALL_S) if page.ids else None
            if fetched is not None and fetched.records:
                await write(effect.namespace, Upsert([*fetched.records.values()]), effect.position)
                kept.update(fetched.records)
            token = page.next_token
            if token is None:
                return kept

    async def _remove(self, ours: Replica, kept: set[str], effect: moves.Copy, write: Write) -> None:
        """Delete what the source has not."""
        surplus: list[str] = []
        token: str | None = None
        while True:
            page = await ours.list_ids(
                effect.namespace, prefix="", limit=_PAGE, token=token, timeout_s=_CALL_S
            )
            surplus += [id_ for id_ in page.ids if id_ not in kept]
            token = page.next_token
            if token is None:
                break
        for at in range(0, len(surplus), _PAGE):
            await write(effect.namespace, Delete(surplus[at : at + _PAGE]), effect.position)


class _SourceWiped(RegionsError):
    """A source does not hold what its follower tells: it was emptied, and that is not noticed yet."""


class _Source:
    """Another region's replica, for as long as it is the index that its follower filled.

    What was read before a `check` is as its follower tells. Nothing is taken away here because of an index
    that lost it.
    """

    def __init__(self, replica: Replica, marker: str, progress: Progress) -> None:
        self.replica, self._expected = replica, progress.markers
        self._markers = markers.Markers(marker, {replica.index: replica})

    async def check(self) -> None:
        """Raises: _SourceWiped; ReplicaError: it cannot be asked."""
        if not await self._markers.is_there(self.replica.index, self._expected):
            raise _SourceWiped(f"{self.replica.index} lost what it held")


async def _namespaces(replica: Replica) -> list[NamespaceRef]:
    found: list[NamespaceRef] = []
    token: str | None = None
    while True:
        page = await replica.list_namespaces(prefix="", limit=_PAGE, token=token, timeout_s=_CALL_S)
        found += [NamespaceRef(replica.index, info.stored) for info in page.namespaces]
        token = page.next_token
        if token is None:
            return found
