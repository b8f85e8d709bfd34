"""W3C trace context: which trace a call belongs to, as two headers say it. Pure.

Source: https://www.w3.org/TR/trace-context/ (version 00). What is not as it says is taken for absent, as it
asks: a caller's broken header must not cost it its answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
MAX_STATE: Final = 512
"""Characters of tracestate; a longer one is not passed on, and nobody may cut it."""

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE: Final = re.compile(r"[\x20-\x7e\t]*")
_SAMPLED: Final = 1


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A span somewhere else: its trace (128 bits), itself (64 bits), and whether its trace is recorded.

    `state` is its vendors' business; it is handed on as it came.
    """

    trace_id: int
    span_id: int
    is_sampled: bool
    state: str = ""

    def header(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{_SAMPLED if self.is_sampled else 0:02x}"


def parse(traceparent: str | None, tracestate: Sequence[str] = ()) -> TraceParent | None:
    """The caller's span; None when there is none, or none that can be read.

    `tracestate` are the header's lines, which count as one, joined by commas.
    """
    if traceparent is None:
        return None
    found = _PARENT.fullmatch(traceparent.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    is_unknown = version == "ff" or (version == "00" and more is not None)
    if is_unknown or not int(trace_id, 16) or not int(span_id, 16):
        return None
    state = ",".join(line for line in tracestate if line)
    if len(state) > MAX_STATE or not _STATE.fullmatch(state):
        state = ""
    return TraceParent(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED), state)
