"""What is known of all regions at one moment: homes, how far every replica is, how near everything is.

Pure and immutable: whoever decides something, decides it on one `Topology`.

**Homes.** An index has terms, one a time: an epoch, and the region whose log took its writes. The last term
is the present one; the others say where they ended, in every shard of their log. The record stands in the
registers of every region, and a term is decided once a majority of them hold it: `decide` finds the longest
run of terms that a majority agrees on, so what a promotion left half done counts for nothing.

**Standings.** A replica's position in a namespace is told by the follower of the home's shard in that
replica's region. It says something under the present epoch only when that follower has come to the epoch's
fence; before that, the replica may lack changes of the term before.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, Protocol

import msgspec

from regions.errors import EpochAhead, LsnSuperseded
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import NO_LSN, Epoch, Lsn, epoch_of, make_lsn, sequence_of

HOMES_PREFIX: Final = "homes."


def shard_of(namespace: NamespaceRef, shards: int) -> int:
    """The shard of a namespace in every region's log. Stable for ever: blake2b, 64 bits, little-endian."""
    text = f"{namespace.index}\0{namespace.stored}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") % shards


class Term(msgspec.Struct, frozen=True, omit_defaults=True):
    """A time in which one region's log took the writes of an index."""

    epoch: int
    region: str
    ends: list[int] = []
    """The last sequence of the term in every shard of its log; empty while it lasts."""
    is_forced: bool = False
    """It was ended without its log: what that log took beyond `ends` was never shipped, and is no history."""
    streams: list[str] = []
    """The incarnation of every shard of its log when the term began."""
    lost: list[int] = []
    """Shards whose stream was another one when the term ended: of no position there is known who has it."""

    def is_in(self, incarnation: str, shard: int) -> bool:
        """Whether a shard's stream is the one that the term began in, as far as that was noted."""
        return shard >= len(self.streams) or self.streams[shard] == incarnation

    def not_in(self, streams: Sequence[str]) -> list[int]:
        """The shards whose streams, by incarnation, are not those that the term began in."""
        return [shard for shard, stream in enumerate(streams) if not self.is_in(stream, shard)]


class Home(msgspec.Struct, frozen=True):
    """The terms of an index, oldest first; never empty."""

    index: str
    terms: list[Term]

    @property
    def term(self) -> Term:
        return self.terms[-1]

    @property
    def region(self) -> RegionId:
        return RegionId(self.term.region)

    @property
    def epoch(self) -> Epoch:
        return Epoch(self.term.epoch)

    def needed(self, floor: Lsn, shard: int) -> Lsn:
        """What a replica must show under the present epoch, to hold everything up to `floor`.

        Raises: LsnSuperseded: the floor's epoch ended before it. EpochAhead: an epoch not known here.
        """
        if floor == NO_LSN or epoch_of(floor) == self.epoch:
            return floor
        if epoch_of(floor) > self.epoch:
            raise EpochAhead(f"{floor} is of epoch {epoch_of(floor)}; {self.index} is at {self.epoch}")
        for term in self.terms:
            if term.epoch == epoch_of(floor) and shard < len(term.ends):
                if sequence_of(floor) <= term.ends[shard] and shard not in term.lost:
                    return NO_LSN
                break
        raise LsnSuperseded(f"epoch {epoch_of(floor)} of {self.index} ended before {floor}")

    def is_history(self, region: RegionId, epoch: int, shard: int, sequence: int) -> bool:
        """Whether an entry of a region's log is a part of the index's history.

        What an old home went on taking after it was replaced by force is none, and nobody may apply it. An
        epoch later than the present is one that is not decided yet.
        """
        term = next((term for term in self.terms if term.epoch == epoch), None)
        if term is None or term.region != region:
            return False
        return not term.ends or (shard < len(term.ends) and sequence <= term.ends[shard])

    def successor(
        self, term: Term, ends: Sequence[int], *, is_forced: bool, lost: Sequence[int] = ()
    ) -> "Home":
        """This home, ended where `ends` says, having lost the streams of `lost`, and the next term."""
        ended = msgspec.structs.replace(self.term, ends=list(ends), is_forced=is_forced, lost=list(lost))
        return Home(self.index, [*self.terms[:-1], ended, term])


def home_key(index: str) -> str:
    """The register of an index's home."""
    return HOMES_PREFIX + index


_DECODER: Final = msgspec.json.Decoder(Home)


def encode_home(home: Home) -> bytes:
    return msgspec.json.encode(home)


