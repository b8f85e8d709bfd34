"""Exports traces over OTLP/HTTP, off the event loop, and never at its cost.

One thread takes what was offered, makes the SDK's spans of it and sends them with the SDK's exporter. Between
it and the event loop stands a queue that is bounded in spans: when the receiver is down or hangs, the queue
fills, and what comes then is dropped and counted. Nothing waits for this thread but the end of the process,
and that for `CLOSE_S` only.

Imported only where tracing is configured: the SDK takes some 0.3 s and 20 MB.
"""

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from regions.runtime import lifecycle
from regions.runtime.trace_context import TraceParent
from regions.runtime.tracing import Attributes, Span, Trace, Tracer
from regions.runtime.tracing_config import TracingConfig

BATCH_SPANS: Final = 512
CLOSE_S: Final = 2.0
"""What the end of the process waits for the last spans to be taken."""
_SCOPE: Final = InstrumentationScope("meridian")
_KINDS: Final = {kind.value: kind for kind in SpanKind}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)

Tell = Callable[[str], None]


@dataclass(slots=True)
class Counts:
    """Spans by what became of them; each number is written by one thread only."""

    offered: int = 0
    full: int = 0
    """Dropped: the queue was full."""
    taken: int = 0
    exported: int = 0
    failed: int = 0
    """Dropped: the receiver did not take them in time."""


class OtlpSink:
    """A `tracing.Sink`. `tell` gets a word when the receiver goes away, and when it is back."""

    def __init__(
        self, config: TracingConfig, headers: Mapping[str, str], resource: Mapping[str, str], tell: Tell
    ) -> None:
        self._config, self._tell = config, tell
        self._resource = Resource(dict(resource))
        self._queue: queue.SimpleQueue[Trace | None] = queue.SimpleQueue()
        self.counts = Counts()
        self._exporter = OTLPSpanExporter(
            endpoint=config.url(),
            headers=dict(headers),
            timeout=config.timeout_s,
            compression=Compression.Gzip,
        )
        self._is_failing = self._is_closing = False
        # A daemon: one that hangs in a send must not keep the process.
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        # The exporter says each of its attempts that fails, where we say once that they do; and the API says
        # in its caller's own words what is wrong with a tracestate.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Spans that the thread has yet to take; never more than `queue_spans`."""
        return self.counts.offered - self.counts.taken

    def offer(self, trace: Trace) -> None:
        count = len(trace.spans)
        if self.waiting + count > self._config.queue_spans or self._is_closing:
            self.counts.full += count
            trace.forget()
            return
        self.counts.offered += count
        self._queue.put(trace)

    async def close(self, within_s: float) -> None:
        """Send what waits, for at most so long."""
        self._is_closing = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, within_s)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        is_open = True
        while is_open:
            traces, is_open = self._gather()
            count = sum(len(trace.spans) for trace in traces)
            try:
                spans = [self._readable(trace, span) for trace in traces for span in trace.spans]
            except Exception as error:  # noqa: BLE001 - said and counted: whatever a span holds, the others go out
                self._tell(f"traces_broken: {error!r}")
                self.counts.failed += count
                spans = []
            for trace in traces:
                trace.forget()
            self.counts.taken += count
            for at in range(0, len(spans), BATCH_SPANS):
                self._export(spans[at : at + BATCH_SPANS])

    def _gather(self) -> tuple[list[Trace], bool]:
        """What came in `export_every_s`, or as soon as it is a batch; and whether more may come."""
        first = self._queue.get()
        if first is None:
            return [], False
        traces, count = [first], len(first.spans)
        until_s = time.monotonic() + self._config.export_every_s
        while count < BATCH_SPANS and (left_s := until_s - time.monotonic()) > 0:
            try:
                trace = self._queue.get(timeout=left_s)
            except queue.Empty:
                break
            if trace is None:
                return traces, False
            traces.append(trace)
            count += len(trace.spans)
        return traces, True

    def _export(self, spans: list[ReadableSpan]) -> None:
        is_taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        if is_taken:
            self.counts.exported += len(spans)
        else:
            self.counts.failed += len(spans)
        if is_taken is self._is_failing:
            self._is_failing = not is_taken
            self._tell("traces_taken" if is_taken else "traces_not_taken")

    def _readable(self, trace: Trace, span: Span) -> ReadableSpan:
        is_root = span.span_id == trace.root_id
        attributes = _clean(span.attributes)
        if span.error:
            attributes["error.type"] = span.error
        if is_root and trace.dropped:
            attributes["meridian.dropped_spans"] = trace.dropped
        return ReadableSpan(
            span.name,
            context=_context(TraceParent(trace.trace_id, span.span_id, True, trace.state), is_remote=False),
            parent=_context(TraceParent(trace.trace_id, span.parent_id, True), is_remote=is_root)
            if span.parent_id
            else None,
            resource=self._resource,
            attributes=attributes,
            events=[Event(name, _clean(own), _ns(trace, at_s)) for name, at_s, own in span.events],
            links=[Link(_context(link, is_remote=True)) for link in span.links],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR) if span.error else Status(StatusCode.UNSET),
            start_time=_ns(trace, span.start_s),
            end_time=_ns(trace, span.end_s),
            instrumentation_scope=_SCOPE,
        )


def _clean(attributes: Attributes) -> Attributes:
    """A copy of which every text has bytes: one that has none would cost the whole batch."""
    return {
        name: value.encode(errors="replace").decode()
        if isinstance(value, str) and not value.isascii()
        else value
        for name, value in attributes.items()
    }


def _ns(trace: Trace, at_s: float) -> int:
    return int((trace.epoch_s + at_s) * 1e9)


def _context(parent: TraceParent, *, is_remote: bool) -> SpanContext:
    state = TraceState.from_header([parent.state]) if parent.state else None
    flags = _SAMPLED if parent.is_sampled else _NOT_SAMPLED
    return SpanContext(parent.trace_id, parent.span_id, is_remote, flags, state)


@asynccontextmanager
async def exporting(
    config: TracingConfig,
    headers: Mapping[str, str],
    resource: Mapping[str, str],
    tell: Tell,
    *,
    close_s: float = CLOSE_S,
) -> AsyncIterator[tuple[Tracer, OtlpSink]]:
    """A tracer whose traces are exported until the block ends."""
    sink = OtlpSink(config, headers, resource, tell)
    tracer = Tracer(
        sink,
        sample_ratio=config.sample_ratio,
        slow_s=config.slow_s,
        late_per_s=config.late_per_s,
        follows_callers=config.follow_callers,
        clock=asyncio.get_running_loop().time,
        wall_clock=lifecycle.wall_clock,
        rng=Random(int.from_bytes(os.urandom(16))),  # noqa: S311 - ids, no secrets
    )
    sink.start()
    try:
        yield tracer, sink
    finally:
        await sink.close(close_s)
