"""Citations: markers in an answer, checked against the passages it was given.

Pure. A marker is ``[3]`` or ``[1, 2]``. Numbers that no passage has are dropped, markers left empty go
away with the space before them. Nothing inside a fenced code block is touched: ``items[0]`` there is
code. Text comes in pieces of any size; what may be the beginning of a marker is held back, so that
any split of the same answer gives the same result.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

_MARKER: Final = re.compile(r"( ?)\[(\d{1,3}(?:\s?,\s?\d{1,3}){0,15})\]|(```)")
# What the next piece might complete: a space, or a bracket with numbers so far.
_OPEN_END: Final = re.compile(r"(?: ?\[[\d,\s]{0,80}| )\Z")


@dataclass(frozen=True, slots=True)
class Citation:
    """A marker that stands in the answer: the passage's number, and where the marker is (characters)."""

    number: int
    start: int
    end: int


class MarkerFilter:
    """Passes an answer's text on, without the markers that point nowhere."""

    def __init__(self, numbers: Collection[int]) -> None:
        self._numbers = frozenset(numbers)
        self._held = ""
        self._length = 0
        self._in_code = False
        self.citations: list[Citation] = []

    def feed(self, text: str) -> str:
        """What may go out now."""
        text = self._held + text
        cut = _open_end(text)
        self._held = text[cut:]
        return self._pass(text[:cut])

    def flush(self) -> str:
        """What was held back, at the end of the answer: it was no marker after all."""
        held, self._held = self._held, ""
        return self._pass(held)

    def _pass(self, text: str) -> str:
        out: list[str] = []
        done = 0
        for found in _MARKER.finditer(text):
            self._emit(out, text[done : found.start()])
            done = found.end()
            if found[3]:
                self._in_code = not self._in_code
                self._emit(out, found[0])
            elif self._in_code:
                self._emit(out, found[0])
            else:
                self._cite(out, found[1], [int(n) for n in found[2].split(",")])
        self._emit(out, text[done:])
        return "".join(out)

    def _cite(self, out: list[str], space: str, numbers: list[int]) -> None:
        known = [n for n in dict.fromkeys(numbers) if n in self._numbers]
        if not known:
            return
        marker = "[" + ", ".join(map(str, known)) + "]"
        start = self._length + len(space)
        self._emit(out, space + marker)
        self.citations += [Citation(n, start, start + len(marker)) for n in known]

    def _emit(self, out: list[str], text: str) -> None:
        out.append(text)
        self._length += len(text)


def _open_end(text: str) -> int:
    """Where the part begins that the next piece might complete."""
    backticks = len(text) - len(text.rstrip("`"))
    if backticks:
        return len(text) - backticks % 3  # fences are read three by three from the left
    found = _OPEN_END.search(text)
    return found.start() if found else len(text)