def decode_home(data: bytes) -> Home:
    """Raises: msgspec.DecodeError: no home record."""
    home = _DECODER.decode(data)
    if not home.terms:
        raise msgspec.ValidationError("a home without a term")
    return home


def majority(regions: int) -> int:
    """How many of so many regions decide."""
    return regions // 2 + 1


def decide(records: Collection[Home], regions: int) -> Home | None:
    """The longest run of terms that a majority of `regions` agrees on; None when there is none yet.

    Two majorities share a region, and a region's register only ever gets longer runs of what was decided, so
    two decisions are never of different regions for one epoch.
    """
    best: Home | None = None
    for record in records:
        for length in range(len(record.terms), 0, -1):
            run = record.terms[:length]
            if sum(_begins_with(other, run) for other in records) < majority(regions):
                continue
            if best is None or run[-1].epoch > best.epoch:
                last = msgspec.structs.replace(run[-1], ends=[], is_forced=False, lost=[])
                best = Home(record.index, [*run[:-1], last])
            break
    return best


def _begins_with(record: Home, run: Sequence[Term]) -> bool:
    mine = [(term.epoch, term.region) for term in record.terms[: len(run)]]
    return mine == [(term.epoch, term.region) for term in run]


class Marked(Protocol):
    """Where one namespace stands at a follower (`regions.replicator.watermarks.Mark`)."""

    @property
    def applied(self) -> int: ...
    @property
    def queryable(self) -> int: ...
    @property
    def parked(self) -> str: ...
    @property
    def is_copying(self) -> bool: ...
    @property
    def is_readable(self) -> bool: ...


class Gated(Protocol):
    """An epoch that waits for the one before (`regions.replicator.watermarks.Gate`)."""

    @property
    def epoch(self) -> int: ...


class Followed(Protocol):
    """What a follower tells of a shard (`regions.replicator.watermarks.Progress`)."""

    @property
    def incarnation(self) -> str: ...
    @property
    def markers(self) -> Mapping[str, str]: ...
    @property
    def changed(self) -> Mapping[str, int]: ...
    @property
    def received(self) -> int: ...
    @property
    def received_s(self) -> float: ...
    @property
    def is_resyncing(self) -> bool: ...
    @property
    def behind(self) -> Mapping[str, Marked]: ...
    @property
    def gates(self) -> Mapping[str, Gated]: ...
    @property
    def epochs(self) -> Mapping[str, int]: ...
    def mark(self, namespace: NamespaceRef) -> Marked: ...
    def applied_s(self, namespace: NamespaceRef) -> float: ...
    def queryable_s(self, namespace: NamespaceRef) -> float: ...


