"""Performs what a follower asks for: reads the log, calls the index, keeps the register.

Thin: what to do, and in which order, is the follower's; here is only how. Every effect is a task in one
group, and what became of it is fed back as an event by that task itself, so the follower is stepped by one
of them at a time. `run` ends only by an error or by being cancelled; then calls may still be under way at
the index, and whoever runs the shard next has to wait `apply_settle_s` first.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, NoReturn, Protocol

import msgspec

from regions.changes import (
    Change,
    CreateNamespace,
    Delete,
    DeleteByFilter,
    DropNamespace,
    EpochOpened,
    Heartbeat,
    Resolved,
    UpdateByFilter,
)
from regions.errors import (
    AppendUnknown,
    Conflict,
    LogUnavailable,
    RegionsError,
    ReplicaAhead,
    ReplicaError,
    ReplicaRejected,
    ReplicaUnavailable,
    StaleEpoch,
)
from regions.logs.base import Append, Entry, Fence, Log
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import Epoch, Lsn
from regions.replicator import moves, spans
from regions.replicator.calls import Calls
from regions.replicator.coalesce import Call
from regions.replicator.follower import Follower, Pace
from regions.replicator.markers import Markers, name_of
from regions.replicator.moves import Effect, Event
from regions.replicator.pacing import Pacer
from regions.replicator.snapshot import Route, Snapshots
from regions.replicator.visibility import NOBODY, wait_visible
from regions.replicator.watermarks import Progress, decode, encode, progress_key
from regions.runtime.tracing import Tracer

_CALL_S: Final = 5.0
"""What a call on a log or on registers may take."""
_AGAIN_S: Final = 0.5
"""Between two attempts to reach a log or registers."""
_IDS_A_CHUNK: Final = 1_000
_CHUNKS_A_BATCH: Final = 20
_MATCHES_A_PAGE: Final = 100


Tell = Callable[[moves.Alarm | moves.AllClear], None]
"""Hears of each namespace of our region that is parked, and when it goes on; must not block."""


def tell_nobody(_: moves.Alarm | moves.AllClear) -> None:
    """For those who read the progress records."""


class Fenced(RegionsError):
    """Another daemon follows this shard for the region: this one must stop."""


class IndexWiped(RegionsError):
    """An index does not hold what this follower left there: it was emptied, or is another one."""


class TermCut(RegionsError):
    """A term of this log turns out to have been ended by force: see `_probe`."""


def cut_key(index: str, epoch: int) -> str:
    """How a term that was ended by force is called among the markers; an index's name has no such sign."""
    return f"{index}#{epoch}"


@dataclass(frozen=True, slots=True)
class Cut:
    """A term that was ended without its log, at `end`: what that log took beyond it is no history.

    `stream` is the incarnation that `end` is of; "": it was not noted.
    """

    index: IndexName
    epoch: int
    end: int
    stream: str = ""

    @property
    def key(self) -> str:
        """How it is called among the markers, once it was dealt with."""
        return cut_key(self.index, self.epoch)

    def is_in(self, progress: Progress | None) -> bool:
        """Whether a follower took in what is no history: a change, for beats and fences leave nothing."""
        if progress is None or self.stream not in ("", progress.incarnation):
            return False
        return progress.changed.get(self.index, 0) > self.end


class Epochs(Protocol):
    """What the topology knows of an index's epochs."""

    def is_history(self, home: RegionId, entry: Entry) -> bool:
        """Whether an entry of that home's log is a part of its index's history, as far as is known."""
        ...

    def cuts(self, home: RegionId, shard: int, indexes: Sequence[IndexName]) -> Sequence[Cut]:
        """The terms of these indexes at that home that were ended by force, as far as is known."""
        ...

    def has_moved_on(self, home: RegionId, shard: int, index: IndexName) -> bool:
        """Whether another region is home, and our follower of its log has come to the present epoch.

        Then nobody but that follower changes the index here.
        """
        ...

    def is_only_stream(self, home: RegionId, shard: int, indexes: Sequence[IndexName], stream: str) -> bool:
        """Whether these indexes never had another home, nor that home another stream, as far as is known."""
        ...

    async def ready(self, index: IndexName, epoch: Epoch) -> None:
        """Return when everything of the epochs before is applied in this region."""
        ...

    async def fence(self, index: IndexName) -> Fence:
        """The right to append to the index at its home. Raises: LogUnavailable, StaleEpoch."""
        ...


