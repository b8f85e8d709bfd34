"""EventStream: a chat answer under way. It opens at its first content and closes exactly once.

An answer that owes something (a slot, a settlement, a connection) is one of these and no bare
generator: a generator that never started runs no `finally`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from gateway.messages import AnswerFacts, ChatEvent

Transform = Callable[[ChatEvent], Iterable[ChatEvent]]


class EventStream:
    """Events of one answer: `head` was read while waiting for the first content, `rest` follows.

    Iterate once; close always (it is an async context manager). After `aclose` it yields nothing.
    """

    def __init__(
        self,
        facts: AnswerFacts,
        head: Sequence[ChatEvent],
        rest: AsyncIterator[ChatEvent] | None = None,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.facts = facts
        self._head, self._rest, self._close = head, rest, close
        self._transforms: list[tuple[Transform, Callable[[], Iterable[ChatEvent]]]] = []
        self._on_close: list[Callable[[BaseException | None], None]] = []
        self._closed = False
        self._error: BaseException | None = None

    def map(self, change: Transform, flush: Callable[[], Iterable[ChatEvent]] = tuple) -> Self:
        """Pass every event through `change`; `flush` gives what it still holds back at the end."""
        self._transforms.append((change, flush))
        return self

    def tap(self, on_close: Callable[[BaseException | None], None]) -> Self:
        """Be told once when the answer ends, with the error that ended it, or None."""
        self._on_close.append(on_close)
        return self

    async def __aiter__(self) -> AsyncIterator[ChatEvent]:
        try:
            for event in self._head:
                for changed in self._through(event, 0):
                    yield changed
            if self._rest is not None:
                async for event in self._rest:
                    for changed in self._through(event, 0):
                        yield changed
            for place, (_, flush) in enumerate(self._transforms):
                for event in flush():
                    for changed in self._through(event, place + 1):
                        yield changed
        except BaseException as error:
            self._error = error
            raise

    def _through(self, event: ChatEvent, start: int) -> Iterable[ChatEvent]:
        events: Iterable[ChatEvent] = (event,)
        for change, _ in self._transforms[start:]:
            events = [after for before in events for after in change(before)]
        return events

    async def aclose(self, error: BaseException | None = None) -> None:
        """Release what the answer holds; the first call counts. `error` is why, if not already known."""
        if self._closed:
            return
        self._closed = True
        self._error = self._error or error
        try:
            if self._close is not None:
                await self._close()
        finally:
            for tell in self._on_close:
                tell(self._error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose(error)
