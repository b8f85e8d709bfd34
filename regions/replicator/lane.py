"""One namespace on its way: what waits for it, the call in flight, why it stands still.

Pure. A lane exists while its namespace is not caught up; its states and moves:

    FLOWING    changes wait to be sent              -> SENDING, WAITING, RESOLVING, COPYING
    SENDING    one call is in flight                -> FLOWING, SENDING, WAITING, PARKED
    WAITING    a call waits for its time            -> SENDING, COPYING
    RESOLVING  an intent waits for its ids          -> SENDING, WAITING, FLOWING, PARKED, COPYING
    PARKED     a refused change stands in front     -> FLOWING, COPYING
    COPYING    it is copied from another replica    -> FLOWING, COPYING

and what it holds of the shard's entries:

    WHOLE      everything that the follower received and the lane has not applied
    SPILLED    nothing after its front: the reader has to come back for it
    REPLAYING  the reader came back, and is not yet where it was

At most one call of a namespace is in flight: that is the order within a namespace.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from regions.changes import Change, Delete, DeleteByFilter, Resolved, Update, UpdateByFilter
from regions.logs.base import Entry
from regions.names import NamespaceRef
from regions.positions import Lsn
from regions.replicator.coalesce import (
    BatchLimits,
    Call,
    fold,
    ids_of,
    is_barrier,
    is_intent,
    positioned,
    prefix,
    size_of,
)
from regions.replicator.watermarks import NONE_S, Mark

NEVER_S: Final = float("inf")


class IllegalMove(RuntimeError):
    """An event that cannot happen here: a fault of ours. Nothing was changed."""


class State(Enum):
    """Where a lane stands."""

    FLOWING = auto()
    SENDING = auto()
    WAITING = auto()
    RESOLVING = auto()
    PARKED = auto()
    COPYING = auto()


MOVES: Final = {
    State.FLOWING: {State.SENDING, State.WAITING, State.RESOLVING, State.COPYING},
    State.SENDING: {State.FLOWING, State.SENDING, State.WAITING, State.PARKED},
    State.WAITING: {State.SENDING, State.COPYING},
    State.RESOLVING: {State.SENDING, State.WAITING, State.FLOWING, State.PARKED, State.COPYING},
    State.PARKED: {State.FLOWING, State.COPYING},
    State.COPYING: {State.FLOWING, State.COPYING},
}


class Holding(Enum):
    """What a lane holds of the shard's entries."""

    WHOLE = auto()
    SPILLED = auto()
    REPLAYING = auto()


@dataclass(slots=True)
class Batch:
    """Entries on their way to the index, as the calls that are left to make."""

    entries: list[Entry]
    calls: deque[Call]

    @property
    def last(self) -> int:
        return self.entries[-1].sequence


@dataclass(slots=True)
class Ids:
    """The ids of an intent, as far as they came; repeated chunks do no harm."""

    ids: dict[str, None] = field(default_factory=dict)
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class Unseen:
    """A batch that is applied and not yet visible: its first and last sequence, and since when it waits."""

    first: int
    last: int
    appended_s: float


