"""What a replicator knows of an index's epochs, from the live topology."""

from collections.abc import Sequence
from typing import Final

from regions.changes import Resolved
from regions.errors import LogUnavailable
from regions.fences import Fences
from regions.live import Live
from regions.logs.base import Entry, Fence
from regions.names import IndexName, RegionId
from regions.positions import Epoch, Lsn, epoch_of, sequence_of
from regions.replicator.driver import Cut, cut_key
from regions.topology import Followed, Home, Term, Topology

FENCE_S: Final = 5.0
LOOK_AGAIN_S: Final = 60.0


class LiveEpochs:
    """`regions.replicator.driver.Epochs`, as the registers of all regions tell it."""

    def __init__(self, live: Live, fences: Fences) -> None:
        self._live, self._fences = live, fences

    async def ready(self, index: IndexName, epoch: Epoch) -> None:
        """Return when everything of the terms before `epoch` is applied in this region.

        An epoch that was opened in a log but never decided has no changes; it waits all the same for the one
        that was decided in its place, because only then is it known where the terms before it ended.
        """
        while not await self._live.until(lambda t: _is_ready(t, index, epoch), LOOK_AGAIN_S):
            pass

    def is_history(self, home: RegionId, entry: Entry) -> bool:
        """An entry of an epoch that is not decided yet waits at its gate; it is none of this matter.

        The ids of an intent belong to it, wherever in its log they stand: a promotion may have come between.
        """
        known = self._live.topology.homes.get(entry.index)
        epoch, sequence = Epoch(entry.epoch), entry.sequence
        if isinstance(entry.body, Resolved):
            epoch, sequence = epoch_of(Lsn(entry.body.intent)), sequence_of(Lsn(entry.body.intent))
        if known is None or epoch > known.epoch:
            return True
        return known.is_history(home, epoch, entry.shard, sequence)

    def cuts(self, home: RegionId, shard: int, indexes: Sequence[IndexName]) -> Sequence[Cut]:
        homes = self._live.topology.homes
        return [
            Cut(index, term.epoch, term.ends[shard], term.streams[shard] if shard < len(term.streams) else "")
            for index in indexes
            if (known := homes.get(index)) is not None
            for term in known.terms
            if term.is_forced and term.region == home and shard < len(term.ends) and shard not in term.lost
        ]

    def has_moved_on(self, home: RegionId, shard: int, index: IndexName) -> bool:
        topology = self._live.topology
        known = topology.homes.get(index)
        if known is None or known.region == home:
            return False
        told = topology.progress.get((topology.here, known.region, shard))
        return told is not None and index not in told.gates and told.epochs.get(index, 0) >= known.epoch

    def is_only_stream(self, home: RegionId, shard: int, indexes: Sequence[IndexName], stream: str) -> bool:
        homes = self._live.topology.homes
        return all(
            index in homes
            and all(
                term.region == home and term.streams[shard : shard + 1] == [stream]
                for term in homes[index].terms
            )
            for index in indexes
        )

    async def fence(self, index: IndexName) -> Fence:
        """The right to append to the index at its home. Raises: LogUnavailable, StaleEpoch."""
        fence, log = await self._fences.fence(index, timeout_s=FENCE_S)
        if log.region != self._live.topology.here:
            raise LogUnavailable(f"{index} has its home in {log.region} by now")
        return fence


def _is_ready(topology: Topology, index: IndexName, epoch: Epoch) -> bool:
    home = topology.homes.get(index)
    if home is None or home.epoch < epoch:
        return False
    earlier = [term for term in home.terms if term.epoch < epoch]
    return all(_is_applied(topology, home, term) for term in earlier)


def _is_applied(topology: Topology, home: Home, term: Term) -> bool:
    """Whether this region has applied everything of a term that has ended.

    Of a stream that another one has taken the place of, nothing more comes: the followers hold what the most
    advanced of them held.
    """
    for shard, end in enumerate(term.ends):
        told = topology.progress.get((topology.here, RegionId(term.region), shard))
        if told is None or told.is_resyncing:
            return False
        marks = [mark for key, mark in told.behind.items() if key.startswith(f"{home.index}/")]
        if not term.is_in(told.incarnation, shard):
            if not all(mark.is_readable or mark.parked for mark in marks):
                return False
        elif told.received < end or any(mark.applied < end for mark in marks):
            return False
        elif any(mark.is_copying for mark in marks) or _holds_a_tail(home, term, shard, told):
            return False  # a copy, under way or to come, would be written over what comes next
    return True


def _holds_a_tail(home: Home, term: Term, shard: int, told: Followed) -> bool:
    """Whether something beyond the term's end was taken in, or it is not known yet that nothing was."""
    is_cut = term.is_forced and shard not in term.lost
    is_seen = cut_key(home.index, term.epoch) in told.markers
    return is_cut and not is_seen and told.changed.get(home.index, 0) > term.ends[shard]
