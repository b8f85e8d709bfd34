"""The Prometheus rules: what is worth waking somebody for, as one table.

The objectives are those of the design: 99.9 % of requests answered (a degraded answer is one), and 99.9 % of
first tokens in time. A burn rate is how many times faster than that the error budget goes; two windows
together tell a fire that still burns from one that is out.
Source: Beyer et al., The Site Reliability Workbook, ch. 5.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from gateway.errors import Fault, GatewayError
from gateway.telemetry import TTFT_S

OBJECTIVE: Final = 0.999
FIRST_TOKEN_S: Final = 2.5
"""A first token after this is late; a bound of the histogram's."""
WINDOWS: Final = ("5m", "30m", "1h", "6h", "3d")
RUNBOOKS: Final = "README.md"


class Alert(NamedTuple):
    """An alert: `summary` may use Prometheus' templates; `runbook` is a heading's anchor in the README."""

    name: str
    expr: str
    for_: str
    severity: str
    """page wakes somebody; ticket waits for the morning."""
    summary: str
    runbook: str


def failed_outcomes() -> list[str]:
    """The outcomes of requests that are not the caller's own doing, as `meridian_requests_total` has them."""
    codes = {kind.code for kind in _kinds(GatewayError) if kind.fault is not Fault.CLIENT}
    return sorted(codes)


def alerts() -> list[Alert]:
    """All of them, in the order of the file."""
    return [*_burning("failures", "Availability", "requests fail"), *_late(), *_lagging(), *_OTHERS]


def document() -> dict[str, Any]:
    """The rules as Prometheus reads them."""
    return {
        "groups": [
            {"name": "meridian_objectives", "interval": "30s", "rules": _records()},
            {"name": "meridian_alerts", "rules": [_rule(alert) for alert in alerts()]},
        ]
    }


# --- Objectives ------------------------------------------------------------------------------------


def _records() -> list[dict[str, str]]:
    failed = "|".join(failed_outcomes())
    records: list[dict[str, str]] = []
    for window in WINDOWS:
        bad = f'sum(rate(meridian_requests_total{{outcome=~"{failed}"}}[{window}])) or vector(0)'
        in_time = f'sum(rate(meridian_ttft_seconds_bucket{{le="{FIRST_TOKEN_S}"}}[{window}]))'
        records += [
            {
                "record": f"meridian:failures:ratio_rate{window}",
                "expr": f"({bad}) / (sum(rate(meridian_requests_total[{window}])) > 0)",
            },
            {
                "record": f"meridian:late_first_tokens:ratio_rate{window}",
                "expr": f"1 - {in_time} / (sum(rate(meridian_ttft_seconds_count[{window}])) > 0)",
            },
        ]
    return records


def _burning(what: str, name: str, happens: str) -> list[Alert]:
    """Three burn rates: two per cent of a month's budget in an hour, five in six hours, ten in three days."""
    found: list[Alert] = []
    for suffix, rate, long, short, for_, severity in (
        ("BurnsFast", 14.4, "1h", "5m", "2m", "page"),
        ("Burns", 6.0, "6h", "30m", "5m", "page"),
        ("BurnsSlowly", 1.0, "3d", "6h", "30m", "ticket"),
    ):
        above = f"> {rate} * {1 - OBJECTIVE:.3f}"
        expr = f"meridian:{what}:ratio_rate{long} {above} and meridian:{what}:ratio_rate{short} {above}"
        summary = f"{{{{ $value | humanizePercentage }}}} of {happens} over {long}: {rate:g} x the budget"
        found.append(Alert(f"Meridian{name}{suffix}", expr, for_, severity, summary, "the-budget-burns"))
    return found


def _late() -> list[Alert]:
    if FIRST_TOKEN_S not in TTFT_S:
        raise AssertionError(f"{FIRST_TOKEN_S} s is no bound of the histogram")
    return _burning("late_first_tokens", "FirstToken", f"first tokens come after {FIRST_TOKEN_S} s")


def _kinds(kind: type[GatewayError]) -> list[type[GatewayError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _kinds(below))]


# --- The rest --------------------------------------------------------------------------------------


