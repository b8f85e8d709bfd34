"""Server-sent events: bytes in, whole events out, in the bytes they came as.

Pure. Source: WHATWG HTML, "Server-sent events": lines end in CR LF, LF or CR, an empty line ends an
event, a line that begins with a colon is a comment, a byte order mark may stand before all.
"""

import re
from typing import Final

MAX_EVENT_BYTES: Final = 1024 * 1024

# An empty line after a line's end, whichever mix of line ends; a lone CR at the very end of the buffer
# may be half of a CR LF, so it is never taken as an end by itself.
_BOUNDARY: Final = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))(?:\r\n|\n|\r(?=[^\n]))")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """An event grew beyond `MAX_EVENT_BYTES` without ending."""


class SseSplitter:
    """Cuts a stream of bytes into events; any split of the same bytes gives the same events.

    A byte order mark before the first is dropped: relayed, it would cost careless readers that event.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._at_start = True
        self._max_event_bytes = max_event_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes, each with the empty line that ends it.

        Raises: EventTooLong: more than the maximum is waiting for an end.
        """
        self._buffer += data
        if self._at_start:
            if len(self._buffer) < len(_BOM) and _BOM.startswith(self._buffer):
                return []  # it may be the beginning of one
            if self._buffer.startswith(_BOM):
                del self._buffer[: len(_BOM)]
            self._at_start = False
        events: list[bytes] = []
        start = 0
        for found in _BOUNDARY.finditer(self._buffer, self._searched):
            events.append(bytes(self._buffer[start : found.end()]))
            start = found.end()
        del self._buffer[:start]
        # A boundary spans four bytes at most, so that much of the tail is looked at again.
        self._searched = max(0, len(self._buffer) - 4)
        if len(self._buffer) > self._max_event_bytes:
            raise EventTooLong(f"an event of more than {self._max_event_bytes} bytes")
        return events

    def end(self) -> list[bytes]:
        """The last event at the end of a stream, if nothing but that end was missing to see that it is one.

        An empty line that ends in CR waits for the LF that may follow; no more will.
        """
        event = self.rest()
        if not event.endswith((b"\r\r", b"\n\r")):
            return []
        self._buffer.clear()
        return [event]

    def rest(self) -> bytes:
        """Bytes after the last whole event; at the end of a stream, an event that was cut off."""
        return bytes(self._buffer)


def data_of(event: bytes) -> bytes | None:
    """The event's data: its `data` fields joined by LF; None when it has none (a comment, a ping)."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and b"\r" not in event:
        return event[6:-2]
    lines = []
    for line in _LINE_END.split(event):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines) if lines else None


def encode(data: bytes) -> bytes:
    """One event that carries `data`, which must have no line ends of its own."""
    return b"data: " + data + b"\n\n"


DONE: Final = encode(b"[DONE]")
KEEP_ALIVE: Final = b": keep-alive\n\n"
