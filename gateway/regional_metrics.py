"""What the live topology says of every region, as metrics: lag, readability, parked namespaces, homes, logs.

Made from `regions.status.summary` when somebody scrapes, so that metrics and `meridian status` never differ.
Labels are the configuration's indexes and regions alone: a namespace is no label.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

LAGS: Final = ("received", "applied", "queryable", "canary")


class RegionalMetrics(Collector):
    """Gauges of all regions, as this process knows them. `summary` is that of `regions.status`, as of now."""

    def __init__(self, summary: Callable[[], Mapping[str, Any]]) -> None:
        self._summary = summary

    def collect(self) -> Iterator[GaugeMetricFamily]:
        told = self._summary()
        yield from _logs(told["regions"])
        yield from _homes(told["homes"])
        yield from _replicas(told["replicas"])


def _logs(regions: Mapping[str, Mapping[str, Any]]) -> Iterator[GaugeMetricFamily]:
    up = GaugeMetricFamily(
        "meridian_log_up", "Whether a region's log answers here: 1 or 0.", labels=("region",)
    )
    rtt = GaugeMetricFamily(
        "meridian_log_rtt_seconds", "Round trip to a region's log; none while it is down.", labels=("region",)
    )
    for region, place in regions.items():
        up.add_metric([region], float(place["log"] == "up"))
        if place["log_rtt_ms"] is not None:
            rtt.add_metric([region], place["log_rtt_ms"] / 1000)
    yield up
    yield rtt


def _homes(homes: Mapping[str, Mapping[str, Any]]) -> Iterator[GaugeMetricFamily]:
    epoch = GaugeMetricFamily(
        "meridian_home_epoch",
        "Where an index takes writes: its epoch, at its home.",
        labels=("index", "region"),
    )
    for index, home in homes.items():
        epoch.add_metric([index, home["region"]], float(home["epoch"]))
    yield epoch


def _replicas(replicas: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[GaugeMetricFamily]:
    where = ("index", "region")
    lag = GaugeMetricFamily(
        "meridian_replica_lag_seconds",
        "Age of the oldest change not received, applied or queryable in a replica; canary: as queries show.",
        labels=(*where, "lag"),
    )
    readable = GaugeMetricFamily(
        "meridian_replica_readable", "Whether reads may go to a replica: 1 or 0.", labels=where
    )
    parked = GaugeMetricFamily(
        "meridian_namespaces_parked", "Namespaces that stand still in a replica.", labels=where
    )
    answer = GaugeMetricFamily(
        "meridian_replica_answer_seconds", "Running mean of a replica's answers, from here.", labels=where
    )
    for index, found in replicas.items():
        for region, replica in found.items():
            readable.add_metric([index, region], float(replica["state"] == "readable"))
            parked.add_metric([index, region], float(len(replica["parked"])))
            if replica["answer_ms"] is not None:
                answer.add_metric([index, region], replica["answer_ms"] / 1000)
            for name in LAGS:
                if replica[f"{name}_lag_s"] is not None:
                    lag.add_metric([index, region, name], replica[f"{name}_lag_s"])
    yield from (lag, readable, parked, answer)
