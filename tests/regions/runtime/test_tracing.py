"""Which traces are kept, what is held of them, and what goes out to who is called."""

import asyncio
import gc
from random import Random

import pytest

from regions.runtime import tracing
from regions.runtime.trace_context import TraceParent, parse
from regions.runtime.tracing import MAX_EVENTS, MAX_LINKS, MAX_SPANS, Kind, Trace, Tracer


class Kept:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []

    def offer(self, trace: Trace) -> None:
        self.traces.append(trace)


class Bench:
    """A tracer on a clock that the test moves."""

    def __init__(self, *, ratio: float = 0.0, follows: bool = True) -> None:
        self.now_s, self.kept = 100.0, Kept()
        self.tracer = Tracer(
            self.kept,
            sample_ratio=ratio,
            slow_s=10,
            late_per_s=5,
            follows_callers=follows,
            clock=lambda: self.now_s,
            wall_clock=lambda: 1_000.0 + self.now_s,
            rng=Random(1),
        )

    def why(self, trace: Trace, keep: str = "") -> str:
        """Why the trace is kept when it ends now; "": it is not."""
        self.tracer.end(trace, keep)
        if not self.kept.traces:
            return ""
        assert self.kept.traces == [trace]
        return str(trace.root.attributes["meridian.kept"])


SAMPLED = TraceParent(7, 8, True)
UNSAMPLED = TraceParent(7, 8, False)


def test_what_went_well_and_was_not_sampled_is_forgotten() -> None:
    bench = Bench()
    assert bench.why(bench.tracer.begin("work", Kind.SERVER)) == ""


@pytest.mark.parametrize("keep", ["error", "degraded"])
def test_what_went_wrong_is_kept_for_that_reason(keep: str) -> None:
    bench = Bench()
    assert bench.why(bench.tracer.begin("work", Kind.SERVER), keep) == keep


def test_a_flood_of_failures_is_kept_at_a_rate_and_what_is_sampled_beside_it() -> None:
    bench = Bench()
    for _ in range(20):
        bench.tracer.end(bench.tracer.begin("work", Kind.SERVER), "error")
    assert len(bench.kept.traces) == 5
    assert bench.tracer.over_rate == 15
    assert bench.tracer.end(bench.tracer.begin("work", Kind.SERVER, parent=SAMPLED), "error")
    bench.now_s += 1
    for _ in range(20):
        bench.tracer.end(bench.tracer.begin("work", Kind.SERVER), "error")
    assert len(bench.kept.traces) == 5 + 1 + 5


def test_what_was_slow_is_kept() -> None:
    bench = Bench()
    trace = bench.tracer.begin("work", Kind.SERVER)
    bench.now_s += 10
    assert bench.why(trace) == "slow"


def test_a_root_that_failed_is_kept_and_a_failure_below_it_that_was_made_good_is_not() -> None:
    bench = Bench()
    trace = bench.tracer.begin("work", Kind.SERVER)
    trace.begin("call", Kind.CLIENT).end("unavailable")
    assert bench.why(trace) == ""
    failed = bench.tracer.begin("work", Kind.SERVER)
    failed.root.error = "overloaded"
    assert bench.why(failed) == "error"


def test_a_callers_sampled_trace_is_kept_and_goes_on_under_its_id() -> None:
    bench = Bench()
    trace = bench.tracer.begin("work", Kind.SERVER, parent=SAMPLED)
    assert (trace.trace_id, trace.root.parent_id) == (7, 8)
    assert bench.why(trace) == "sampled"


def test_a_caller_that_does_not_sample_is_followed_whatever_the_ratio() -> None:
    bench = Bench(ratio=1.0)
    assert bench.why(bench.tracer.begin("work", Kind.SERVER, parent=UNSAMPLED)) == ""


def test_a_caller_that_is_not_followed_decides_nothing() -> None:
    bench = Bench(ratio=0.0, follows=False)
    assert bench.why(bench.tracer.begin("work", Kind.SERVER, parent=SAMPLED)) == ""