@dataclass(slots=True)
class Lane:
    """A namespace that is not caught up. The follower that owns it is the only one that changes it."""

    namespace: NamespaceRef
    applied: int
    """Every change of the namespace up to this sequence is in the index."""
    queryable: int
    state: State = State.FLOWING
    holding: Holding = Holding.WHOLE
    seen: int = 0
    """While REPLAYING: the last sequence that was taken in."""
    stopped_at: int = 0
    """While SPILLED: everything before this gate is in the queue, or was, and nothing after it."""
    queue: deque[Entry] = field(default_factory=deque)
    size_bytes: int = 0
    record_count: int = 0
    """Ids and bytes in the queue: it is sent at once when they make a full call."""
    due_s: float = 0.0
    """When the queue is sent although it is not full."""
    batch: Batch | None = None
    attempts: int = 0
    retry_s: float = 0.0
    single_until: int = 0
    """Up to here changes go one by one: one of them was refused."""
    intents: dict[Lsn, Ids] = field(default_factory=dict)
    ask_s: float = 0.0
    """When the home asks (again) for the ids of the intent in front."""
    is_asking: bool = False
    unsettled: dict[str, float] = field(default_factory=dict)
    """Ids that a call without an answer may still change, and until when."""
    unsettled_s: float = 0.0
    """Until when a call without an answer may still change everything."""
    invisible: deque[Unseen] = field(default_factory=deque)
    is_awaiting: bool = False
    oldest_s: float = NONE_S
    """When the first entry that was spilled had been appended."""
    parked: str = ""
    admit_at: int = 0
    is_to_be_copied: bool = False
    index_lsn: Lsn | None = None
    """The index's own position after the last call."""
    wake_s: float = NEVER_S
    """When its timer rings."""

    def move(self, to: State) -> None:
        """Raises: IllegalMove: there is no such move."""
        if to not in MOVES[self.state]:
            raise IllegalMove(f"{self.namespace}: no way from {self.state.name} to {to.name}")
        self.state = to

    # --- What comes in -----------------------------------------------------------------------

    def take(self, entry: Entry, *, is_fresh: bool) -> bool:
        """Take an entry in, if it is one that the lane lacks; whether it did."""
        if isinstance(entry.body, Resolved):
            return self._take_ids(entry.body)
        if self.holding is Holding.SPILLED:
            self.oldest_s = self.oldest_s or entry.appended_s
            return False
        if not is_fresh and (self.holding is Holding.WHOLE or entry.sequence <= self.seen):
            return False
        self.seen = entry.sequence
        self.queue.append(entry)
        self.size_bytes += size_of(entry.body)
        self.record_count += len(ids_of(entry.body))
        return True

    def _take_ids(self, chunk: Resolved) -> bool:
        """Keep the ids of an intent that is still to be applied here; others are an echo."""
        lsn = Lsn(chunk.intent)
        if not any(lsn == entry.lsn for entry in self.queue if is_intent(entry.body)):
            return False
        found = self.intents.setdefault(lsn, Ids())
        if not found.is_whole:
            found.ids.update(dict.fromkeys(chunk.ids))
            found.is_whole = chunk.last
        return True

    def spill(self) -> None:
        """Forget what waits, but for an intent in front; the reader comes back for it."""
        front = self.queue[0] if self.state is State.RESOLVING else None
        self.oldest_s = self._waiting_s or self.oldest_s
        self.applied = self.position
        self.batch = None
        self.queue = deque([front] if front else [])
        self.intents = {front.lsn: self.intents[front.lsn]} if front and front.lsn in self.intents else {}
        self.size_bytes = self.record_count = 0
        self.holding, self.stopped_at = Holding.SPILLED, 0

    def stop_at(self, gate: int) -> None:
        """The reader is past the gate: what comes now is read again when that has opened."""
        if self.holding is not Holding.SPILLED:
            self.holding, self.stopped_at = Holding.SPILLED, gate

    def rest(self) -> None:
        """Everything before the gate is applied; up to the gate itself nothing was for this namespace."""
        self.applied = max(self.applied, self.stopped_at - 1)
        if not self.invisible:
            self.queryable = self.applied

    def replay(self) -> None:
        """The reader comes back to `tail`."""
        self.holding, self.seen, self.stopped_at = Holding.REPLAYING, self.tail, 0

    def be_whole(self) -> None:
        """The reader is where it was: nothing is lacking."""
        self.holding, self.oldest_s = Holding.WHOLE, NONE_S

    # --- What goes out -----------------------------------------------------------------------

    def is_full(self, limits: BatchLimits) -> bool:
        return self.record_count >= limits.records or self.size_bytes >= limits.size_bytes

    def unsettled_at(self, now_s: float) -> Collection[str]:
        """Ids that may still change by themselves; those that cannot any more are forgotten."""
        if self.unsettled:
            self.unsettled = {id_: until for id_, until in self.unsettled.items() if until > now_s}
        return self.unsettled.keys()

    def settled_s(self) -> float:
        """When nothing can change by itself any more."""
        return max([self.unsettled_s, *self.unsettled.values()])

    def note_unsettled(self, change: Change, until_s: float) -> None:
        """The call had no answer: it may take effect until then."""
        if is_barrier(change):
            self.unsettled_s = until_s
        else:
            self.unsettled.update(dict.fromkeys(ids_of(change), until_s))

    def form_batch(self, limits: BatchLimits, now_s: float) -> bool:
        """Make a batch of what stands in front; False when that has to wait."""
        unsettled = self.unsettled_at(now_s)
        if self.unsettled_s > now_s:
            return False
        is_single = bool(self.queue) and self.queue[0].sequence <= self.single_until
        entries = prefix(list(self.queue)[:1] if is_single else self.queue, limits, unsettled)
        if entries:
            self._begin(entries, fold(entries))
        return bool(entries)

    def form_resolved(self, limits: BatchLimits) -> None:
        """Make a batch of the intent in front, whose ids are known."""
        intent = self.queue[0]
        ids = list(self.intents.pop(intent.lsn).ids)
        changes = _resolved_changes(intent, ids, limits.records)
        self._begin([intent], positioned(changes, Lsn(intent.lsn - 1), intent.lsn))

    def _begin(self, entries: list[Entry], calls: list[Call]) -> None:
        for entry in entries:
            self.queue.popleft()
            self.size_bytes -= size_of(entry.body)
            self.record_count -= len(ids_of(entry.body))
        if not self.queue:
            self.size_bytes = self.record_count = 0
        self.batch, self.attempts = Batch(entries, deque(calls)), 0

    def finish_batch(self) -> None:
        """Every call of the batch is done."""
        if self.batch is None:
            raise IllegalMove(f"{self.namespace}: nothing was sent")
        front = self.batch.entries[0]
        self.applied = self.batch.last
        self.invisible.append(Unseen(front.sequence, self.batch.last, front.appended_s))
        self.batch = None

    def put_back(self) -> None:
        """What was to be sent waits again."""
        if self.batch is not None:
            for entry in reversed(self.batch.entries):
                self.queue.appendleft(entry)
                self.size_bytes += size_of(entry.body)
                self.record_count += len(ids_of(entry.body))
            self.batch = None

    def drop_until(self, position: Lsn) -> None:
        """The index has everything up to `position` already: nothing of that is sent."""
        self.put_back()
        while self.queue and self.queue[0].lsn <= position:
            entry = self.queue.popleft()
            self.intents.pop(entry.lsn, None)
            self.applied = entry.sequence
            self.invisible.append(Unseen(entry.sequence, entry.sequence, entry.appended_s))
        self.size_bytes = sum(size_of(entry.body) for entry in self.queue)
        self.record_count = sum(len(ids_of(entry.body)) for entry in self.queue)

    def note_visible(self, sequence: int) -> None:
        self.queryable = max(self.queryable, sequence)
        while self.invisible and self.invisible[0].last <= self.queryable:
            self.invisible.popleft()

    # --- Where it stands ---------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Up to where the namespace is applied: also over what others changed in between."""
        if self.batch is not None:
            return self.batch.entries[0].sequence - 1
        if self.queue:
            return max(self.applied, self.queue[0].sequence - 1)
        return self.applied

    @property
    def tail(self) -> int:
        """The last sequence that need not be read again."""
        if self.queue:
            return self.queue[-1].sequence
        return self.batch.last if self.batch is not None else self.applied

    @property
    def _waiting_s(self) -> float:
        """When the oldest change that is held here was appended."""
        if self.batch is not None:
            return self.batch.entries[0].appended_s
        return self.queue[0].appended_s if self.queue else NONE_S

    def is_caught_up(self, received: int) -> bool:
        return (
            self.state is State.FLOWING
            and self.holding is Holding.WHOLE
            and not self.queue
            and self.queryable >= self.applied
            and received >= self.admit_at
        )

    def stay_caught_up(self, received: int) -> None:
        """Nothing up to `received` was for this namespace: what it lacked before it does not lack now."""
        if self.is_caught_up(received):
            self.applied = self.queryable = received

    def mark(self) -> Mark:
        """What the others are told."""
        position = self.position
        unapplied_s = self._waiting_s or self.oldest_s
        unseen = self.invisible[0] if self.invisible else None
        return Mark(
            applied=position,
            queryable=unseen.first - 1 if unseen is not None else position,
            unapplied_s=unapplied_s,
            unqueryable_s=unseen.appended_s if unseen is not None else unapplied_s,
            parked=self.parked,
            is_copying=self.state is State.COPYING or self.is_to_be_copied,
            admit_at=self.admit_at,
        )


def _resolved_changes(intent: Entry, ids: list[str], records: int) -> list[Change]:
    """What an intent comes down to, once its ids are known."""
    match intent.body:
        case DeleteByFilter():
            return [Delete(ids[at : at + records]) for at in range(0, len(ids), records)]
        case UpdateByFilter(set_metadata=metadata):
            return [Update(id=id_, set_metadata=metadata) for id_ in ids]
        case _:
            raise IllegalMove(f"{intent.namespace}: a {type(intent.body).__name__} has no ids to wait for")
