"""Traces: what a piece of work did in this process, span by span, kept only when somebody will want it.

A span here is a small record, not the SDK's: whether it is exported is known only when its work has ended,
and most are not. `Trace` holds the spans of one request (or one apply) until then; the `Tracer` decides, and
hands what is kept to a `Sink`, which must never block. Without a configuration there is no tracer, nothing of
the SDK is imported, and `span()` is one look at a context variable.

| kept | because |
|---|---|
| sampled | its caller's is, or its id falls under `sample_ratio`: known at its start, and told on |
| error, degraded | its work ended so: known at its end, in this process alone |
| slow | it took `slow_s` or more: the same |

When everything fails, everything would be kept, when there is nothing to spare: of what is known only
at its end, `late_per_s` traces are kept.

What holds: a trace has at most `MAX_SPANS` spans, a span at most `MAX_EVENTS` events and `MAX_LINKS` links;
what is done in a trace's name after its end (by a task that outlived it) is in no trace. No text of a prompt,
of an answer, of a passage or of an upstream's refusal is ever put into a span.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from random import Random
from types import TracebackType
from typing import Final, Protocol
from urllib.parse import urlsplit

from regions.runtime.trace_context import TRACEPARENT, TRACESTATE, TraceParent

MAX_SPANS: Final = 128
MAX_EVENTS: Final = 64
MAX_LINKS: Final = 32

Value = str | bool | int | float | Sequence[str]
Attributes = dict[str, Value]


class Kind(IntEnum):
    """What a span is to the one that it calls or is called by; the SDK's numbers."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3
    CONSUMER = 4


class Span:
    """One thing that was done: times are those of its tracer's clock, in seconds.

    `error` is why it failed, in one word (`error.type` of the conventions), "" when it did not.
    """

    __slots__ = (
        "attributes",
        "end_s",
        "error",
        "events",
        "kind",
        "links",
        "name",
        "parent_id",
        "span_id",
        "start_s",
        "trace",
    )

    def __init__(
        self, trace: "Trace", name: str, kind: Kind, parent_id: int, start_s: float, attributes: Attributes
    ) -> None:
        self.trace, self.name, self.kind, self.parent_id = trace, name, kind, parent_id
        self.span_id = trace.new_id()
        self.start_s, self.end_s = start_s, 0.0
        self.attributes = attributes
        self.events: list[tuple[str, float, Attributes]] = []
        self.links: list[TraceParent] = []
        self.error = ""

    def event(self, name: str, at_s: float | None = None, **attributes: Value) -> None:
        """Something that happened inside it, now or at `at_s`."""
        if len(self.events) < MAX_EVENTS:
            self.events.append((name, self.trace.clock() if at_s is None else at_s, attributes))

    def link(self, other: TraceParent | None) -> None:
        """It has to do with a span of another trace."""
        if other is not None and len(self.links) < MAX_LINKS:
            self.links.append(other)

    def end(self, error: str = "") -> None:
        """It is over; the first call counts."""
        if not self.end_s:
            self.end_s, self.error = self.trace.clock(), self.error or error

    def as_parent(self) -> TraceParent:
        """How others are told of it."""
        return TraceParent(self.trace.trace_id, self.span_id, self.trace.is_sampled, self.trace.state)


