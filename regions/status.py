"""What is told of a topology: to operators, as JSON and as a table.

Pure. Lags are seconds, as DESIGN defines them: the age of the oldest change that is not received, applied or
visible to queries, by the clock of the home's log. The canary's is what queries of the index itself show;
the queryable lag is never less.
"""

from collections.abc import Mapping
from typing import Any

from regions.names import IndexName, NamespaceRef, RegionId
from regions.topology import Standing, Topology, shard_of


def summary(topology: Topology, now_s: float) -> dict[str, Any]:
    """Regions, homes, and how far every replica of every index is; `now_s` is this process's clock."""
    return {
        "regions": {
            region: {
                "log": "up" if region in topology.logs_s else "down",
                "log_rtt_ms": _ms(topology.logs_s.get(region)),
            }
            for region in topology.regions
        },
        "homes": {
            index: {"region": home.region, "epoch": home.epoch} for index, home in topology.homes.items()
        },
        "replicas": {index: _replicas(topology, index, now_s) for index in topology.replicas},
    }


def _replicas(topology: Topology, index: IndexName, now_s: float) -> Mapping[RegionId, Any]:
    return {
        standing.region: {
            "state": standing.why or "readable",
            "answer_ms": _ms(topology.answer_s.get((index, standing.region))),
            **_lags(standing),
            "canary_lag_s": _s(topology.canary_lag_s(index, standing.region, now_s)),
            "parked": parked(topology, index, standing.region),
        }
        for standing in topology.index_standings(index, now_s)
    }


def _lags(standing: Standing) -> dict[str, float | None]:
    known = standing.is_readable
    return {
        "received_lag_s": round(standing.received_lag_s, 3) if known else None,
        "applied_lag_s": round(standing.applied_lag_s, 3) if known else None,
        "queryable_lag_s": round(standing.staleness_s, 3) if known else None,
    }


def parked(topology: Topology, index: IndexName, region: RegionId) -> dict[str, str]:
    """The namespaces of an index that stand still in a region, and why.

    One that an earlier home's follower has parked holds up all that came after, so it is among them.
    """
    return {
        key.removeprefix(f"{index}/"): mark.parked
        for home in _homes(topology, index)
        for shard in range(topology.shards)
        if (told := topology.progress.get((region, home, shard))) is not None
        for key, mark in told.behind.items()
        if key.startswith(f"{index}/") and mark.parked
    }


def parking(topology: Topology, namespace: NamespaceRef, region: RegionId) -> list[RegionId]:
    """The homes of whose logs the region's followers have parked the namespace; the present one last."""
    shard = shard_of(namespace, topology.shards)
    return [
        home
        for home in _homes(topology, namespace.index)
        if (told := topology.progress.get((region, home, shard))) is not None and told.mark(namespace).parked
    ]


def _homes(topology: Topology, index: IndexName) -> list[RegionId]:
    """Every home that the index ever had, once; the present one last."""
    known = topology.homes.get(index)
    terms = reversed(known.terms) if known is not None else ()
    return list(dict.fromkeys(RegionId(term.region) for term in terms))[::-1]


def namespace_lines(topology: Topology, namespace: NamespaceRef, now_s: float) -> dict[RegionId, Any]:
    """One namespace in every region: position and lags."""
    return {
        standing.region: {"state": standing.why or "readable", "lsn": standing.lsn, **_lags(standing)}
        for standing in topology.standings(namespace, now_s)
    }


def _s(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