def _lagging() -> list[Alert]:
    """Readers' default bound is 90 s: there reads begin to move to other regions."""
    return [
        Alert(
            f"MeridianLag{seconds}s",
            f'max by (index, region) (meridian_replica_lag_seconds{{lag="queryable"}}) > {seconds}',
            "1m",
            severity,
            "{{ $labels.index }} in {{ $labels.region }} is {{ $value | humanizeDuration }} behind",
            "lag-alarm",
        )
        for seconds, severity in ((30, "ticket"), (60, "page"), (90, "page"))
    ]


_OTHERS: Final = (
    Alert(
        "MeridianNamespaceParked",
        "max by (index, region) (meridian_namespaces_parked) > 0",
        "1m",
        "page",
        "{{ $value }} namespaces of {{ $labels.index }} stand still in {{ $labels.region }}",
        "parked-namespace",
    ),
    Alert(
        "MeridianReplicaUnreadable",
        "min by (index, region) (meridian_replica_readable) == 0",
        "5m",
        "ticket",
        "nothing of {{ $labels.index }} is read in {{ $labels.region }}: neighbours answer",
        "replica-unreadable",
    ),
    Alert(
        "MeridianLogDown",
        "max by (region) (meridian_log_up) == 0",
        "1m",
        "page",
        "no gateway reaches the log of {{ $labels.region }}: writes homed there get 503",
        "region-loss",
    ),
    Alert(
        "MeridianBreakerOpen",
        'max by (name) (meridian_breaker{state="open"}) == 1',
        "2m",
        "ticket",
        "{{ $labels.name }} failed too often and is left alone",
        "breaker-open",
    ),
    Alert(
        "MeridianDegraded",
        "sum(rate(meridian_degraded_total[5m])) / (sum(rate(meridian_cache_answers_total[5m])) > 0) > 0.05",
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of chat answers fall short",
        "degraded-answers",
    ),
    Alert(
        "MeridianShedding",
        "sum by (class) (rate(meridian_shed_total[5m])) > 0.1",
        "5m",
        "page",
        "{{ $value | humanize }} requests a second of class {{ $labels.class }} are refused for load",
        "shedding",
    ),
    Alert(
        "MeridianQueueWaits",
        "sum by (class) (min_over_time(meridian_queue_waiting[2m])) > 0",
        "5m",
        "ticket",
        "requests of class {{ $labels.class }} have been waiting for slots all the time",
        "shedding",
    ),
    Alert(
        "MeridianEventLoopLate",
        "histogram_quantile(0.99, "
        "sum by (instance, le) (rate(meridian_event_loop_lag_seconds_bucket[5m]))) > 0.1",
        "5m",
        "ticket",
        "timers of {{ $labels.instance }} go off {{ $value | humanizeDuration }} late",
        "event-loop-late",
    ),
    Alert(
        "MeridianBudgetNearlySpent",
        "max by (tenant) (meridian_budget_spent_ratio) > 0.9",
        "5m",
        "ticket",
        "{{ $labels.tenant }} has spent {{ $value | humanizePercentage }} of the month's budget",
        "budget-nearly-spent",
    ),
    Alert(
        "MeridianBudgetHomeDown",
        "min by (tenant) (meridian_budget_home_up) == 0",
        "5m",
        "page",
        "the account of {{ $labels.tenant }} does not answer: its leases run out",
        "budget-home-down",
    ),
    Alert(
        "MeridianBillsLost",
        'sum(increase(meridian_ledger_records_total{outcome="lost"}[10m])) > 0',
        "0m",
        "page",
        "{{ $value | humanize }} bills are lost",
        "bills-waiting-or-lost",
    ),
    Alert(
        "MeridianBillsWait",
        "max by (instance) (meridian_ledger_queue) > 10000",
        "5m",
        "ticket",
        "{{ $value | humanize }} bills of {{ $labels.instance }} wait for the journal",
        "bills-waiting-or-lost",
    ),
)


def _rule(alert: Alert) -> Mapping[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.for_,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "runbook": f"{RUNBOOKS}#{alert.runbook}"},
    }


def expressions() -> Sequence[str]:
    """Every query in the rules."""
    return [rule["expr"] for group in document()["groups"] for rule in group["rules"]]
