"""Follows one shard of one home's log and keeps this region's indexes equal to it: event in, effects out.

Pure: no clock, no network; `step` is handed what happened and the loop's time, changes the follower and
returns what to do. States and the events each one takes (any other raises `IllegalMove`):

    PROBING     Probed                    -> STREAMING, RESYNCING      what stands is not known yet
    RESYNCING   Surveyed, Adopted, Alone  -> STREAMING                 what to copy is not known yet
    STREAMING   all but those four                                     every namespace has its own lane

`Leased`, `Saved`, `Marked` and `Tick` are taken everywhere. What holds:

1. A change is sent only under the lease, only after the one before it in its namespace is done, and never
   over a call whose outcome is unknown and which may still take effect.
2. What is saved was applied before. It is saved whole: cursor, marks and gates are one record.
3. No change is skipped: it is applied, or its namespace stands still in the record (parked, being copied,
   behind a gate) and is told to be unreadable.
4. A filter is evaluated once, at the home, on the state just before it; all replicas apply those ids.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from heapq import heappop, heappush
from typing import Final

import msgspec

from regions.changes import EpochOpened, Heartbeat, Resolved
from regions.errors import LogCorrupt
from regions.logs.base import Entry, ShardState
from regions.names import IndexName, NamespaceRef
from regions.positions import Epoch, Lsn, make_lsn
from regions.replicator import moves
from regions.replicator.coalesce import BatchLimits, is_intent
from regions.replicator.lane import NEVER_S, Holding, IllegalMove, Lane, State, Unseen
from regions.replicator.moves import Effect, Event
from regions.replicator.watermarks import Gate, Mark, Progress, key_of, namespace_of


class Pace(msgspec.Struct, frozen=True):
    """How a follower takes its time; seconds, loop time."""

    batch: BatchLimits = BatchLimits()
    linger_s: float = 0.05
    """A change waits so long for others to be sent with it; DESIGN: at most 0.1."""
    call_timeout_s: float = 10.0
    apply_settle_s: float = 5.0
    """A call without an answer takes effect within this time, or never."""
    clock_skew_s: float = 0.5
    save_every_s: float = 0.2
    retry_s: float = 0.2
    """Before the second attempt; doubled up to `retry_max_s`."""
    retry_max_s: float = 10.0
    look_every_s: float = 10.0
    """Between two looks at whether the indexes are still the same ones."""
    ask_again_s: float = 5.0
    """An intent whose ids did not appear in the log is asked for again."""
    max_buffered: int = 4_096
    """Entries in memory; beyond it the reader pauses."""


class Phase(Enum):
    """Where a follower stands."""

    PROBING = auto()
    RESYNCING = auto()
    STREAMING = auto()


_ANYWHERE: Final = (moves.Leased, moves.Saved, moves.Marked, moves.Tick)
_STREAMING: Final = (
    *(moves.Received, moves.Applied, moves.Past, moves.Failed, moves.Refused, moves.Visible),
    *(moves.Announced, moves.EpochReady, moves.Copied, moves.CopyFailed, moves.Unpark, moves.Resync),
    moves.Sought,
)
LEGAL: Final[dict[Phase, tuple[type[Event], ...]]] = {
    Phase.PROBING: (moves.Probed, *_ANYWHERE),
    Phase.RESYNCING: (moves.Surveyed, moves.Adopted, moves.Alone, *_ANYWHERE),
    Phase.STREAMING: (*_STREAMING, *_ANYWHERE),
}


class Follower:
    """One shard of one home, for one region."""

    def __init__(self, writer: str, pace: Pace, *, is_home: bool) -> None:
        self._writer, self._pace, self._is_home = writer, pace, is_home
        self.phase = Phase.PROBING
        self._lanes: dict[NamespaceRef, Lane] = {}
        self._incarnation, self._is_first = "", False
        self._received, self._received_s = 0, 0.0
        self._read = 0
        self._gates: dict[IndexName, Gate] = {}
        self._epochs: dict[IndexName, Epoch] = {}
        self._shard: ShardState | None = None
        self._markers: dict[str, str] = {}
        self._changed: dict[IndexName, int] = {}
        self._lease_s = -NEVER_S
        self._timers: list[tuple[float, int, NamespaceRef]] = []
        self._timer_count = 0
        self._to_copy: Sequence[IndexName] | None = None
        self._admitting: dict[NamespaceRef, int] = {}
        self._wanting: dict[NamespaceRef, None] = {}
        self._rewind_s = NEVER_S
        self._is_replaying = False
        self._save_s, self._saved_s, self._is_saving, self._is_dirty = NEVER_S, -NEVER_S, False, False
        self._buffered, self._uncounted = 0, 0
        self._seeks: deque[tuple[float, NamespaceRef]] = deque()
        """Namespaces for which there was nothing to copy from, and when to look again."""
        self._effects: list[Effect] = []

    # --- For the driver ----------------------------------------------------------------------

    def step(self, event: Event, now_s: float) -> list[Effect]:
        """What to do after the event. Raises: IllegalMove: it cannot happen here."""
        if not isinstance(event, LEGAL[self.phase]):
            raise IllegalMove(f"{type(event).__name__} cannot happen while {self.phase.name}")
        self._handle(event, now_s)
        self._run_timers(now_s)
        self._schedule_save(now_s)
        effects, self._effects = self._effects, []
        return effects

    @property
    def send_by_s(self) -> float:
        """A call that begins later could outlive the lease (loop time)."""
        return self._lease_s - self._pace.call_timeout_s - self._pace.clock_skew_s

    @property
    def wake_s(self) -> float:
        """When a Tick is due (loop time); infinity when nothing waits."""
        timer_s = self._timers[0][0] if self._timers else NEVER_S
        seek_s = self._seeks[0][0] if self._seeks else NEVER_S
        return min(timer_s, seek_s, self._rewind_s, self._save_s)

    @property
    def wants_more(self) -> bool:
        """Whether there is room for more entries."""
        if self._buffered + self._uncounted >= self._pace.max_buffered:
            self._count()
        return self._buffered < self._pace.max_buffered

    @property
    def is_settled(self) -> bool:
        """Whether it is known where the follower stands."""
        return self.phase is Phase.STREAMING

    def newest_epoch(self, index: IndexName) -> Epoch | None:
        """The last epoch that the log has opened, when its turn has not come yet."""
        gate = self._gates.get(index)
        return Epoch(gate.newest) if gate is not None else None

    def is_parked(self, namespace: NamespaceRef) -> bool:
        lane = self._lanes.get(namespace)
        return lane is not None and lane.state is State.PARKED

    @property
    def markers(self) -> Mapping[str, str]:
        """By which token each index is known (`replicator.markers`)."""
        return self._markers

    @property
    def progress(self) -> Progress:
        """The record as it stands: what may be promised, and where a successor begins."""
        behind = {
            key_of(lane.namespace): lane.mark()
            for lane in self._lanes.values()
            if not lane.is_caught_up(self._received)
        }
        return Progress(
            writer=self._writer,
            incarnation=self._incarnation,
            received=self._received,
            received_s=self._received_s,
            is_first=self._is_first,
            is_resyncing=self.phase is Phase.RESYNCING,
            behind=behind,
            gates={str(index): gate for index, gate in self._gates.items()},
            epochs={str(index): int(epoch) for index, epoch in self._epochs.items()},
            markers=self._markers,
            changed={str(index): sequence for index, sequence in self._changed.items()},
        )

    def _handle(self, event: Event, now_s: float) -> None:
        match event:
            case moves.Received():
                self._on_received(event.entry, now_s)
            case moves.Applied():
                self._on_applied(event, now_s)
            case moves.Visible():
                self._on_visible(event, now_s)
            case moves.Saved():
                self._on_saved(event, now_s)
            case moves.Leased():
                self._on_leased(event, now_s)
            case moves.Past():
                self._on_past(event, now_s)
            case moves.Failed():
                self._on_failed(event, now_s)
            case moves.Refused():
                self._on_refused(event, now_s)
            case moves.Announced():
                self._on_announced(event, now_s)
            case moves.EpochReady():
                self._on_epoch_ready(event, now_s)
            case moves.Unpark():
                self._on_unpark(event, now_s)
            case moves.Resync():
                self._seek(event.namespace)
            case moves.Sought():
                self._on_sought(event, now_s)
            case moves.Copied():
                self._on_copied(event, now_s)
            case moves.CopyFailed():
                self._on_copy_failed(event, now_s)
            case moves.Probed():
                self._on_probed(event, now_s)
            case moves.Surveyed():
                self._on_surveyed(event, now_s)
            case moves.Adopted():
                self._on_adopted(now_s)
            case moves.Alone():
                self._on_alone(now_s)
            case moves.Marked():
                self._markers = event.markers
                self._save_soon()
            case moves.Tick():
                pass  # timers run after every event

    # --- Beginning ---------------------------------------------------------------------------

    def _on_probed(self, event: moves.Probed, now_s: float) -> None:
        saved, shard = event.progress, event.shard
        self._shard = shard
        if saved is None:
            # Never saved, or lost with the region's registers: the stream alone may not be the whole history.
            saved = Progress(self._writer, "", 0)
        self._load(saved, now_s)
        self._markers = event.markers
        is_same = saved.incarnation == shard.incarnation
        is_there = saved.received + 1 >= shard.first and shard.last >= saved.received
        if not is_same or not is_there or saved.is_resyncing:
            self._begin_survey(shard, saved if is_same else None, None)
        elif event.wiped:
            self._begin_survey(shard, saved, event.wiped)
        else:
            self.phase = Phase.STREAMING
            for lane in self._lanes.values():
                self._copy_if_trimmed(lane)
            self._begin_reading(now_s)

    def _copy_if_trimmed(self, lane: Lane) -> None:
        """What the log has no more of, another replica has."""
        first = self._shard.first if self._shard is not None else 0
        if lane.applied + 1 < first and lane.state is not State.PARKED:
            lane.is_to_be_copied = True

    def _load(self, saved: Progress, now_s: float) -> None:
        """Take over from whoever wrote the record."""
        self._incarnation, self._is_first = saved.incarnation, saved.is_first
        self._received, self._received_s = saved.received, saved.received_s
        self._epochs = {IndexName(index): Epoch(epoch) for index, epoch in saved.epochs.items()}
        self._changed = {IndexName(index): sequence for index, sequence in saved.changed.items()}
        for key, mark in saved.behind.items():
            lane = _lane_of(namespace_of(key), mark)
            self._lanes[lane.namespace] = lane
            if mark.admit_at:
                self._admitting[lane.namespace] = mark.admit_at
            if lane.queryable < lane.applied:
                lane.invisible.append(Unseen(lane.queryable + 1, lane.applied, mark.unqueryable_s))
        self._gates = {IndexName(index): gate for index, gate in saved.gates.items()}

    def _begin_survey(
        self, shard: ShardState, saved: Progress | None, indexes: Sequence[IndexName] | None
    ) -> None:
        """Tell everyone that nothing here may be read, and find out what there is to copy."""
        self.phase, self._to_copy = Phase.RESYNCING, indexes
        received = saved.received if saved is not None else shard.origin - 1
        self._save_soon(is_urgent=True)
        self._effects.append(moves.Survey(shard, self.progress, received, indexes))

    def _on_surveyed(self, event: moves.Surveyed, now_s: float) -> None:
        """Copy every namespace that the source or we hold; the others are empty, here and there."""
        source, ours = event.source, self.progress
        is_same = ours.incarnation == source.incarnation
        before = self._shard.origin - 1 if self._shard is not None else 0
        self.phase = Phase.STREAMING
        if self._to_copy is None:
            self._forget_lanes()
            self._incarnation, self._is_first = source.incarnation, source.is_first
            self._received, self._received_s = source.received, source.received_s
            self._epochs = {IndexName(index): Epoch(epoch) for index, epoch in source.epochs.items()}
            self._changed = {IndexName(index): sequence for index, sequence in source.changed.items()}
            self._gates = {IndexName(index): gate for index, gate in source.gates.items()}
        for namespace in event.namespaces:
            applied = ours.mark(namespace).applied if is_same else before
            if before_it := self._lanes.get(namespace):
                self._clear(before_it)
            lane = self._lanes[namespace] = Lane(namespace, applied, applied, holding=Holding.SPILLED)
            lane.is_to_be_copied = True
        self._begin_reading(now_s)

    def _on_adopted(self, now_s: float) -> None:
        """Go on from what we hold; what the lost stream had beyond it is lost."""
        shard = self._shard
        if shard is None:
            raise IllegalMove("nothing was probed")
        self.phase = Phase.STREAMING
        self._is_first = not self._incarnation
        self._incarnation, self._received = shard.incarnation, shard.origin - 1
        self._changed.clear()
        for lane in self._lanes.values():
            lane.applied = lane.queryable = self._received
            lane.invisible.clear()
        self._begin_reading(now_s)

    def _on_alone(self, now_s: float) -> None:
        """Apply the whole log once more, over what was emptied: until an entry is read, nothing is known."""
        shard = self._shard
        if shard is None:
            raise IllegalMove("nothing was probed")
        self.phase = Phase.STREAMING
        self._incarnation, self._received, self._received_s = shard.incarnation, shard.origin - 1, 0.0
        self._forget_lanes()
        self._gates.clear()
        self._epochs.clear()
        self._changed.clear()
        self._begin_reading(now_s)

    def _begin_reading(self, now_s: float) -> None:
        self._read = self._received
        for index, gate in self._gates.items():
            self._effects.append(moves.AwaitEpoch(index, Epoch(gate.epoch)))
        for lane in self._lanes.values():
            if lane.queryable < lane.applied:
                self._await_visible(lane, None)
            if lane.parked:
                self._alarm(lane)  # who takes over says so once more
        for lane in [*self._lanes.values()]:
            self._advance(lane, now_s)
        if not self._rewind(now_s):
            self._effects.append(moves.Read(self._read, self._incarnation))
        self._save_soon(is_urgent=True)

    # --- Reading -----------------------------------------------------------------------------

    def _on_received(self, entry: Entry, now_s: float) -> None:
        if entry.sequence != self._read + 1:
            raise LogCorrupt(f"shard {entry.shard}: {entry.sequence} came after {self._read}")
        self._read = entry.sequence
        self._uncounted += 1
        is_fresh = entry.sequence > self._received
        if is_fresh:
            self._received, self._received_s = entry.sequence, entry.appended_s
            self._save_soon()
            self._admit(now_s)
        match entry.body:
            case Heartbeat():
                pass
            case EpochOpened():
                if self._epochs.get(entry.index, 0) < entry.epoch:
                    self._open_gate(entry.index, Gate(entry.epoch, entry.sequence))
            case _:
                if not isinstance(entry.body, Resolved):
                    self._changed[entry.index] = max(self._changed.get(entry.index, 0), entry.sequence)
                self._route(entry, now_s, is_fresh=is_fresh)
        if self._is_replaying and self._read >= self._received:
            self._end_replay(now_s)
        if not self.wants_more:
            self._make_room()

    def _admit(self, now_s: float) -> None:
        """Let go of copied namespaces that have nothing to wait for but the reader."""
        for namespace in [n for n, admit_at in self._admitting.items() if admit_at <= self._received]:
            del self._admitting[namespace]
            if lane := self._lanes.get(namespace):
                self._advance(lane, now_s)

    def _route(self, entry: Entry, now_s: float, *, is_fresh: bool) -> None:
        """Give the entry to its namespace's lane; a caught-up namespace gets one for a fresh change."""
        namespace = NamespaceRef(entry.index, entry.namespace)
        lane = self._lanes.get(namespace)
        if lane is None:
            if not is_fresh or isinstance(entry.body, Resolved):
                return
            lane = self._lanes[namespace] = Lane(namespace, entry.sequence - 1, entry.sequence - 1)
        elif is_fresh:
            lane.stay_caught_up(entry.sequence - 1)
        gate = self._gates.get(entry.index)
        if gate is not None and entry.epoch >= gate.epoch and not isinstance(entry.body, Resolved):
            lane.stop_at(gate.sequence)
            self._advance(lane, now_s)
        was_empty = not lane.queue
        if lane.take(entry, is_fresh=is_fresh):
            if was_empty:
                lane.due_s = now_s + self._pace.linger_s
            self._advance(lane, now_s)

    def _end_replay(self, now_s: float) -> None:
        """The reader is where it was before it went back."""
        self._is_replaying = False
        for lane in [*self._lanes.values()]:
            if lane.holding is Holding.REPLAYING:
                lane.be_whole()
                self._advance(lane, now_s)

    def _want_replay(self, lane: Lane, now_s: float) -> None:
        """Have the reader come back for the lane, soon: others may want the same."""
        if lane.namespace not in self._wanting:
            self._wanting[lane.namespace] = None
            self._rewind_s = min(self._rewind_s, now_s + self._pace.linger_s)

    def _rewind(self, now_s: float) -> bool:
        """Go back for the lanes that want it; False when nothing has to be read again."""
        wanting = [self._lanes[namespace] for namespace in self._wanting if namespace in self._lanes]
        lanes = [lane for lane in wanting if _is_to_be_replayed(lane)]
        self._wanting.clear()
        self._rewind_s = NEVER_S
        for lane in lanes:
            lane.replay()
        after = min([lane.tail for lane in lanes], default=self._read)
        if after < self._read:
            self._read = after
            self._is_replaying = True
            self._effects.append(moves.Read(after, self._incarnation))
            return True
        self._is_replaying = self._is_replaying or bool(lanes)
        if self._is_replaying and self._read >= self._received:
            self._end_replay(now_s)
        return False

    def _make_room(self) -> None:
        """Forget what waits behind intents: their ids are further on in the log."""
        for lane in self._lanes.values():
            if lane.state is State.RESOLVING and len(lane.queue) > 1:
                lane.spill()
        self._count()

    def _count(self) -> None:
        self._uncounted = 0
        self._buffered = sum(
            len(lane.queue) + (len(lane.batch.entries) if lane.batch else 0) for lane in self._lanes.values()
        )

    # --- A lane's next step ------------------------------------------------------------------

    def _advance(self, lane: Lane, now_s: float) -> None:
        """Do what the lane can do now; asking once too often does no harm."""
        if lane.is_to_be_copied and lane.state is not State.SENDING:
            self._begin_copy(lane, now_s)
        elif lane.state is State.FLOWING:
            self._flow(lane, now_s)
        elif lane.state is State.WAITING:
            if now_s >= lane.retry_s:
                self._send(lane, now_s)
            else:
                self._wake(lane, lane.retry_s)
        elif lane.state is State.RESOLVING:
            self._resolve(lane, now_s)
        elif lane.state is State.COPYING:
            if now_s >= lane.retry_s:
                self._copy(lane)
            else:
                self._wake(lane, lane.retry_s)

    def _flow(self, lane: Lane, now_s: float) -> None:
        if not lane.queue:
            gate = self._gates.get(lane.namespace.index)
            if lane.holding is Holding.SPILLED and gate is not None and lane.stopped_at == gate.sequence:
                lane.rest()
                self._save_soon()
            elif lane.holding is Holding.SPILLED:
                self._want_replay(lane, now_s)
            elif lane.is_caught_up(self._received) and lane.settled_s() <= now_s:
                del self._lanes[lane.namespace]
            elif lane.is_caught_up(self._received):
                self._wake(lane, lane.settled_s())
        elif is_intent(lane.queue[0].body):
            lane.move(State.RESOLVING)
            self._resolve(lane, now_s)
        elif now_s < lane.due_s and not lane.is_full(self._pace.batch):
            self._wake(lane, lane.due_s)
        elif lane.form_batch(self._pace.batch, now_s):
            self._send(lane, now_s)
        else:
            self._wake(lane, lane.settled_s())

    def _resolve(self, lane: Lane, now_s: float) -> None:
        """Apply the intent in front once its ids are known; at home, see to it that they get known."""
        intent = lane.queue[0]
        known = lane.intents.get(intent.lsn)
        if lane.settled_s() > now_s:
            self._wake(lane, lane.settled_s())
        elif known is not None and known.is_whole:
            lane.form_resolved(self._pace.batch)
            self._send(lane, now_s)
        elif self._is_home and not lane.is_asking and lane.queryable >= lane.applied:
            if now_s >= lane.ask_s:
                lane.is_asking = True
                self._effects.append(moves.Resolve(intent))
            else:
                self._wake(lane, lane.ask_s)

    def _send(self, lane: Lane, now_s: float) -> None:
        """Make the batch's next call, or wait for the lease."""
        batch = lane.batch
        if batch is None:
            raise IllegalMove(f"{lane.namespace}: nothing to send")
        if not batch.calls:
            self._finish(lane, None, now_s)
        elif now_s >= self.send_by_s:
            lane.retry_s = now_s + self._pace.retry_max_s
            if lane.state is not State.WAITING:
                lane.move(State.WAITING)
            self._wake(lane, lane.retry_s)
        else:
            lane.move(State.SENDING)
            self._effects.append(moves.Apply(lane.namespace, batch.calls[0], batch.entries))

    def _finish(self, lane: Lane, index_lsn: Lsn | None, now_s: float) -> None:
        """The batch is done."""
        if lane.state is not State.FLOWING:
            lane.move(State.FLOWING)
        lane.finish_batch()
        self._after_progress(lane, index_lsn, now_s)

    def _after_progress(self, lane: Lane, index_lsn: Lsn | None, now_s: float) -> None:
        if not lane.is_awaiting and lane.queryable < lane.applied:
            self._await_visible(lane, index_lsn)
        self._save_soon()
        self._advance(lane, now_s)

    def _await_visible(self, lane: Lane, index_lsn: Lsn | None) -> None:
        lane.is_awaiting = True
        position = self._position(lane)
        self._effects.append(moves.AwaitVisible(lane.namespace, lane.applied, position, index_lsn))

    def _position(self, lane: Lane) -> Lsn:
        """Where the lane's namespace is, as an index remembers it."""
        return make_lsn(self._epochs.get(lane.namespace.index, Epoch(0)), lane.applied)

    # --- What became of a call ---------------------------------------------------------------

    def _on_applied(self, event: moves.Applied, now_s: float) -> None:
        lane = self._sending(event.namespace)
        lane.index_lsn = event.index_lsn
        lane.attempts = 0
        if lane.batch is not None:
            lane.batch.calls.popleft()
        self._send(lane, now_s)

    def _on_past(self, event: moves.Past, now_s: float) -> None:
        lane = self._sending(event.namespace)
        lane.move(State.FLOWING)
        lane.drop_until(event.position)
        self._after_progress(lane, None, now_s)

    def _on_failed(self, event: moves.Failed, now_s: float) -> None:
        lane = self._sending(event.namespace)
        pace = self._pace
        if event.may_land and lane.batch is not None:
            lane.note_unsettled(lane.batch.calls[0].change, now_s + pace.apply_settle_s)
        backoff_s = min(pace.retry_s * 2.0 ** min(lane.attempts, 20), pace.retry_max_s)
        lane.attempts += 1
        lane.retry_s = now_s + max(backoff_s, event.retry_after_s or 0.0)
        lane.move(State.WAITING)
        self._wake(lane, lane.retry_s)

    def _on_refused(self, event: moves.Refused, now_s: float) -> None:
        """Of several changes, find the one that is refused; that one parks the namespace."""
        lane = self._sending(event.namespace)
        if lane.batch is not None and len(lane.batch.entries) > 1:
            lane.single_until = lane.batch.last
            lane.move(State.FLOWING)
            lane.put_back()
            self._advance(lane, now_s)
            return
        lane.move(State.PARKED)
        lane.spill()
        lane.parked = event.reason or "refused"
        self._alarm(lane)
        self._save_soon(is_urgent=True)

    def _on_visible(self, event: moves.Visible, now_s: float) -> None:
        lane = self._lanes.get(event.namespace)
        if lane is None:
            return
        lane.is_awaiting = False
        lane.note_visible(event.sequence)
        self._after_progress(lane, lane.index_lsn, now_s)

    def _on_announced(self, event: moves.Announced, now_s: float) -> None:
        lane = self._lanes.get(event.namespace)
        if lane is None:
            return
        lane.is_asking = False
        lane.ask_s = now_s + (self._pace.ask_again_s if event.is_done else self._pace.retry_s)
        self._advance(lane, now_s)

    def _sending(self, namespace: NamespaceRef) -> Lane:
        lane = self._lanes.get(namespace)
        if lane is None or lane.state is not State.SENDING:
            raise IllegalMove(f"{namespace}: no call is in flight")
        return lane

    # --- Standing still and going on ---------------------------------------------------------

    def _alarm(self, lane: Lane) -> None:
        self._effects.append(moves.Alarm(lane.namespace, lane.applied + 1, lane.parked))

    def _clear(self, lane: Lane) -> None:
        """It stands still for no refusal any more, if it ever did."""
        if lane.parked:
            lane.parked = ""
            self._effects.append(moves.AllClear(lane.namespace))

    def _forget_lanes(self) -> None:
        for lane in self._lanes.values():
            self._clear(lane)
        self._lanes.clear()

    def _on_unpark(self, event: moves.Unpark, now_s: float) -> None:
        lane = self._lanes.get(event.namespace)
        if lane is None or lane.state is not State.PARKED:
            raise IllegalMove(f"{event.namespace} is not parked")
        lane.move(State.FLOWING)
        self._clear(lane)
        self._copy_if_trimmed(lane)
        self._save_soon(is_urgent=True)
        self._advance(lane, now_s)

    def _seek(self, namespace: NamespaceRef) -> None:
        """What stands here stays readable until there is something better."""
        lane = self._lanes.get(namespace)
        applied = lane.position if lane is not None else self._received
        self._effects.append(moves.Seek(namespace, applied))

    def _on_sought(self, event: moves.Sought, now_s: float) -> None:
        if not event.is_found:
            self._seeks.append((now_s + self._pace.retry_max_s, event.namespace))
            return
        lane = self._lanes.get(event.namespace)
        if lane is None:
            lane = self._lanes[event.namespace] = Lane(event.namespace, self._received, self._received)
        lane.stay_caught_up(self._received)
        if lane.state is not State.COPYING:
            lane.is_to_be_copied = True
            self._advance(lane, now_s)

    def _begin_copy(self, lane: Lane, now_s: float) -> None:
        """Once nothing of ours can change by itself any more."""
        if lane.settled_s() > now_s:
            self._wake(lane, lane.settled_s())
            return
        lane.move(State.COPYING)
        lane.spill()
        self._clear(lane)
        lane.is_to_be_copied, lane.attempts = False, 0
        self._copy(lane)
        self._save_soon(is_urgent=True)

    def _copy(self, lane: Lane) -> None:
        lane.retry_s = NEVER_S
        self._effects.append(moves.Copy(lane.namespace, lane.applied, self._position(lane)))

    def _on_copied(self, event: moves.Copied, now_s: float) -> None:
        lane = self._copying(event.namespace)
        lane.move(State.FLOWING)
        lane.applied = lane.queryable = event.start
        lane.admit_at = self._admitting[lane.namespace] = event.end
        lane.invisible.clear()
        self._save_soon()
        self._advance(lane, now_s)

    def _on_copy_failed(self, event: moves.CopyFailed, now_s: float) -> None:
        lane = self._copying(event.namespace)
        lane.applied = max(lane.applied, event.past)
        lane.retry_s = now_s + min(self._pace.retry_s * 2.0 ** min(lane.attempts, 20), self._pace.retry_max_s)
        lane.attempts += 1
        self._wake(lane, lane.retry_s)

    def _copying(self, namespace: NamespaceRef) -> Lane:
        lane = self._lanes.get(namespace)
        if lane is None or lane.state is not State.COPYING:
            raise IllegalMove(f"{namespace} is not being copied")
        return lane

    # --- Epochs ------------------------------------------------------------------------------

    def _open_gate(self, index: IndexName, gate: Gate) -> None:
        """Hold the epoch's changes back until everything before it is here."""
        known = self._gates.get(index)
        if known is None:
            self._gates[index] = gate
            self._effects.append(moves.AwaitEpoch(index, Epoch(gate.epoch)))
        elif known.newest < gate.epoch:
            self._gates[index] = known.then(gate.epoch, gate.sequence)
        self._save_soon()

    def _on_epoch_ready(self, event: moves.EpochReady, now_s: float) -> None:
        gate = self._gates.get(event.index)
        if gate is None or gate.epoch != event.epoch:
            return
        del self._gates[event.index]
        self._epochs[event.index] = event.epoch
        if following := gate.following:
            self._gates[event.index] = following
            self._effects.append(moves.AwaitEpoch(event.index, Epoch(following.epoch)))
        self._save_soon()
        for lane in [*self._lanes.values()]:
            if lane.namespace.index == event.index:
                self._advance(lane, now_s)

    # --- Lease, time, saving -----------------------------------------------------------------

    def _on_leased(self, event: moves.Leased, now_s: float) -> None:
        was_stopped = now_s >= self.send_by_s
        self._lease_s = max(self._lease_s, event.until_s)
        if was_stopped:
            for lane in [*self._lanes.values()]:
                if lane.state is State.WAITING and lane.attempts == 0:
                    lane.retry_s = now_s
                    self._advance(lane, now_s)

    def _on_saved(self, event: moves.Saved, now_s: float) -> None:
        self._is_saving = False
        self._saved_s = now_s
        self._is_dirty = self._is_dirty or not event.is_done

    def _run_timers(self, now_s: float) -> None:
        while self._timers and self._timers[0][0] <= now_s:
            at_s, _, namespace = heappop(self._timers)
            lane = self._lanes.get(namespace)
            if lane is not None and lane.wake_s == at_s:
                lane.wake_s = NEVER_S
                self._advance(lane, now_s)
        while self._seeks and self._seeks[0][0] <= now_s:
            self._seek(self._seeks.popleft()[1])
        if self._rewind_s <= now_s:
            self._rewind(now_s)

    def _wake(self, lane: Lane, at_s: float) -> None:
        if lane.wake_s <= at_s:
            return  # it asks again then
        lane.wake_s = at_s
        self._timer_count += 1
        heappush(self._timers, (at_s, self._timer_count, lane.namespace))

    def _save_soon(self, *, is_urgent: bool = False) -> None:
        self._is_dirty = True
        if is_urgent:
            self._saved_s = -NEVER_S

    def _schedule_save(self, now_s: float) -> None:
        """One save at a time, not too often, of what is the case when it begins."""
        self._save_s = NEVER_S
        if not self._is_dirty or self._is_saving:
            return
        if now_s < self._saved_s + self._pace.save_every_s:
            self._save_s = self._saved_s + self._pace.save_every_s
            return
        self._is_dirty, self._is_saving = False, True
        self._effects.append(moves.Save(self.progress))


def _is_to_be_replayed(lane: Lane) -> bool:
    return lane.state is State.FLOWING and lane.holding is Holding.SPILLED


def _lane_of(namespace: NamespaceRef, mark: Mark) -> Lane:
    lane = Lane(namespace, mark.applied, mark.queryable, holding=Holding.SPILLED)
    lane.oldest_s, lane.admit_at = mark.unapplied_s, mark.admit_at
    if mark.parked:
        lane.state, lane.parked = State.PARKED, mark.parked
    lane.is_to_be_copied = mark.is_copying
    return lane
