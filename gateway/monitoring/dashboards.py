"""Grafana dashboards as tables of panels: what is seen at once at 3 a.m., then a region, then money."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

SCHEMA: Final = 39
WIDTH, HEIGHT = 12, 8
"""Of a panel, in Grafana's grid of 24 columns."""


class Panel(NamedTuple):
    """A graph: a title, a unit of Grafana's, and queries by legend."""

    title: str
    unit: str
    queries: Mapping[str, str]


def _quantiles(metric: str, by: str = "", where: str = "") -> dict[str, str]:
    legend, group = (f" {{{{{by}}}}}", f"{by}, ") if by else ("", "")
    return {
        f"p{percent:g}{legend}": f"histogram_quantile({percent / 100:g}, "
        f"sum by ({group}le) (rate({metric}_bucket{where}[$__rate_interval])))"
        for percent in (50, 95, 99)
    }


def _rate(metric: str, by: str) -> dict[str, str]:
    return {f"{{{{{by}}}}}": f"sum by ({by}) (rate({metric}[$__rate_interval]))"}


def _most(metric: str, by: str, where: str = "") -> dict[str, str]:
    """The highest of what several processes show of the same thing."""
    legend = " in ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return {legend: f"max by ({by}) ({metric}{where})"}


PLACE: Final = "index, region"
DASHBOARDS: Final[Mapping[str, tuple[str, Sequence[Panel]]]] = {
    "overview": (
        "Meridian: overview",
        (
            Panel("Requests by outcome", "reqps", _rate("meridian_requests_total", "outcome")),
            Panel("Failures, of all requests", "percentunit", {"5m": "meridian:failures:ratio_rate5m"}),
            Panel("First token", "s", _quantiles("meridian_ttft_seconds")),
            Panel("Whole request", "s", _quantiles("meridian_request_seconds")),
            Panel("Stages", "s", _quantiles("meridian_stage_seconds", "stage")),
            Panel("Answers that fell short", "reqps", _rate("meridian_degraded_total", "reason")),
            Panel("Breakers that are open", "none", _most("meridian_breaker", "name", '{state="open"}')),
            Panel("In flight", "none", {"requests": "sum(meridian_in_flight)"}),
            Panel("Waiting", "none", {"{{class}}": "sum by (class) (meridian_queue_waiting)"}),
            Panel("Refused for load", "reqps", _rate("meridian_shed_total", "class")),
            Panel("Calls of upstreams", "reqps", _rate("meridian_attempts_total", "upstream")),
            Panel("Prompt cache", "reqps", _rate("meridian_cache_answers_total", "result")),
            Panel("Event loop", "s", _quantiles("meridian_event_loop_lag_seconds")),
        ),
    ),
    "regions": (
        "Meridian: regions",
        (
            Panel("Queryable lag", "s", _most("meridian_replica_lag_seconds", PLACE, '{lag="queryable"}')),
            Panel("Applied lag", "s", _most("meridian_replica_lag_seconds", PLACE, '{lag="applied"}')),
            Panel("Received lag", "s", _most("meridian_replica_lag_seconds", PLACE, '{lag="received"}')),
            Panel("Readable", "none", _most("meridian_replica_readable", PLACE)),
            Panel("Parked namespaces", "none", _most("meridian_namespaces_parked", PLACE)),
            Panel("Logs that answer", "none", _most("meridian_log_up", "region")),
            Panel("Round trip to logs", "s", _most("meridian_log_rtt_seconds", "region")),
            Panel("Epochs", "none", _most("meridian_home_epoch", PLACE)),
            Panel("Answers of replicas", "s", _most("meridian_replica_answer_seconds", PLACE)),
        ),
    ),
    "cost": (
        "Meridian: cost",
        (
            Panel("Spending, USD a second", "currencyUSD", _rate("meridian_cost_usd_total", "model")),
            Panel("Saved, USD a second", "currencyUSD", _rate("meridian_cache_saved_usd_total", "model")),
            Panel("Budgets spent", "percentunit", _most("meridian_budget_spent_ratio", "tenant")),
            Panel("Refused by limits", "reqps", _rate("meridian_limited_total", "tenant")),
            Panel("Tokens", "none", _rate("meridian_tokens_total", "direction")),
            Panel("Bills that wait", "none", _most("meridian_ledger_queue", "instance")),
        ),
    ),
}


def document(name: str) -> dict[str, Any]:
    """A dashboard as Grafana imports it; the data source is chosen there."""
    title, panels = DASHBOARDS[name]
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "uid": f"meridian-{name}",
        "title": title,
        "schemaVersion": SCHEMA,
        "tags": ["meridian"],
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": [_panel(number, panel, source) for number, panel in enumerate(panels)],
    }


def expressions() -> list[str]:
    """Every query in the dashboards."""
    return [
        query for _, panels in DASHBOARDS.values() for panel in panels for query in panel.queries.values()
    ]


def _panel(number: int, panel: Panel, source: Mapping[str, str]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": source}
        for place, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "gridPos": {"x": number % 2 * WIDTH, "y": number // 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "targets": targets,
    }