def test_work_is_sampled_when_any_work_that_it_comes_of_is() -> None:
    bench = Bench()
    trace = bench.tracer.begin("apply", Kind.CONSUMER, links=[UNSAMPLED, SAMPLED])
    assert trace.root.links == [UNSAMPLED, SAMPLED]
    assert bench.why(trace) == "sampled"


def test_the_ratio_is_that_of_the_traces_that_begin_here() -> None:
    bench = Bench(ratio=0.1)
    sampled = sum(bench.tracer.begin("work", Kind.SERVER).is_sampled for _ in range(10_000))
    assert 900 < sampled < 1_100


def test_a_trace_holds_only_so_much() -> None:
    trace = Bench().tracer.begin("work", Kind.SERVER)
    for _ in range(1_000):
        trace.begin("call", Kind.CLIENT)
        trace.root.event("thing")
        trace.root.link(SAMPLED)
    assert (len(trace.spans), trace.dropped) == (MAX_SPANS, 1_001 - MAX_SPANS)
    assert (len(trace.root.events), len(trace.root.links)) == (MAX_EVENTS, MAX_LINKS)


def test_without_a_trace_nothing_is_told_and_nothing_is_made() -> None:
    with tracing.span("call", Kind.CLIENT) as found:
        assert found is None
        assert tracing.outgoing() == {}
        tracing.note({"a.b": 1})


def test_who_is_called_is_told_the_innermost_span_and_the_callers_state() -> None:
    bench = Bench()
    trace = bench.tracer.begin("work", Kind.SERVER, parent=TraceParent(7, 8, True, "vendor=1"))
    with tracing.entered(trace.root), tracing.span("call", Kind.CLIENT) as call:
        assert call is not None
        told = tracing.outgoing()
        assert parse(told["traceparent"], [told["tracestate"]]) == call.as_parent()
        tracing.note({"server.address": "here"})
    assert call.parent_id == trace.root.span_id
    assert call.attributes == {"server.address": "here"}
    assert tracing.current() is None


def test_an_exception_is_an_error_by_its_code_or_class_and_never_by_its_words() -> None:
    class Coded(Exception):
        code = "too_bad"

    trace = Bench().tracer.begin("work", Kind.SERVER)
    with tracing.entered(trace.root):
        for error in (Coded("the prompt"), ValueError("the prompt")):
            with pytest.raises(type(error)), tracing.span("call", Kind.CLIENT):
                raise error
    assert [span.error for span in trace.spans] == ["", "too_bad", "ValueError"]


async def test_a_task_that_outlives_its_request_adds_nothing_to_its_trace() -> None:
    bench = Bench()
    trace = bench.tracer.begin("work", Kind.SERVER)
    is_over = asyncio.Event()

    async def outlive() -> None:
        await is_over.wait()
        with tracing.span("late") as found:
            assert found is None
            assert tracing.outgoing() == {}

    async with asyncio.TaskGroup() as group:
        with tracing.entered(trace.root):
            group.create_task(outlive())
        await asyncio.sleep(0)
        bench.tracer.end(trace, "error")
        is_over.set()
    assert [span.name for span in trace.spans] == ["work"]


def test_traces_that_are_forgotten_leave_nothing_to_the_garbage_collector() -> None:
    bench = Bench()

    def work() -> None:
        trace = bench.tracer.begin("work", Kind.SERVER)
        with tracing.entered(trace.root), tracing.span("call", Kind.CLIENT):
            tracing.outgoing()
        bench.tracer.end(trace)
        tracing.ended_now(trace, "late", 1.0)

    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            work()
        left = [each for each in gc.get_objects() if isinstance(each, Trace | tracing.Span)]
        assert not left
    finally:
        gc.enable()


def test_a_stage_that_tells_at_its_end_how_long_it_took_stands_under_what_it_was_done_in() -> None:
    bench = Bench()
    trace = bench.tracer.begin("work", Kind.SERVER)
    bench.now_s += 5
    with tracing.entered(trace.root), tracing.span("chat") as chat:
        tracing.ended_now(trace, "pack", 2.0)
    pack = trace.spans[-1]
    assert chat is not None
    assert (pack.name, pack.parent_id, pack.start_s, pack.end_s) == ("pack", chat.span_id, 103.0, 105.0)