class Driver:
    """One shard of one home, for one region, until it fails."""

    def __init__(
        self,
        route: Route,
        log: Log,
        epochs: Epochs,
        pacers: Mapping[IndexName, Pacer],
        *,
        writer: str,
        pace: Pace,
        calls: Calls | None = None,
        tracer: Tracer | None = None,
        tell: Tell = tell_nobody,
        reached: Progress | None = None,
    ) -> None:
        """`calls` counts what is under way at the indexes.

        `reached` is where the driver before this one had come to: it need not have saved that, and may have
        applied it.
        """
        self._reached = reached
        self._tracer = tracer
        self._route, self._log, self._epochs, self._pacers = route, log, epochs, pacers
        self._writer, self._pace = writer, pace
        self._calls, self._tell = calls or Calls(pace.apply_settle_s), tell
        self.follower = Follower(writer, pace, is_home=route.home == route.here.region)
        self._snapshots = Snapshots(
            route, log, lambda stream: epochs.is_only_stream(route.home, route.shard, route.indexes, stream)
        )
        self._markers = Markers(
            name_of(route.home, route.shard),
            {index: route.here.replicas[index] for index in route.indexes},
            self._calls,
        )
        self._key = progress_key(route.home, route.shard)
        self._revision: int | None = None
        self._reading: object = None
        self._reader: asyncio.Task[None] | None = None
        self._room, self._changed = asyncio.Event(), asyncio.Event()
        self._awaited_s = float("inf")
        self._tasks = asyncio.TaskGroup()
        self._is_over = False
        self._looking = asyncio.Lock()

    @property
    def reached(self) -> Progress | None:
        """How far this driver, or else the one before it, has come."""
        progress = self.follower.progress
        return progress if progress.incarnation else self._reached

    async def run(self) -> NoReturn:
        """Follow until something ends it.

        Raises: Fenced: another daemon took over. LogTrimmed, LogRecreated, LogCorrupt, IndexWiped, TermCut:
        run anew, after the settle time; probing finds out what to do.
        """
        try:
            async with self._tasks:
                await self._until_over(self._begin())
        except BaseExceptionGroup as group:
            raise _first(group) from group
        raise AssertionError("time does not end")

    def feed(self, event: Event) -> None:
        """Tell the follower, and begin what it asks for; once the run is over, nothing."""
        if self._is_over:
            return
        for effect in self.follower.step(event, self._now_s()):
            if isinstance(effect, moves.Read):
                self._start_reading(effect)
            else:
                self._tasks.create_task(self._until_over(self._perform(effect)))
        if self.follower.wants_more:
            self._room.set()
        else:
            self._room.clear()
        if self.follower.wake_s < self._awaited_s:
            self._changed.set()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def _until_over(self, work: Coroutine[None, None, None], reading: object = None) -> None:
        """A task of the run; when one fails, the others get nothing more to do."""
        try:
            await work
        except BaseException:
            self._is_over = self._is_over or reading is None or reading is self._reading
            raise

    async def _begin(self) -> None:
        self.feed(await self._probe())
        self._tasks.create_task(self._until_over(self._keep_looking()))
        await self._keep_time()

    async def _keep_looking(self) -> None:
        """Raises: IndexWiped: an index is not the one that it was. TermCut: a term was ended by force."""
        while True:
            await asyncio.sleep(self._pace.look_every_s)
            self._note_cuts()
            await self._look()

    def _note_cuts(self) -> None:
        """Remember which terms were ended by force. Raises: TermCut: what is beyond an end was taken in."""
        known = self.follower.markers
        news = [cut for cut in self._cuts() if cut.key not in known]
        if taken_in := [cut.key for cut in news if cut.is_in(self.follower.progress)]:
            raise TermCut(f"ended by force: {', '.join(taken_in)}")
        if news:
            self.feed(moves.Marked({**known, **{cut.key: "seen" for cut in news}}))

    async def _look(self) -> None:
        """Raises: IndexWiped."""
        async with self._looking:
            known = self.follower.progress.markers
            tokens, wiped = await self._markers.check(known)
            if wiped:
                raise IndexWiped(f"{', '.join(wiped)} in {self._route.here.region} lost what they held")
            if tokens != known:
                self.feed(moves.Marked(tokens))

    async def _marked(self, index: IndexName) -> None:
        """Before the first change of an index: once emptied, it must never be taken for a new one.

        Raises: ReplicaUnavailable: it cannot be marked now. IndexWiped.
        """
        if index not in self.follower.markers:
            await self._look()
        if index not in self.follower.markers:
            raise ReplicaUnavailable(f"{index} cannot be marked as ours", may_land=False)

    async def _keep_time(self) -> None:
        """Wake the follower when it wants to be."""
        while True:
            self._awaited_s = self.follower.wake_s
            self._changed.clear()
            try:
                async with asyncio.timeout_at(self._awaited_s if self._awaited_s < float("inf") else None):
                    await self._changed.wait()
            except TimeoutError:
                self.feed(moves.Tick())

    # --- Effects -----------------------------------------------------------------------------

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case moves.Apply():
                await self._apply(effect)
            case moves.AwaitVisible():
                await self._await_visible(effect)
            case moves.Save():
                await self._save(effect.progress)
            case moves.Resolve():
                await self._resolve(effect)
            case moves.AwaitEpoch():
                await self._epochs.ready(effect.index, effect.epoch)
                self.feed(moves.EpochReady(effect.index, effect.epoch))
            case moves.Survey():
                self.feed(await self._snapshots.survey(effect))
            case moves.Seek():
                if not self._has_moved_on(effect.namespace.index):
                    self.feed(await self._snapshots.seek(effect))
            case moves.Copy():
                with spans.copy_trace(self._tracer, self._route.home, effect) as trace:
                    event = await self._snapshots.copy(effect, self._copying)
                    spans.tell(trace, event)
                self.feed(event)
            case moves.Alarm() | moves.AllClear():
                self._tell(effect)  # and it stands in the progress that is saved
            case moves.Read():
                raise AssertionError("reading has a task of its own")

    async def _apply(self, effect: moves.Apply) -> None:
        with spans.apply_trace(self._tracer, self._route.home, effect) as trace:
            event = await self._applied(effect.namespace, effect.call)
            spans.tell(trace, event)
        self.feed(event)

    async def _applied(self, namespace: NamespaceRef, call: Call) -> Event:
        """What became of the call."""
        try:
            applied = await self._call(namespace, call.change, call.position)
        except ReplicaAhead as error:
            return moves.Past(namespace, error.position)
        except ReplicaUnavailable as error:
            return moves.Failed(namespace, error.may_land, error.retry_after_s)
        except ReplicaRejected as error:
            if _is_so_already(call.change, error.status):
                return moves.Applied(namespace, None)
            if error.status == 404:
                return moves.Failed(namespace, may_land=False)  # it is the index that is not there
            return moves.Refused(namespace, str(error))
        return moves.Applied(namespace, applied)

    async def _call(self, namespace: NamespaceRef, change: Change, position: Lsn) -> Lsn | None:
        """Change our index, at its pace and under the lease; the index's own position.

        Raises: ReplicaError.
        """
        pacer = self._pacers[namespace.index]
        await self._marked(namespace.index)
        await pacer.turn()
        if self._now_s() >= self.follower.send_by_s:
            raise ReplicaUnavailable("the lease is about to end", may_land=False)
        replica = self._route.here.replicas[namespace.index]
        try:
            with self._calls.one():
                applied = await replica.apply(
                    namespace, change, timeout_s=self._pace.call_timeout_s, position=position
                )
        except ReplicaUnavailable:
            pacer.was_refused()
            raise
        pacer.went_well()
        return applied.lsn

    async def _copying(self, namespace: NamespaceRef, change: Change, position: Lsn) -> Lsn | None:
        """The call, again and again until it is done: a copy has many, and begins at the front if one fails.

        Raises: ReplicaAhead, ReplicaRejected.
        """
        settled_s = 0.0
        while True:
            try:
                lsn = await self._call(namespace, change, position)
            except ReplicaRejected as error:
                if not _is_so_already(change, error.status):
                    raise
                return None
            except ReplicaUnavailable as error:
                if error.may_land:
                    settled_s = self._now_s() + self._pace.apply_settle_s
                await asyncio.sleep(error.retry_after_s or self._pace.retry_s)
            else:
                await asyncio.sleep(max(settled_s - self._now_s(), 0.0))
                return lsn

    async def _await_visible(self, effect: moves.AwaitVisible) -> None:
        replica = self._route.here.replicas[effect.namespace.index]
        lsn, position = effect.index_lsn, effect.position
        while lsn is None:
            try:
                lsn = await self._call(effect.namespace, Delete([NOBODY]), position)
                break
            except ReplicaAhead as error:
                position = error.position
            except ReplicaError:
                await asyncio.sleep(_AGAIN_S)
        await wait_visible(replica, effect.namespace, lsn)
        self.feed(moves.Visible(effect.namespace, effect.sequence))

    # --- The log -----------------------------------------------------------------------------

    def _start_reading(self, effect: moves.Read) -> None:
        if self._reader is not None:
            self._reader.cancel()
        self._reading = reading = object()
        self._reader = self._tasks.create_task(self._until_over(self._read(effect, reading), reading))

    async def _read(self, effect: moves.Read, reading: object) -> None:
        after = effect.after
        while True:
            try:
                entries = self._log.read(self._route.shard, after, effect.incarnation)
                async with aclosing(entries):
                    async for entry in entries:
                        self.feed(moves.Received(self._as_history(entry)))
                        if self._reading is not reading:
                            return  # what was fed has sent the reader back
                        after = entry.sequence
                        await self._room.wait()
            except LogUnavailable:
                await asyncio.sleep(_AGAIN_S)

    def _as_history(self, entry: Entry) -> Entry:
        """The entry, or, when it is no part of its index's history, its place with nothing in it.

        Raises: TermCut: it is none, and what came before it was none either.
        """
        is_change = entry.index and not isinstance(entry.body, EpochOpened)
        if not is_change or self._epochs.is_history(self._route.home, entry):
            return entry
        self._note_cuts()
        return replace(entry, body=Heartbeat())

    def _cuts(self) -> Sequence[Cut]:
        return self._epochs.cuts(self._route.home, self._route.shard, self._route.indexes)

    async def _resolve(self, effect: moves.Resolve) -> None:
        """Ask our replica which ids match, and let everyone know through the log."""
        intent = effect.intent
        namespace = NamespaceRef(intent.index, intent.namespace)
        try:
            ids = await self._matching(namespace, intent.body)
            if not await self._markers.is_there(intent.index, self.follower.progress.markers):
                raise IndexWiped(f"{intent.index} lost what it held: nobody knows what a filter matches")
            fence = await self._fence(intent.index)
            chunks = [ids[at : at + _IDS_A_CHUNK] for at in range(0, len(ids), _IDS_A_CHUNK)] or [[]]
            appends = [
                Append(intent.namespace, Resolved(intent.lsn, chunk, number == len(chunks)))
                for number, chunk in enumerate(chunks, 1)
            ]
            for at in range(0, len(appends), _CHUNKS_A_BATCH):
                batch = appends[at : at + _CHUNKS_A_BATCH]
                await self._log.append(fence, self._route.shard, batch, timeout_s=_CALL_S)
        except AppendUnknown:
            self.feed(moves.Announced(namespace, is_done=True))  # it comes, or is asked for again
        except (ReplicaError, LogUnavailable, StaleEpoch):
            self.feed(moves.Announced(namespace, is_done=False))
        else:
            self.feed(moves.Announced(namespace, is_done=True))

    async def _fence(self, index: IndexName) -> Fence:
        """The right to tell ids: also when a promotion has fenced the epoch off, for it waits for them.

        Ids concern a change that came before the fence; whoever reads them knows it by that.
        Raises: LogUnavailable, StaleEpoch.
        """
        newest = self.follower.newest_epoch(index)
        if newest is None:
            return await self._epochs.fence(index)
        return await self._log.open_epoch(index, newest, timeout_s=_CALL_S)

    async def _matching(self, namespace: NamespaceRef, body: object) -> list[str]:
        if not isinstance(body, DeleteByFilter | UpdateByFilter):
            raise TypeError(f"a {type(body).__name__} has no filter")
        replica = self._route.here.replicas[namespace.index]
        ids: list[str] = []
        token: str | None = None
        while True:
            page = await replica.fetch_by_metadata(
                namespace,
                body.filter,
                limit=_MATCHES_A_PAGE,
                token=token,
                timeout_s=self._pace.call_timeout_s,
            )
            ids += page.records
            token = page.next_token
            if token is None:
                return ids

    # --- The register ------------------------------------------------------------------------

    async def _probe(self) -> moves.Probed:
        """See what stands, and make the record ours: from here on, nobody else's saves succeed.

        What was received beyond the end of a term that was cut off may have been applied: such an index is
        copied anew, like one that was wiped. A cut is dealt with once; its key among the markers says so, and
        from then on entries beyond the end count as empty places.
        """
        while True:
            try:
                progress = self._as_reached(await self._claim())
                shard = await self._log.state(self._route.shard, timeout_s=_CALL_S)
            except (LogUnavailable, Conflict):
                await asyncio.sleep(_AGAIN_S)
            else:
                tokens, wiped = await self._markers.check(progress.markers if progress else {})
                wiped = [index for index in wiped if not self._has_moved_on(index)]
                news = [cut for cut in self._cuts() if cut.key not in tokens]
                wiped += [cut.index for cut in news if cut.is_in(progress)]
                tokens |= {cut.key: "seen" for cut in news}
                return moves.Probed(progress, shard, list(dict.fromkeys(wiped)), tokens)

    def _has_moved_on(self, index: IndexName) -> bool:
        """Whether the index is another follower's matter, and none of ours to copy."""
        return self._epochs.has_moved_on(self._route.home, self._route.shard, index)

    def _as_reached(self, saved: Progress | None) -> Progress | None:
        """The record, with the changes that were taken in after it was saved."""
        reached = self._reached
        if saved is None or reached is None or reached.incarnation != saved.incarnation:
            return saved
        known = saved.changed
        later = {i: sequence for i, sequence in reached.changed.items() if sequence > known.get(i, 0)}
        return msgspec.structs.replace(saved, changed={**known, **later})

    async def _claim(self) -> Progress | None:
        found = await self._route.here.registers.get(self._key, timeout_s=_CALL_S)
        if found is None:
            self._revision = 0
            return None
        progress = decode(found.value)
        mine = msgspec.structs.replace(progress, writer=self._writer)
        self._revision = await self._route.here.registers.swap(
            self._key, encode(mine), found.revision, timeout_s=_CALL_S
        )
        return mine

    async def _save(self, progress: Progress) -> None:
        try:
            if self._revision is None:
                self._revision = await self._own_revision()
            self._revision = await self._route.here.registers.swap(
                self._key, encode(progress), self._revision, timeout_s=_CALL_S
            )
        except (LogUnavailable, Conflict):
            self._revision = None  # it may have been saved: the next attempt looks whose record stands
            await asyncio.sleep(_AGAIN_S)
            self.feed(moves.Saved(is_done=False))
        else:
            self.feed(moves.Saved(is_done=True))

    async def _own_revision(self) -> int:
        """Raises: Fenced: the record is not ours any more."""
        found = await self._route.here.registers.get(self._key, timeout_s=_CALL_S)
        if found is None:
            return 0
        if decode(found.value).writer != self._writer:
            raise Fenced(f"{self._key} in {self._route.here.region} was taken over")
        return found.revision


def _is_so_already(change: Change, status: int) -> bool:
    """Whether the refusal says that a repeated change was done before."""
    return (isinstance(change, CreateNamespace) and status == 409) or (
        isinstance(change, DropNamespace) and status == 404
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the others."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
