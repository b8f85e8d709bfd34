"""What the console shows at one moment: the numbers of a short window, as JSON. Pure.

A point is what graphs are drawn from, and is kept; a frame has the point of its moment and all that is shown
of the present alone. Times in points are milliseconds, lags seconds, ratios 0 to 1, None where nothing was.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from gateway import errors
from gateway.console.readings import Between, Buckets, gauges, quantile
from gateway.errors import Fault, GatewayError
from gateway.receipts import Receipt
from gateway.telemetry import STAGES
from gateway.tenants import Tenant

SHARES: Final = (0.5, 0.95, 0.99)
LAST: Final = 50
"""Requests in a frame."""
MINUTE_S: Final = 60.0
_FOUND: Final = frozenset({"hit", "stale", "coalesced"})


def _clients(root: type[GatewayError]) -> Iterator[str]:
    if root.fault is Fault.CLIENT:
        yield root.code
    for each in root.__subclasses__():
        yield from _clients(each)


BLAMELESS: Final = frozenset({"ok", "client_gone", *_clients(errors.GatewayError)})
"""Outcomes that are no failure of ours or of what stands behind us."""


def point(between: Between, facts: Mapping[str, Any], at_s: float) -> dict[str, Any]:
    """What graphs need of the window. `facts` are those of /readyz, `at_s` is seconds since 1970."""
    outcomes = between.by("meridian_requests_total", "outcome")
    ended = sum(outcomes.values())
    cache = between.by("meridian_cache_answers_total", "result")
    degraded = sum(between.by("meridian_degraded_total", "kind").values())
    return {
        "at": round(at_s, 1),
        "ttft": _three(between.buckets("meridian_ttft_seconds")),
        "total": _three(between.buckets("meridian_request_seconds")),
        "stages": {s: _three(between.buckets("meridian_stage_seconds", stage=s)) for s in STAGES},
        "loop_lag": _three(between.buckets("meridian_event_loop_lag_seconds")),
        "rate": round(ended / between.seconds, 2) if between.seconds > 0 else None,
        "error": _ratio(sum(n for code, n in outcomes.items() if code not in BLAMELESS), ended),
        "degraded": _ratio(degraded, ended),
        "cache": _ratio(sum(n for how, n in cache.items() if how in _FOUND), sum(cache.values())),
        "shed": sum(between.by("meridian_shed_total", "why").values()),
        "lags": lags(facts),
    }


def frame(
    between: Between,
    facts: Mapping[str, Any],
    receipts: Sequence[Receipt],
    tenants: Iterable[Tenant],
    at_s: float,
) -> dict[str, Any]:
    """Everything of one moment. `receipts` are the newest first, of at least the last minute if kept."""
    return {
        "window_s": round(between.seconds, 1),
        "point": point(between, facts, at_s),
        "facts": facts,
        "alarms": alarms(facts),
        "jobs": jobs(facts),
        "waiting": gauges(between.new, "meridian_queue_waiting", "class"),
        "upstreams": _upstreams(between),
        "tenants": _tenants(between, receipts, tenants, at_s),
        "requests": [_line(each) for each in receipts[:LAST]],
    }


def lags(facts: Mapping[str, Any]) -> dict[str, float | None]:
    """Queryable lag (s) by "index: home → region", of every replica that is not the home's own."""
    found = {}
    for index, replicas in facts.get("replicas", {}).items():
        home = facts["homes"].get(index, {}).get("region", "no home")
        for region, replica in replicas.items():
            if region != home:
                found[f"{index}: {home} → {region}"] = replica["queryable_lag_s"]
    return found


def alarms(facts: Mapping[str, Any]) -> list[str]:
    """What an operator should be told without looking, worst last seen first by place."""
    told = ["this gateway is draining"] if facts.get("draining") else []
    told += [
        f"the log of {region} does not answer"
        for region, place in facts.get("regions", {}).items()
        if place["log"] != "up"
    ]
    for index, replicas in facts.get("replicas", {}).items():
        for region, replica in replicas.items():
            if replica["state"] != "readable":
                told.append(f"{index} in {region}: {replica['state']}")
            if replica["parked"]:
                told.append(f"{index} in {region}: {len(replica['parked'])} namespace(s) parked")
    return told + [
        f"breaker {name}: {state}" for name, state in facts.get("breakers", {}).items() if state != "closed"
    ]


def jobs(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Copies under way, with how old the replica still is (s) where that is known."""
    return [
        {"job": "resync", "index": index, "region": region, "left_s": replica["applied_lag_s"]}
        for index, replicas in facts.get("replicas", {}).items()
        for region, replica in replicas.items()
        if replica["state"] == "resyncing"
    ]


def _upstreams(between: Between) -> list[dict[str, Any]]:
    found = []
    for name in between.labels("meridian_attempts_total", "upstream"):
        outcomes = between.by("meridian_attempts_total", "outcome", upstream=name)
        calls = sum(outcomes.values())
        bad = sum(n for how, n in outcomes.items() if how not in BLAMELESS)
        ms = _three(between.buckets("meridian_attempt_seconds", upstream=name))
        failures = {how: n for how, n in outcomes.items() if n and how != "ok"}
        found.append({"name": name, "calls": calls, "failed": _ratio(bad, calls), "ms": ms, "why": failures})
    return found


def _tenants(
    between: Between, receipts: Sequence[Receipt], tenants: Iterable[Tenant], at_s: float
) -> list[dict[str, Any]]:
    """Tenants with a request in the last minute, a limit that refused, or a budget that is spent from."""
    used: dict[str, dict[str, float]] = {}
    for each in receipts:
        if each.ended_s < at_s - MINUTE_S:
            break
        own = used.setdefault(each.tenant, {"requests": 0, "tokens": 0, "usd": 0.0})
        own["requests"] += 1
        own["tokens"] += each.answer.get("input_tokens", 0) + each.answer.get("output_tokens", 0)
        own["usd"] += each.answer.get("cost_usd", 0.0)
    refused = between.by("meridian_limited_total", "tenant")
    budget = gauges(between.new, "meridian_budget_usd", "tenant")
    spent = gauges(between.new, "meridian_budget_spent_ratio", "tenant")
    return [
        {
            "id": tenant.id,
            "name": tenant.name,
            **used.get(tenant.id, {"requests": 0, "tokens": 0, "usd": 0.0}),
            "requests_limit": tenant.limits.requests_per_min,
            "tokens_limit": tenant.limits.tokens_per_min,
            "refused": refused.get(tenant.id, 0.0),
            "budget_usd": budget.get(tenant.id),
            "spent": spent.get(tenant.id),
        }
        for tenant in tenants
        if tenant.id in used or refused.get(tenant.id) or tenant.id in budget
    ][:LAST]


def _line(receipt: Receipt) -> dict[str, Any]:
    answer = receipt.answer
    ttft_s = answer.get("ttft_s")
    return {
        "id": receipt.request_id,
        "at": receipt.ended_s,
        "tenant": receipt.tenant,
        "call": f"{receipt.dialect} {receipt.call}",
        "outcome": receipt.outcome,
        "ttft_ms": None if ttft_s is None else round(ttft_s * 1000, 1),
        "ms": receipt.total_ms,
        "model": answer.get("model") or "",
        "replica": answer.get("replica") or "",
        "usd": answer.get("cost_usd"),
        "degraded": answer.get("degraded", ""),
    }


def _three(buckets: Buckets) -> list[float] | None:
    found = [quantile(buckets, share) for share in SHARES]
    return None if None in found else [round(s * 1000, 2) for s in found if s is not None]


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole > 0 else None
