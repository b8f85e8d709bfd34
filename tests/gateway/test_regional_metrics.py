"""Metrics of the regions: what the summary tells, and nothing that is not known."""

from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.regional_metrics import RegionalMetrics

UNKNOWN = {f"{lag}_lag_s": None for lag in ("received", "applied", "queryable", "canary")}
SUMMARY: dict[str, Any] = {
    "regions": {
        "us-east": {"log": "up", "log_rtt_ms": 0.4},
        "eu-west": {"log": "down", "log_rtt_ms": None},
    },
    "homes": {"docs": {"region": "us-east", "epoch": 3}},
    "replicas": {
        "docs": {
            "us-east": {
                "state": "readable",
                "answer_ms": 2.0,
                "received_lag_s": 0.1,
                "applied_lag_s": 0.2,
                "queryable_lag_s": 0.4,
                "canary_lag_s": 0.3,
                "parked": {"tenant.a": "400", "tenant.b": "400"},
            },
            "eu-west": {"state": "unknown", "answer_ms": None, **UNKNOWN, "parked": {}},
        }
    },
}


def samples() -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(RegionalMetrics(lambda: SUMMARY))
    text = generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_what_is_known_is_shown_in_seconds() -> None:
    found = samples()
    assert found["meridian_log_up", "us-east"] == 1
    assert found["meridian_log_up", "eu-west"] == 0
    assert found["meridian_log_rtt_seconds", "us-east"] == 0.0004
    assert found["meridian_home_epoch", "docs", "us-east"] == 3
    assert found["meridian_replica_lag_seconds", "docs", "queryable", "us-east"] == 0.4
    assert found["meridian_replica_lag_seconds", "docs", "canary", "us-east"] == 0.3
    assert found["meridian_replica_readable", "docs", "us-east"] == 1
    assert found["meridian_namespaces_parked", "docs", "us-east"] == 2
    assert found["meridian_replica_answer_seconds", "docs", "us-east"] == 0.002


def test_what_is_not_known_is_absent_rather_than_zero() -> None:
    found = samples()
    assert found["meridian_replica_readable", "docs", "eu-west"] == 0
    assert not [k for k in found if "eu-west" in k and ("lag" in k[0] or "rtt" in k[0] or "answer" in k[0])]


def test_no_namespace_becomes_a_label() -> None:
    assert not [key for key in samples() if any("tenant" in part for part in key)]
