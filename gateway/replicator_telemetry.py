"""What is measured of a replicator: a registry of its own, because it is a process of its own.

Labels come from the configuration: indexes, never namespaces, which are as many as tenants make.
"""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Info
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from regions.names import IndexName


class ReplicatorTelemetry:
    """Every metric of one replicator process."""

    def __init__(self, version: str, region: str) -> None:
        self.registry = registry = CollectorRegistry()
        Info("meridian_build", "Version and region of this process.", registry=registry).info(
            {"version": version, "region": region}
        )
        self._working = Gauge(
            "meridian_replicator_working", "1: this process holds the region's lease.", registry=registry
        )
        self.alarms = Counter(
            "meridian_parked_alarms",
            "How often a namespace was parked, or found parked by a replicator that began.",
            ("index",),
            registry=registry,
        )

    def watch(self, parked: Callable[[], Mapping[IndexName, int]], is_working: Callable[[], bool]) -> None:
        """Show what stands still in the region, by index, and who works, as it is when somebody looks."""
        self._working.set_function(lambda: float(is_working()))
        for index in parked():
            self.alarms.labels(index)
        self.registry.register(_Parked(parked))


class _Parked(Collector):
    """Namespaces that stand still in this region: above 0 for long is an alert."""

    def __init__(self, parked: Callable[[], Mapping[IndexName, int]]) -> None:
        self._parked = parked

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "meridian_parked_namespaces",
            "Namespaces that stand still here until somebody acts: a change of theirs was refused.",
            labels=("index",),
        )
        for index, count in self._parked().items():
            family.add_metric([index], float(count))
        yield family
