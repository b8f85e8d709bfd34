"""What spans say of an apply: one trace a call on an index, linked to the writes that it carries."""

from collections.abc import Iterator
from contextlib import contextmanager

from regions.names import RegionId
from regions.replicator import moves
from regions.runtime.trace_context import parse
from regions.runtime.tracing import MAX_LINKS, Attributes, Kind, Trace, Tracer


@contextmanager
def apply_trace(tracer: Tracer | None, home: RegionId, effect: moves.Apply) -> Iterator[Trace | None]:
    """A trace around one call that applies changes of `home`'s log; None when nothing is traced.

    The writes were traced elsewhere and long ago, and one call carries many: so they are links, not parents.
    The call is sampled when one of them is.
    """
    if tracer is None:
        yield None
        return
    entries, namespace = effect.entries, effect.namespace
    told = dict.fromkeys(entry.trace for entry in entries if entry.trace)
    links = [link for header in list(told)[:MAX_LINKS] if (link := parse(header)) is not None]
    attributes: Attributes = {
        "db.collection.name": namespace.index,
        "db.namespace": namespace.stored,
        "meridian.home": home,
        "meridian.lsn": int(effect.call.position),
        "meridian.entries": len(entries),
    }
    with tracer.trace(f"apply {namespace.index}", Kind.CONSUMER, links=links, attributes=attributes) as trace:
        if entries:
            attributes["meridian.shard"] = entries[0].shard
            attributes["meridian.age_s"] = trace.epoch_s + trace.root.start_s - entries[0].appended_s
        yield trace


def tell(trace: Trace | None, event: moves.Event) -> None:
    """How the call ended."""
    if trace is None:
        return
    outcome = type(event).__name__.lower()
    trace.root.attributes["meridian.outcome"] = outcome
    if isinstance(event, moves.Failed | moves.Refused):
        trace.root.error = outcome
