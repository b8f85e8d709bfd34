"""What a replicator's spans say, and to which writes they are linked."""

from dataclasses import replace
from random import Random

from regions.logs.base import Entry
from regions.names import RegionId
from regions.positions import Lsn
from regions.replicator import moves, spans
from regions.replicator.coalesce import fold
from regions.runtime.trace_context import TraceParent
from regions.runtime.tracing import MAX_LINKS, Trace, Tracer
from tests.regions.replicator.entries import A, entry, put

HOME = RegionId("us")


class Kept:
    def __init__(self) -> None:
        self.traces: list[Trace] = []

    def offer(self, trace: Trace) -> None:
        self.traces.append(trace)


def tracer(kept: Kept) -> Tracer:
    return Tracer(
        kept,
        sample_ratio=0,
        slow_s=10,
        late_per_s=100,
        follows_callers=True,
        clock=lambda: 5.0,
        wall_clock=lambda: 1_005.0,
        rng=Random(1),
    )


def apply(entries: list[Entry]) -> moves.Apply:
    return moves.Apply(A, fold(entries)[-1], entries)


def written(sequence: int, header: str) -> Entry:
    return replace(entry(sequence, put(f"id{sequence}")), trace=header)


def test_an_apply_is_linked_to_each_write_once_and_sampled_when_one_of_them_is() -> None:
    kept, first, second = Kept(), TraceParent(1, 2, False), TraceParent(3, 4, True)
    headers = [first.header(), first.header(), second.header(), "", "no header at all"]
    entries = [written(number, header) for number, header in enumerate(headers, 1)]
    with spans.apply_trace(tracer(kept), HOME, apply(entries)) as trace:
        spans.tell(trace, moves.Applied(A, None))
    (found,) = kept.traces
    assert found.root.links == [first, second]
    assert found.root.attributes["meridian.entries"] == 5
    assert found.root.attributes["meridian.lsn"] == entries[-1].lsn
    assert found.root.attributes["meridian.outcome"] == "applied"


def test_an_apply_of_very_many_writes_is_linked_to_as_many_as_a_span_holds() -> None:
    kept = Kept()
    entries = [written(number, TraceParent(number, 1, True).header()) for number in range(1, 200)]
    with spans.apply_trace(tracer(kept), HOME, apply(entries)):
        pass
    assert len(kept.traces[0].root.links) == MAX_LINKS


def test_an_apply_that_failed_is_kept_and_one_that_went_well_is_not() -> None:
    kept = Kept()
    entries = [written(1, "")]
    with spans.apply_trace(tracer(kept), HOME, apply(entries)) as trace:
        spans.tell(trace, moves.Applied(A, None))
    assert not kept.traces
    with spans.apply_trace(tracer(kept), HOME, apply(entries)) as trace:
        spans.tell(trace, moves.Refused(A, "the words of a metadata field"))
    (found,) = kept.traces
    assert (found.root.error, found.root.attributes["meridian.kept"]) == ("refused", "error")
    assert "words" not in repr(found.root.attributes)


def test_a_copy_that_failed_is_kept_under_its_name() -> None:
    kept = Kept()
    with spans.copy_trace(tracer(kept), HOME, moves.Copy(A, 1, Lsn(1))) as trace:
        spans.tell(trace, moves.CopyFailed(A))
    assert [each.root.name for each in kept.traces] == [f"resync {A.index}"]


def test_without_a_tracer_nothing_is_made() -> None:
    with spans.apply_trace(None, HOME, apply([written(1, "")])) as trace:
        assert trace is None
        spans.tell(trace, moves.Applied(A, None))