class Watched(Protocol):
    """What the canary of an index tells (`regions.replicator.canary.Canary`)."""

    def lag_s(self, log_now_s: float) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a replica is. `why` says why it may not be read; "" when it may.

    `lsn` is the queryable position, `applied` the applied one; the lags are seconds. `staleness_s` is never
    less than what the canary of the index says: what an index tells of itself is not taken for granted.
    """

    region: RegionId
    why: str
    lsn: Lsn = NO_LSN
    applied: Lsn = NO_LSN
    staleness_s: float = 0.0
    applied_lag_s: float = 0.0
    received_lag_s: float = 0.0
    marker: str = ""
    """By what the follower knows the index; "": it does not yet."""

    def is_of(self, incarnation: str | None) -> bool:
        """Whether an answer of that incarnation is the index that this is about, as far as can be told."""
        return incarnation is None or not self.marker or incarnation == self.marker

    @property
    def is_readable(self) -> bool:
        return not self.why


@dataclass(frozen=True, slots=True)
class Topology:
    """All regions as this process knows them.

    `progress` is by (region of the replica, region of the log, shard), `canaries` by replica. `answer_s` is
    what an answer of a replica takes from here, network and work together. `clock_s` is what to add to this
    process's clock to get that of a region's log, `skew_s` how wrong that may be. `logs_s` is the round trip
    to each log, for those that answer.
    """

    here: RegionId
    regions: Sequence[RegionId]
    shards: int
    replicas: Mapping[IndexName, Sequence[RegionId]]
    homes: Mapping[IndexName, Home] = field(default_factory=dict)
    progress: Mapping[tuple[RegionId, RegionId, int], Followed] = field(default_factory=dict)
    canaries: Mapping[tuple[IndexName, RegionId], Watched] = field(default_factory=dict)
    answer_s: Mapping[tuple[IndexName, RegionId], float] = field(default_factory=dict)
    clock_s: Mapping[RegionId, float] = field(default_factory=dict)
    logs_s: Mapping[RegionId, float] = field(default_factory=dict)
    skew_s: float = 0.0

    def standings(self, namespace: NamespaceRef, now_s: float) -> list[Standing]:
        """Every replica of the namespace's index, judged for that namespace."""
        regions = self.replicas.get(namespace.index, ())
        return [self.standing(namespace, region, now_s) for region in regions]

    def standing(self, namespace: NamespaceRef, region: RegionId, now_s: float) -> Standing:
        """How far the replica of `region` is in the namespace; `now_s` is this process's clock."""
        home = self.homes.get(namespace.index)
        if home is None:
            return Standing(region, "the home of the index is not known")
        told = self.progress.get((region, home.region, shard_of(namespace, self.shards)))
        why = _why_not(told, home)
        if told is None or why:
            return Standing(region, why)
        mark, log_now_s = told.mark(namespace), self._log_now_s(home.region, now_s)
        if not mark.is_readable:
            why = f"parked: {mark.parked}" if mark.parked else "being copied"
        # In a stream that is not the term's, sequences mean something else: until the next term begins there,
        # nobody can say which positions of this one a replica has.
        is_placed = home.term.is_in(told.incarnation, shard_of(namespace, self.shards))
        return Standing(
            region,
            why,
            lsn=make_lsn(home.epoch, mark.queryable) if is_placed else NO_LSN,
            applied=make_lsn(home.epoch, mark.applied) if is_placed else NO_LSN,
            staleness_s=max(
                log_now_s - told.queryable_s(namespace),
                self.canary_lag_s(namespace.index, region, now_s) or 0.0,
            ),
            applied_lag_s=max(0.0, log_now_s - told.applied_s(namespace)),
            received_lag_s=max(0.0, log_now_s - told.received_s),
            marker=told.markers.get(namespace.index, ""),
        )

    def index_standings(self, index: IndexName, now_s: float) -> list[Standing]:
        """Every replica of an index, judged as a whole: as stale as the worst of its shards.

        A position is of one shard, so these have none; parked namespaces are the exception, not the index.
        """
        return [self._index_standing(index, region, now_s) for region in self.replicas.get(index, ())]

    def _index_standing(self, index: IndexName, region: RegionId, now_s: float) -> Standing:
        home = self.homes.get(index)
        if home is None:
            return Standing(region, "the home of the index is not known")
        told = [self.progress.get((region, home.region, shard)) for shard in range(self.shards)]
        why = next((reason for each in told if (reason := _why_not(each, home))), "")
        known = [each for each in told if each is not None]
        if why or not known:
            return Standing(region, why or "it has no shards")
        log_now_s, names = self._log_now_s(home.region, now_s), _behind(known, index)
        queryable_s = min([p.received_s for p in known] + [p.queryable_s(n) for p, n in names])
        return Standing(
            region,
            "",
            staleness_s=max(log_now_s - queryable_s, self.canary_lag_s(index, region, now_s) or 0.0),
            applied_lag_s=log_now_s - min([p.received_s for p in known] + [p.applied_s(n) for p, n in names]),
            received_lag_s=log_now_s - min(p.received_s for p in known),
            marker=known[0].markers.get(index, ""),
        )

    def canary_lag_s(self, index: IndexName, region: RegionId, now_s: float) -> float | None:
        """How late queries of a replica are by its canary; None when nothing is told of one."""
        told = self.canaries.get((index, region))
        return None if told is None else told.lag_s(self._log_now_s(region, now_s))

    def _log_now_s(self, region: RegionId, now_s: float) -> float:
        return now_s + self.clock_s.get(region, 0.0) + self.skew_s


def _behind(told: Iterable[Followed], index: IndexName) -> list[tuple[Followed, NamespaceRef]]:
    """The namespaces of the index that are on their way, each with its follower; parked ones are not."""
    return [
        (each, NamespaceRef(index, key.removeprefix(f"{index}/")))
        for each in told
        for key, mark in each.behind.items()
        if key.startswith(f"{index}/") and not mark.parked
    ]


def _why_not(told: Followed | None, home: Home) -> str:
    if told is None:
        return "nothing is known of it"
    if told.is_resyncing:
        return "resyncing"
    # A later epoch's gate stands there while a promotion drains: what is before it may still be read.
    gate = told.gates.get(home.index)
    if (gate is not None and gate.epoch <= home.epoch) or told.epochs.get(home.index, 0) < home.epoch:
        return f"it has not come to epoch {home.epoch}"
    return ""
