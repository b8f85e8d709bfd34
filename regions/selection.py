"""Which replicas to ask, best first: the nearest that is fresh enough.

Pure. Source: Terry et al., SOSP 2013 (consistency-based SLAs): the nearest replica that meets the reader's
guarantee.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import NO_LSN, Lsn
from regions.topology import Standing, Topology, shard_of

UNKNOWN_S: Final = 10.0
"""What a replica that was never measured is taken to need: it comes after all that were."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a reader accepts: nothing older than this (s), nothing below that position."""

    max_staleness_s: float
    floor: Lsn = NO_LSN


@dataclass(frozen=True, slots=True)
class Ranked:
    """Replicas within the bounds, nearest first; and those that are only too stale, freshest first."""

    fresh: Sequence[Standing]
    stale: Sequence[Standing]


def rank_namespace(
    topology: Topology,
    namespace: NamespaceRef,
    bounds: Bounds,
    now_s: float,
    prefer: RegionId | None = None,
) -> Ranked:
    """Replicas for a read of one namespace.

    Raises: LsnSuperseded: nobody will ever reach the floor. EpochAhead: its epoch is not known here.
    """
    home = topology.homes.get(namespace.index)
    needed = home.needed(bounds.floor, shard_of(namespace, topology.shards)) if home else bounds.floor
    standings = topology.standings(namespace, now_s)
    return rank(standings, _near(topology, namespace.index), topology.here, bounds, needed, prefer)


def rank_index(
    topology: Topology, index: IndexName, bounds: Bounds, now_s: float, prefer: RegionId | None = None
) -> Ranked:
    """Replicas for a read of the index as a whole, such as the list of its namespaces. It has no floor."""
    standings = topology.index_standings(index, now_s)
    return rank(standings, _near(topology, index), topology.here, bounds, NO_LSN, prefer)


def rank(
    standings: Sequence[Standing],
    answer_s: Mapping[RegionId, float],
    here: RegionId,
    bounds: Bounds,
    needed: Lsn = NO_LSN,
    prefer: RegionId | None = None,
) -> Ranked:
    """Replicas that may be read, best first.

    Order: `prefer`, then what an answer takes from here (s), then our own region, then the region's name, so
    equal inputs give equal order. Nothing below `needed` is ever among them, also not among the stale.
    """

    def nearness(standing: Standing) -> tuple[bool, float, bool, RegionId]:
        region = standing.region
        return region != prefer, answer_s.get(region, UNKNOWN_S), region != here, region

    usable = [s for s in standings if s.is_readable and s.lsn >= needed]
    fresh = [s for s in usable if s.staleness_s <= bounds.max_staleness_s]
    stale = [s for s in usable if s.staleness_s > bounds.max_staleness_s]
    return Ranked(sorted(fresh, key=nearness), sorted(stale, key=lambda s: (s.staleness_s, s.region)))


def _near(topology: Topology, index: IndexName) -> Mapping[RegionId, float]:
    return {region: seconds for (name, region), seconds in topology.answer_s.items() if name == index}
