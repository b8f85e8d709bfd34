"""What spans say of applies and copies: a trace each; an apply is linked to the writes that it carries."""

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


@contextmanager
def copy_trace(tracer: Tracer | None, home: RegionId, effect: moves.Copy) -> Iterator[Trace | None]:
    """A trace around a namespace being copied from another replica; None when nothing is traced.

    Its calls are its spans, the first ones of them: a large namespace takes more than a trace holds.
    """
    if tracer is None:
        yield None
        return
    attributes: Attributes = {
        "db.collection.name": effect.namespace.index,
        "db.namespace": effect.namespace.stored,
        "meridian.home": home,
    }
    with tracer.trace(f"resync {effect.namespace.index}", Kind.INTERNAL, attributes=attributes) as trace:
        yield trace


def tell(trace: Trace | None, event: moves.Event) -> None:
    """How it ended."""
    if trace is None:
        return
    outcome = type(event).__name__.lower()
    trace.root.attributes["meridian.outcome"] = outcome
    if isinstance(event, moves.Failed | moves.Refused | moves.CopyFailed):
        trace.root.error = outcome
