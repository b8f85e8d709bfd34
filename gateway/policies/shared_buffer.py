"""One stream for many readers, each from its beginning and at its own pace. Pure.

Invariants: a reader sees a prefix of what was put in, in order, nothing twice; at the end all of it, unless
it fell too far behind. Up to `max_bytes` everything is held, so that a newcomer can begin at the beginning.
Beyond, what all readers have seen is let go, nobody can join any more, and a reader that is further behind
than `max_bytes` is dropped: it must not hold up the others. The source is to be read while `wants_more`, no
further ahead of the fastest reader than `lead_bytes`: so what is held is bounded by both and one item.
"""

from collections import deque
from enum import Enum, auto
from typing import Generic, TypeVar

T = TypeVar("T")


class Wait(Enum):
    """What a reader gets that gets no item."""

    MORE = auto()  # it has seen all there is
    OVER = auto()  # and there will be no more
    TOO_SLOW = auto()  # what it is to see next is no longer held


class SharedBuffer(Generic[T]):
    """Items with their sizes (bytes), and readers by number."""

    def __init__(self, *, max_bytes: int, lead_bytes: int) -> None:
        self._max_bytes, self._lead_bytes = max_bytes, lead_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._first = 0  # the place of the oldest item held
        self._ends: deque[int] = deque()  # for each item held, the bytes up to and with it
        self._put_bytes = self._dropped_bytes = 0
        self._places: dict[int, int] = {}
        self._next_reader = 0
        self.is_whole = True
        """Everything from the beginning is held: a reader may join."""
        self.is_over = False

    @property
    def held_bytes(self) -> int:
        return self._put_bytes - self._dropped_bytes

    @property
    def readers(self) -> int:
        return len(self._places)

    def join(self) -> int:
        """A new reader, at the beginning. Raises: ValueError: that is no longer held."""
        if not self.is_whole:
            raise ValueError("the beginning is no longer held")
        reader, self._next_reader = self._next_reader, self._next_reader + 1
        self._places[reader] = 0
        return reader

    def leave(self, reader: int) -> None:
        """Forget a reader; what only it had yet to see may go."""
        self._places.pop(reader, None)
        self._let_go()

    def put(self, item: T, size: int) -> None:
        """Raises: ValueError: it is over."""
        if self.is_over:
            raise ValueError("nothing can be put in after the end")
        self._put_bytes += size
        self._items.append((item, size))
        self._ends.append(self._put_bytes)
        self._let_go()

    def end(self) -> None:
        self.is_over = True

    def next(self, reader: int) -> T | Wait:
        """The reader's next item, or what there is instead."""
        place = self._places.get(reader)
        if place is None or place < self._first:
            return Wait.TOO_SLOW
        if place == self._first + len(self._items):
            return Wait.OVER if self.is_over else Wait.MORE
        item = self._items[place - self._first][0]
        self._places[reader] = place + 1
        if not self.is_whole:
            self._let_go()
        return item

    @property
    def wants_more(self) -> bool:
        """Whether the source may be read on: the fastest reader is not too far behind it."""
        if not self._places:
            return False
        return self._put_bytes - self._seen_bytes(max(self._places.values())) < self._lead_bytes

    def whole(self) -> list[T] | None:
        """Everything that was put in; None when some of it was let go."""
        return [item for item, _ in self._items] if self.is_whole else None

    def _seen_bytes(self, place: int) -> int:
        """Of all that was put in, the bytes before a place."""
        behind = place - self._first
        return self._dropped_bytes if behind <= 0 else self._ends[behind - 1]

    def _let_go(self) -> None:
        if self.held_bytes <= self._max_bytes and self.is_whole:
            return
        self.is_whole = False
        nobody = self._first + len(self._items)
        slowest = min(self._places.values(), default=nobody)
        fastest = max(self._places.values(), default=nobody)
        while self._first < slowest or (self.held_bytes > self._max_bytes and self._first < fastest):
            self._dropped_bytes += self._items.popleft()[1]
            self._ends.popleft()
            self._first += 1
