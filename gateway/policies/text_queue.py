"""TextQueue: texts of many calls that wait for one model, given out as small batches of similar length.

Calls take turns: each batch holds the oldest text of the call whose turn it is, so a call of one text behind
one of two thousand waits for its turn and not for the two thousand. A batch is bounded in padded tokens, so
whoever is to overtake (questions, in a queue of their own) waits for one batch at most.
"""

from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from typing import Final, Generic, TypeVar

MAX_TOKENS: Final = 256
"""The model was trained on no longer texts; the rest of a text is not read."""
LOOK_AHEAD: Final = 64
"""Waiting texts among which those of similar length are sought."""

C = TypeVar("C", bound=Hashable)


class TextQueue(Generic[C]):
    """What waits, by call; `bound` is how many texts may stand ahead of a call that is taken."""

    def __init__(self, bound: int, batch_tokens: int) -> None:
        self._bound, self._batch_tokens = bound, batch_tokens
        self._calls: dict[C, dict[int, int]] = {}
        """Each call's rows that wait, oldest first, with their lengths; the first call is next."""
        self._count = 0

    def __len__(self) -> int:
        """Texts that wait."""
        return self._count

    def put(self, call: C, texts: Sequence[str]) -> bool:
        """Let the call's texts wait; False: too many do already, and none of these will.

        What stands ahead is bounded, not the call itself: one large call into an empty queue passes.
        """
        if self._count >= self._bound:
            return False
        self._calls[call] = {row: len(text) for row, text in enumerate(texts)}
        self._count += len(texts)
        return True

    def take(self) -> list[tuple[C, int]]:
        """The next batch, as (call, row); empty when nothing waits."""
        ahead = list(islice(self._in_turn(), LOOK_AHEAD))
        if not ahead:
            return []
        lengths = [self._calls[call][row] for call, row in ahead]
        batch = [ahead[at] for at in sorted(choose_batch(lengths, self._batch_tokens))]
        first = batch[0][0]
        self._calls[first] = self._calls.pop(first)  # it had its turn
        for call, row in batch:
            self._remove(call, row)
        return batch

    def drop(self, call: C) -> None:
        """The call's texts wait no longer."""
        self._count -= len(self._calls.pop(call, ()))

    def clear(self) -> list[C]:
        """Nothing waits any more; the calls that did."""
        calls, self._calls, self._count = list(self._calls), {}, 0
        return calls

    def _in_turn(self) -> Iterator[tuple[C, int]]:
        """One text of each call, then the next of each; the call whose turn it is comes first."""
        rows = {call: iter(waiting) for call, waiting in self._calls.items()}
        while rows:
            for call in list(rows):
                row = next(rows[call], None)
                if row is None:
                    del rows[call]
                else:
                    yield call, row

    def _remove(self, call: C, row: int) -> None:
        waiting = self._calls[call]
        del waiting[row]
        self._count -= 1
        if not waiting:
            del self._calls[call]


def choose_batch(lengths: Sequence[int], budget_tokens: int) -> set[int]:
    """Positions to run together: the first text and those nearest to it in length.

    `lengths` are in characters, in their order, not empty. The first is always chosen, so nothing starves;
    the padded size stays within `budget_tokens` (estimated) unless the first alone is beyond it.
    """
    chosen, widest = {0}, _estimate(lengths[0])
    for at in sorted(range(1, len(lengths)), key=lambda at: abs(lengths[at] - lengths[0])):
        wider = max(widest, _estimate(lengths[at]))
        if wider * (len(chosen) + 1) > budget_tokens:
            break
        chosen.add(at)
        widest = wider
    return chosen


def _estimate(characters: int) -> int:
    """Tokens of an English text of that many characters, its two special ones included."""
    return min(MAX_TOKENS, characters // 4 + 2)