class Trace:
    """The spans of one piece of work, the first of them its root. Made by `Tracer.begin`."""

    __slots__ = (
        "clock",
        "dropped",
        "epoch_s",
        "is_over",
        "is_sampled",
        "new_id",
        "root",
        "root_id",
        "spans",
        "state",
        "trace_id",
    )

    def __init__(
        self,
        trace_id: int,
        *,
        is_sampled: bool,
        state: str,
        clock: Callable[[], float],
        epoch_s: float,
        new_id: Callable[[], int],
    ) -> None:
        self.trace_id, self.is_sampled, self.state = trace_id, is_sampled, state
        self.clock, self.new_id = clock, new_id
        self.epoch_s = epoch_s
        """What, added to a time of the clock, makes seconds since 1970."""
        self.spans: list[Span] = []
        self.root_id = 0
        self.dropped = 0
        self.is_over = False

    def begin(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes | None = None,
        *,
        parent_id: int | None = None,
        start_s: float | None = None,
    ) -> Span:
        """A span that begins now, or began at `start_s`; under the root unless `parent_id` says otherwise."""
        parent_id = self.root_id if parent_id is None else parent_id
        began_s = self.clock() if start_s is None else start_s
        span = Span(self, name, kind, parent_id, began_s, attributes if attributes is not None else {})
        if self.is_over or len(self.spans) >= MAX_SPANS:
            self.dropped += 1
        else:
            self.spans.append(span)
        return span

    def forget(self) -> None:
        """Nobody wants it any more. Its spans know it and it knows them: apart, they are freed at once."""
        self.spans.clear()
        if hasattr(self, "root"):
            del self.root

    root: Span


class Sink(Protocol):
    """Where traces go that are kept."""

    def offer(self, trace: Trace) -> None:
        """Take it, or count it as dropped; never wait."""
        ...


class Tracer:
    """Begins traces and decides at their end. `clock` is the loop's; `rng` makes ids."""

    def __init__(
        self,
        sink: Sink,
        *,
        sample_ratio: float,
        slow_s: float,
        late_per_s: float,
        follows_callers: bool,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        rng: Random,
    ) -> None:
        self._sink, self._slow_s, self._follows_callers = sink, slow_s, follows_callers
        self._below = int(sample_ratio * (1 << 56))
        self._clock, self._wall_clock, self._rng = clock, wall_clock, rng
        self._late_per_s, self._room, self._room_s = late_per_s, late_per_s, clock()
        self.over_rate = 0
        """Spans that were worth keeping, of more traces than may be kept at their end."""

    def begin(
        self,
        name: str,
        kind: Kind,
        *,
        parent: TraceParent | None = None,
        links: Sequence[TraceParent] = (),
        attributes: Attributes | None = None,
    ) -> Trace:
        """A trace's part in this process. `parent` is the caller's span.

        Work that has no caller but comes of other work is sampled as that is: a link to it would else end
        nowhere.
        """
        trace_id = parent.trace_id if parent is not None else self._rng.getrandbits(128) or 1
        trace = Trace(
            trace_id,
            is_sampled=self._is_sampled(trace_id, parent, links),
            state=parent.state if parent is not None else "",
            clock=self._clock,
            epoch_s=self._wall_clock() - self._clock(),
            new_id=self._new_id,
        )
        trace.root = trace.begin(
            name, kind, attributes, parent_id=parent.span_id if parent is not None else 0
        )
        trace.root_id = trace.root.span_id
        for link in links:
            trace.root.link(link)
        return trace

    def end(self, trace: Trace, keep: str = "") -> bool:
        """The work is over; `keep` says what was wrong with it, if anything was. Whether it is kept.

        The first call counts.
        """
        if trace.is_over:
            return False
        trace.is_over = True
        for span in trace.spans:
            span.end()
        root = trace.root
        why = "sampled" if trace.is_sampled else keep or ("error" if root.error else "")
        if not why and root.end_s - root.start_s >= self._slow_s:
            why = "slow"
        is_late = bool(why) and not trace.is_sampled
        if is_late and not self._has_room(root.end_s):
            self.over_rate += len(trace.spans)
            why = ""
        if not why:
            trace.forget()
            return False
        root.attributes["meridian.kept"] = why
        self._sink.offer(trace)
        return True

    def _has_room(self, now_s: float) -> bool:
        """Take one from what may be kept at its end now: `late_per_s`, and a second's worth at once."""
        self._room = min(self._late_per_s, self._room + (now_s - self._room_s) * self._late_per_s)
        self._room_s = now_s
        if self._room < 1:
            return False
        self._room -= 1
        return True

    @contextmanager
    def trace(
        self,
        name: str,
        kind: Kind,
        *,
        links: Sequence[TraceParent] = (),
        attributes: Attributes | None = None,
    ) -> Iterator[Trace]:
        """A trace of its own around the block, which may say `trace.root.error`; an exception says it too."""
        trace = self.begin(name, kind, links=links, attributes=attributes)
        token = _CURRENT.set(trace.root)
        try:
            yield trace
        except BaseException as error:
            trace.root.error = trace.root.error or type(error).__name__
            raise
        finally:
            _CURRENT.reset(token)
            self.end(trace)

    def _is_sampled(self, trace_id: int, parent: TraceParent | None, links: Sequence[TraceParent]) -> bool:
        if any(link.is_sampled for link in links):
            return True
        if not self._follows_callers:
            return self._rng.getrandbits(56) < self._below  # the caller's id is the caller's choice
        if parent is not None:
            return parent.is_sampled
        return trace_id & ((1 << 56) - 1) < self._below

    def _new_id(self) -> int:
        return self._rng.getrandbits(64) or 1


