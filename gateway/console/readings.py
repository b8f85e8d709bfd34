"""What this process's metrics say at a moment, what was counted between two, and quantiles of that. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import Metric

WANTED: Final = frozenset(
    {
        "meridian_requests_total",
        "meridian_request_seconds_bucket",
        "meridian_ttft_seconds_bucket",
        "meridian_stage_seconds_bucket",
        "meridian_event_loop_lag_seconds_bucket",
        "meridian_degraded_total",
        "meridian_cache_answers_total",
        "meridian_attempts_total",
        "meridian_attempt_seconds_bucket",
        "meridian_limited_total",
        "meridian_shed_total",
        "meridian_queue_waiting",
        "meridian_budget_usd",
        "meridian_budget_spent_ratio",
        "meridian_budget_home_up",
    }
)
"""Samples that the console is made of; the rest is not kept."""

Labels = tuple[tuple[str, str], ...]
Buckets = Sequence[tuple[float, float]]
"""(upper bound in seconds, how many were at most that), by bound; the last bound is infinite."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Values of the wanted samples by name and labels. `at_s` is the clock of whoever read."""

    at_s: float
    values: Mapping[str, Mapping[Labels, float]]


def read(families: Iterable[Metric], at_s: float) -> Reading:
    """Keep of a registry's families what is wanted."""
    values: dict[str, dict[Labels, float]] = {}
    for family in families:
        for sample in family.samples:
            if sample.name in WANTED:
                values.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return Reading(at_s, values)


@dataclass(frozen=True, slots=True)
class Between:
    """What was counted from one reading of a process to a later one of the same process."""

    old: Reading
    new: Reading

    @property
    def seconds(self) -> float:
        return self.new.at_s - self.old.at_s

    def by(self, name: str, label: str, **only: str) -> dict[str, float]:
        """Growth of a counter by the values of a label, of those samples that have the labels `only`."""
        before, grown = self.old.values.get(name, {}), dict[str, float]()
        for labels, value in self.new.values.get(name, {}).items():
            named = dict(labels)
            if all(named.get(key) == wanted for key, wanted in only.items()):
                key = named.get(label, "")
                grown[key] = grown.get(key, 0.0) + value - before.get(labels, 0.0)
        return grown

    def buckets(self, name: str, **only: str) -> Buckets:
        """Of a histogram, over all labels but `only`; `name` is without `_bucket`."""
        grown = self.by(f"{name}_bucket", "le", **only)
        return sorted((float(bound), count) for bound, count in grown.items())

    def labels(self, name: str, label: str) -> list[str]:
        """The values that a label has in the later reading, sorted."""
        return sorted({dict(labels).get(label, "") for labels in self.new.values.get(name, {})})


def gauges(reading: Reading, name: str, label: str) -> dict[str, float]:
    """A gauge's values by one label."""
    return {dict(labels).get(label, ""): value for labels, value in reading.values.get(name, {}).items()}


def quantile(buckets: Buckets, share: float) -> float | None:
    """Seconds that `share` (0 to 1) of what was observed took at most; None when nothing was observed.

    As PromQL's histogram_quantile: evenly spread within a bucket, and never more than the last finite bound.
    """
    if not buckets or buckets[-1][1] <= 0:
        return None
    rank, lower_s, below = share * buckets[-1][1], 0.0, 0.0
    for bound_s, count in buckets:
        if count >= rank and count > below:
            if math.isinf(bound_s):
                return lower_s
            return lower_s + (bound_s - lower_s) * (rank - below) / (count - below)
        if not math.isinf(bound_s):
            lower_s, below = bound_s, count
    return lower_s
