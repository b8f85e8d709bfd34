"""Every metric that gateways and replicators show, read from the registries themselves.

Rules and dashboards name metrics in another language than Python: nothing but this tells them of one that was
renamed.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry

from gateway.budget_metrics import BudgetMetrics
from gateway.regional_metrics import RegionalMetrics
from gateway.replicator_telemetry import ReplicatorTelemetry
from gateway.span_metrics import SpanMetrics
from gateway.telemetry import Telemetry

_SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "counter": ("_total", "_created"),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "info": ("_info",),
    "gauge": ("",),
}
_NAMES: Final = re.compile(r"\bmeridian_[a-z0-9_]+")


def sample_names() -> frozenset[str]:
    """The names of all samples, as queries have them: a histogram's `_bucket`, a counter's `_total`."""
    families = [family for registry in (_gateway(), _replicator()) for family in registry.collect()]
    return frozenset(family.name + suffix for family in families for suffix in _SUFFIXES[family.type])


def unknown_names(expressions: Iterable[str]) -> set[str]:
    """Names with our prefix in PromQL that no process shows."""
    named = {name for expression in expressions for name in _NAMES.findall(expression)}
    return named - sample_names()


def _gateway() -> CollectorRegistry:
    telemetry = Telemetry("", "")
    nothing: dict[str, Any] = {"regions": {}, "homes": {}, "replicas": {}}
    telemetry.registry.register(RegionalMetrics(lambda: nothing))
    telemetry.registry.register(BudgetMetrics(list))
    telemetry.registry.register(SpanMetrics(lambda: iter(())))
    telemetry.watch_cache(lambda: (0, 0))
    telemetry.watch_limits(lambda: False, lambda: 1)
    telemetry.watch_ledger(lambda: (0, 0))
    telemetry.watch_breakers(dict)
    return telemetry.registry


def _replicator() -> CollectorRegistry:
    telemetry = ReplicatorTelemetry("", "")
    telemetry.watch(dict, lambda: False)
    return telemetry.registry
