"""What the console makes of metrics: quantiles from buckets, ratios, alarms."""

from bisect import bisect_left
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from gateway.console import frames
from gateway.console.history import History
from gateway.console.readings import Between, quantile, read
from gateway.receipts import Receipt
from gateway.telemetry import STAGE_S, Telemetry
from gateway.tenants import Tenant

FACTS: dict[str, Any] = {
    "draining": False,
    "breakers": {"big/0": "open", "big/1": "closed"},
    "regions": {"us-east": {"log": "up"}, "eu-west": {"log": "down"}},
    "homes": {"docs": {"region": "us-east", "epoch": 1}},
    "replicas": {
        "docs": {
            "us-east": {"state": "readable", "queryable_lag_s": 0.0, "applied_lag_s": 0.0, "parked": {}},
            "eu-west": {
                "state": "resyncing",
                "queryable_lag_s": 2.5,
                "applied_lag_s": 2.0,
                "parked": {"n": "x"},
            },
        }
    },
}


@given(st.lists(st.floats(0.0001, 29.9), min_size=1, max_size=60), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_value_of_that_rank(seen: list[float], share: float) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("meridian_ttft_seconds", "h", buckets=STAGE_S, registry=registry)
    old = read(registry.collect(), 0)
    for each in seen:
        histogram.observe(each)
    found = quantile(Between(old, read(registry.collect(), 1)).buckets("meridian_ttft_seconds"), share)
    exact = sorted(seen)[max(0, -int(-share * len(seen) // 1) - 1)]
    place = bisect_left(STAGE_S, exact)
    assert found is not None
    assert (0.0, *STAGE_S)[place] - 1e-9 <= found <= STAGE_S[place] + 1e-9


def test_nothing_observed_has_no_quantile() -> None:
    assert quantile([], 0.5) is None
    assert quantile([(1.0, 0.0), (float("inf"), 0.0)], 0.99) is None


def test_what_is_beyond_the_last_bound_is_told_as_that_bound() -> None:
    assert quantile([(1.0, 0.0), (float("inf"), 3.0)], 0.99) == 1.0


def test_a_point_tells_of_the_window_alone() -> None:
    telemetry, history = Telemetry("1", "us-east"), History(window=2)
    telemetry.requests.labels("openai", "chat", "internal_error").inc(100)
    history.window(read(telemetry.registry.collect(), 0))
    telemetry.requests.labels("openai", "chat", "ok").inc(6)
    telemetry.requests.labels("openai", "chat", "rate_limit_exceeded").inc(2)
    telemetry.requests.labels("openai", "chat", "upstream_timeout").inc(2)
    telemetry.stage_seconds.labels("embed").observe(0.02)
    point = frames.point(history.window(read(telemetry.registry.collect(), 2)), FACTS, 1000.0)
    assert (point["rate"], point["error"]) == (5.0, 0.2)
    assert point["ttft"] is None
    assert 10 <= point["stages"]["embed"][1] <= 25
    assert point["lags"] == {"docs: us-east → eu-west": 2.5}


def test_alarms_name_what_is_wrong_and_nothing_else() -> None:
    assert frames.alarms(FACTS) == [
        "the log of eu-west does not answer",
        "docs in eu-west: resyncing",
        "docs in eu-west: 1 namespace(s) parked",
        "breaker big/0: open",
    ]
    assert frames.jobs(FACTS) == [{"job": "resync", "index": "docs", "region": "eu-west", "left_s": 2.0}]


def test_a_frame_is_bounded_and_counts_a_tenants_minute() -> None:
    telemetry = Telemetry("1", "us-east")
    reading = read(telemetry.registry.collect(), 0)
    tenants = [Tenant(id=f"tenant{n:010}", name=str(n)) for n in range(200)]
    receipts = [
        Receipt(str(n), tenants[n % 200].id, "openai", "chat", "ok", 1000.0 - n / 10, 5.0, {}, {}, [])
        for n in range(2000)
    ]
    made = frames.frame(Between(reading, reading), FACTS, receipts, tenants, 1000.0)
    assert len(made["requests"]) == len(made["tenants"]) == frames.LAST
    assert made["tenants"][0]["requests"] == 4  # every 20 s, in the last 60 s, both ends


def test_history_drops_the_oldest() -> None:
    history = History(window=3, kept=5)
    for number in range(20):
        history.points.append({"at": number})
        between = history.window(read([], float(number)))
    assert [each["at"] for each in history.points] == [15, 16, 17, 18, 19]
    assert between.seconds == 3
