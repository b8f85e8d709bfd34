"""Requests that share one call: the trace of each points to the one that made it."""

from random import Random

from gateway.stages.flight import Flight
from regions.runtime.tracing import Kind, Trace, Tracer
from tests.gateway.stages.chains import context


class Nowhere:
    def offer(self, trace: Trace) -> None:
        """Kept by nobody."""


def tracer() -> Tracer:
    return Tracer(
        Nowhere(),
        sample_ratio=1,
        slow_s=10,
        late_per_s=1,
        follows_callers=True,
        clock=lambda: 0.0,
        wall_clock=lambda: 0.0,
        rng=Random(1),
    )


async def test_who_joins_is_linked_to_the_leader_and_the_call_stays_in_the_leaders_trace() -> None:
    made = tracer()
    leader, joiner = context(), context()
    leader.trail.trace = made.begin("first", Kind.SERVER)
    joiner.trail.trace = made.begin("second", Kind.SERVER)
    lead = leader.trail.trace.root.as_parent()
    flight = Flight(leader)
    flight.enter(leader)
    flight.enter(joiner)
    assert leader.trail.trace.root.links == []
    assert joiner.trail.trace.root.links == [lead]
    assert flight.ctx.trail.trace is leader.trail.trace
