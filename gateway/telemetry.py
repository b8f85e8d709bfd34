"""The catalogue of what is measured: every metric's name, unit and labels, and the request's log line.

Labels come from enums, route names and the configuration, never from request text.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.allowances import Priority

STAGES: Final = ("queue", "cache", "embed", "retrieve", "append", "pack", "llm_first_token", "llm_total")

# Bucket bounds in seconds, after the OpenTelemetry GenAI conventions.
DURATION_S: Final = tuple(0.01 * 2**n for n in range(14))
TTFT_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
TOKEN_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
LAG_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
STAGE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Telemetry:
    """Every metric of one gateway process, in a registry of its own."""

    def __init__(self, version: str, region: str) -> None:
        self.version = version
        self.registry = registry = CollectorRegistry()
        self.build = Info("meridian_build", "Version and region of this process.", registry=registry)
        self.build.info({"version": version, "region": region})
        self.requests = Counter(
            "meridian_requests",
            "Requests ended, by how.",
            ("dialect", "call", "outcome"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "meridian_request_seconds",
            "Request accepted to last byte handed to the socket.",
            ("dialect", "call"),
            buckets=DURATION_S,
            registry=registry,
        )
        self.ttft_seconds = Histogram(
            "meridian_ttft_seconds",
            "Request accepted to first content event, chat only.",
            ("model",),
            buckets=TTFT_S,
            registry=registry,
        )
        self.inter_token_seconds = Histogram(
            "meridian_inter_token_seconds",
            "From one token of a streamed answer to the next: the mean of each call of an upstream.",
            ("model",),
            buckets=TOKEN_S,
            registry=registry,
        )
        self.loop_lag_seconds = Histogram(
            "meridian_event_loop_lag_seconds",
            "How late a timer of this process's event loop went off, looked at 20 times a second.",
            buckets=LAG_S,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "meridian_stage_seconds",
            "Time spent in one stage of a request.",
            ("stage",),
            buckets=STAGE_S,
            registry=registry,
        )
        self.tokens = Counter(
            "meridian_tokens", "LLM tokens, by the model's alias.", ("model", "direction"), registry=registry
        )
        self.cost_usd = Counter(
            "meridian_cost_usd", "What LLM answers cost, in USD.", ("model",), registry=registry
        )
        self.degraded = Counter(
            "meridian_degraded", "Answers that fell short, and why.", ("kind", "reason"), registry=registry
        )
        self.attempts = Counter(
            "meridian_attempts",
            "Calls of LLM upstreams, by how they ended.",
            ("upstream", "outcome"),
            registry=registry,
        )
        self.attempt_seconds = Histogram(
            "meridian_attempt_seconds",
            "One call of an LLM upstream, from its request to its end.",
            ("upstream",),
            buckets=DURATION_S,
            registry=registry,
        )
        self.ledger_records = Counter(
            "meridian_ledger_records",
            "Bills of LLM calls, by what became of them: appended to the region's journal, or lost.",
            ("outcome",),
            registry=registry,
        )
        self.in_flight = Gauge("meridian_in_flight", "Requests at work in this process.", registry=registry)
        self.waiting = Gauge(
            "meridian_queue_waiting",
            "Requests that wait for a slot, by class.",
            ("class",),
            registry=registry,
        )
        self.shed = Counter(
            "meridian_shed",
            "Requests refused for load, by class and why.",
            ("class", "why"),
            registry=registry,
        )

        self.refused = Counter(
            "meridian_limited",
            "Requests refused by a tenant's limit: requests, tokens, concurrent.",
            ("tenant", "limit"),
            registry=registry,
        )

        self.cache_answers = Counter(
            "meridian_cache_answers",
            "Chat answers by what the prompt cache did: hit, stale, coalesced, miss, off.",
            ("model", "result"),
            registry=registry,
        )
        self.cache_saved_usd = Counter(
            "meridian_cache_saved_usd",
            "What answers from the prompt cache cost when they were made, in USD.",
            ("model",),
            registry=registry,
        )
        self.reloads = Counter(
            "meridian_reloads",
            "Changed files, config or tenants: taken over, or refused while the old goes on.",
            ("file", "outcome"),
            registry=registry,
        )

    def tell_reload(self, file: str, is_taken: bool) -> None:
        self.reloads.labels(file, "taken" if is_taken else "refused").inc()

    def watch_cache(self, kept: Callable[[], tuple[int, int]]) -> None:
        """Show how many answers this process keeps, and their bytes."""
        entries = Gauge("meridian_cache_entries", "Answers kept in this process.", registry=self.registry)
        entries.set_function(lambda: float(kept()[0]))
        size = Gauge("meridian_cache_bytes", "What they take, in bytes.", registry=self.registry)
        size.set_function(lambda: float(kept()[1]))

    def watch_limits(self, is_shared: Callable[[], bool], sharers: Callable[[], int]) -> None:
        """Show whether limits are counted with other processes, and among how many they are shared."""
        shared = Gauge(
            "meridian_limits_shared",
            "Whether limits are counted in the shared store: 1, or by this process alone: 0.",
            registry=self.registry,
        )
        shared.set_function(lambda: float(is_shared()))
        among = Gauge("meridian_limits_processes", "Processes that share the limits.", registry=self.registry)
        among.set_function(lambda: float(sharers()))

    def watch_gate(self, held: Callable[[], int], waiting: Callable[[], Mapping[Priority, int]]) -> None:
        """Show how many requests hold a slot and how many wait, as it is when somebody looks."""
        self.in_flight.set_function(held)
        for priority in Priority:
            self.waiting.labels(priority).set_function(partial(_count_of, waiting, priority))

    def count_shed(self, priority: Priority, why: StrEnum) -> None:
        self.shed.labels(priority, why).inc()

    def watch_ledger(self, waiting: Callable[[], tuple[int, int]]) -> None:
        """Show how many bills, and bytes of them on disk, the journal has not yet."""
        for name, help_, place in (
            ("meridian_ledger_queue", "Bills that wait for the region's journal.", 0),
            ("meridian_ledger_spool_bytes", "What of them is on this machine's disk, in bytes.", 1),
        ):
            gauge = Gauge(name, help_, registry=self.registry)
            gauge.set_function(lambda place=place: waiting()[place])  # type: ignore[misc]
        for outcome in ("appended", "lost"):
            self.ledger_records.labels(outcome)

    def watch_breakers(self, states: Callable[[], Mapping[str, StrEnum]]) -> None:
        """Show every breaker's state, as it is when somebody looks."""
        self.registry.register(_Breakers(states))


def _count_of(waiting: Callable[[], Mapping[Priority, int]], priority: Priority) -> float:
    return waiting()[priority]


class _Breakers(Collector):
    """One sample a breaker and state, as Prometheus shows enums: 1 for the state it is in."""

    def __init__(self, states: Callable[[], Mapping[str, StrEnum]]) -> None:
        self._states = states

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "meridian_breaker", "What a dependency's breaker does with calls.", labels=("name", "state")
        )
        for name, state in self._states().items():
            for each in type(state):
                family.add_metric([name, each.value], float(each is state))
        yield family
