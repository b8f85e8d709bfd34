"""What the exporter does when its collector is well, gone, hanging, and back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from regions.runtime import lifecycle
from regions.runtime.otlp import OtlpSink, exporting
from regions.runtime.trace_context import TraceParent, parse
from regions.runtime.tracing import Kind, Tracer
from regions.runtime.tracing_config import TracingConfig
from tests.fakes.collector import running_collector

RESOURCE = {"service.name": "meridian-test"}


@asynccontextmanager
async def sending(url: str, told: list[str], **config: float) -> AsyncIterator[tuple[Tracer, OtlpSink]]:
    """A tracer that keeps everything; `close_s` short, so that a hanging collector costs a test little."""
    terms = TracingConfig.model_validate(
        {"endpoint": url, "sample_ratio": 1, "export_every_s": 0.01, "timeout_s": 0.3, **config}
    )
    async with exporting(terms, {"x-key": "k"}, RESOURCE, told.append, close_s=0.2) as made:
        yield made


def work(tracer: Tracer, name: str = "work") -> None:
    """A trace of two spans."""
    trace = tracer.begin(name, Kind.SERVER)
    trace.begin("call", Kind.CLIENT, {"words": ("a", "b"), "n": 1}).end("unavailable")
    tracer.end(trace)


async def until(sink: OtlpSink, outcome: str, at_least: int) -> None:
    async with asyncio.timeout(10):
        while getattr(sink.counts, outcome) < at_least:  # noqa: ASYNC110 - another thread counts
            await asyncio.sleep(0.01)


async def test_a_trace_arrives_as_it_was_with_our_headers() -> None:
    async with running_collector() as collector:
        async with sending(collector.url, []) as (tracer, sink):
            work(tracer)
        assert (sink.counts.exported, sink.counts.full, sink.counts.failed) == (2, 0, 0)
        root, call = collector.spans
        assert (root.service, root.name, root.kind, root.parent_id) == ("meridian-test", "work", 2, "")
        assert (call.parent_id, call.kind, call.is_error) == (root.span_id, 3, True)
        assert call.attributes == {"words": ["a", "b"], "n": 1, "error.type": "unavailable"}
        assert abs(root.start_ns / 1e9 - lifecycle.wall_clock()) < 60
        assert collector.headers[0]["x-key"] == "k"


async def test_what_a_caller_made_up_costs_nobody_a_span_and_is_not_logged(
    capfd: pytest.CaptureFixture[str],
) -> None:
    states = [
        "=,=",
        "a",
        "a=1,a=2",
        "\t",
        "A=xyzzy",
        ",".join(f"k{n}=v" for n in range(60)),
        "a=" + "x" * 300,
    ]
    async with running_collector() as collector:
        async with sending(collector.url, []) as (tracer, sink):
            for number, state in enumerate(states, 1):
                parent = parse(TraceParent(number, 1, True).header(), [state])
                trace = tracer.begin("work", Kind.SERVER, parent=parent, attributes={"n": "\ud800 \x00 é"})
                trace.root.event("thing", reason="\udfff")
                tracer.end(trace)
            work(tracer, "beside")
        assert len(collector.named("work")) == len(states)
        assert len(collector.named("beside")) == 1
        assert (sink.counts.failed, sink.counts.full) == (0, 0)
        assert collector.named("work")[0].attributes["n"] == "? \x00 é"
    assert "xyzzy" not in "".join(capfd.readouterr())


async def test_a_collector_that_is_gone_costs_bounded_memory_and_every_span_is_counted() -> None:
    told: list[str] = []
    url = f"http://127.0.0.1:{lifecycle.free_port()}"
    async with sending(url, told, queue_spans=100) as (tracer, sink):
        for _ in range(500):
            work(tracer)
            assert sink.waiting <= 100
        await until(sink, "failed", 100)
        assert sink.counts.full > 0
        assert sink.counts.offered + sink.counts.full == 1_000
        assert told == ["traces_not_taken"]
        assert sink.counts.exported == 0


async def test_a_collector_that_hangs_holds_nobody_up() -> None:
    loop = asyncio.get_running_loop()
    async with running_collector() as collector:
        collector.is_hanging = True
        async with sending(collector.url, [], queue_spans=100, timeout_s=5.0) as (tracer, sink):
            work(tracer)
            await collector.until(lambda c: c.requests > 0)
            began_s = loop.time()
            for _ in range(2_000):
                work(tracer)
            assert loop.time() - began_s < 2
            assert sink.waiting == 100
            assert sink.counts.full == 4_000 - 100
            began_s = loop.time()
        assert loop.time() - began_s < 2  # its 5 s are not waited for at the end either


async def test_what_comes_after_the_collector_is_back_is_taken_again() -> None:
    told: list[str] = []
    async with running_collector() as collector:
        collector.status = 503
        async with sending(collector.url, told) as (tracer, sink):
            work(tracer)
            await until(sink, "failed", 2)
            collector.status = 200
            work(tracer, "later")
            await until(sink, "exported", 2)
        assert told == ["traces_not_taken", "traces_taken"]
        assert [span.name for span in collector.spans] == ["later", "call"]