_CURRENT: Final[ContextVar[Span | None]] = ContextVar("meridian.span", default=None)


def current() -> Span | None:
    """The span that what runs now is a part of; None: nothing is traced, or its trace is over."""
    span = _CURRENT.get()
    return None if span is None or span.trace.is_over else span


class entered:  # noqa: N801 - used like a function
    """The block is a part of that span, which is not ended by it; None: nothing changes.

    Not for bodies of generators: they may be ended elsewhere.
    """

    __slots__ = ("_span", "_token")

    def __init__(self, found: Span | None) -> None:
        self._span = found

    def __enter__(self) -> None:
        if self._span is not None:
            self._token = _CURRENT.set(self._span)

    def __exit__(self, *_: object) -> None:
        if self._span is not None:
            _CURRENT.reset(self._token)


class span:  # noqa: N801 - used like a function: `with tracing.span(…) as found`
    """A span under the current one around a block; None, and nothing done, when there is none.

    An exception ends it as failed: its `code`, if it has one, else its class, is `error.type`. The block may
    say so itself, and with a better word, in `found.error`.
    """

    __slots__ = ("_attributes", "_found", "_kind", "_name", "_token")

    def __init__(self, name: str, kind: Kind = Kind.INTERNAL, attributes: Attributes | None = None) -> None:
        self._name, self._kind, self._attributes = name, kind, attributes

    def __enter__(self) -> Span | None:
        above = _CURRENT.get()
        if above is None or above.trace.is_over:
            self._found = None
            return None
        self._found = above.trace.begin(self._name, self._kind, self._attributes, parent_id=above.span_id)
        self._token = _CURRENT.set(self._found)
        return self._found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._found is not None:
            _CURRENT.reset(self._token)
            self._found.end("" if error is None else word_for(error))


def word_for(error: BaseException) -> str:
    """An error as `error.type`: of few values, and without anything that somebody said."""
    code = getattr(error, "code", "")
    return code if isinstance(code, str) and code else type(error).__name__


def ended_now(trace: Trace, name: str, seconds: float) -> None:
    """A span of a stage that says how long it took only at its end."""
    above = current()
    is_ours = above is not None and above.trace is trace
    parent_id = above.span_id if above is not None and is_ours else None
    trace.begin(name, Kind.INTERNAL, parent_id=parent_id, start_s=trace.clock() - seconds).end()


def outgoing() -> Mapping[str, str]:
    """The headers that tell who is called of the current span; none when nothing is traced."""
    span_ = current()
    if span_ is None:
        return _NOTHING
    parent = span_.as_parent()
    if not parent.state:
        return {TRACEPARENT: parent.header()}
    return {TRACEPARENT: parent.header(), TRACESTATE: parent.state}


def note(attributes: Mapping[str, Value]) -> None:
    """Attributes of the current span, if there is one."""
    if (found := current()) is not None:
        found.attributes |= attributes


def peer(url: str) -> Attributes:
    """Who stands behind an address, as the conventions say it."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port}


_NOTHING: Final[Mapping[str, str]] = {}
