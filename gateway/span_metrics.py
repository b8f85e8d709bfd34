"""What became of the spans that a process kept, as metrics of whichever process it is."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class SpanMetrics(Collector):
    """`spans` tells (what became of them, how many) since the start, when somebody scrapes."""

    def __init__(self, spans: Callable[[], Iterator[tuple[str, int]]]) -> None:
        self._spans = spans

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "meridian_trace_spans", "Spans worth exporting, by what became of them.", labels=("outcome",)
        )
        for outcome, count in self._spans():
            family.add_metric([outcome], count)
        yield family
