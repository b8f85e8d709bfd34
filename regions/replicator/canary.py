"""How late queries see what an index acknowledged: a record of ours, written again and again, and looked for.

Pure. An index may tell positions that its queries have not come to, or tell none; what a query finds cannot
be argued with. Of each index the region's replicator keeps one record, outside every tenant's namespaces, and
writes it anew with a higher number. A query that finds number n has seen all up to n, because an index makes
the changes of one id visible in their order. What holds:

- Only what the index acknowledged counts: a write that failed says nothing about queries.
- The lag that is told is never less than the age of the oldest canary that was acknowledged and not found,
  as of the last look, and never less than what the newest found one took.
- What the daemon before had not found stays unfound until one of ours is: ours was written later.

Two clocks: `now_s` is this process's, `log_s` that of the region's log, by which readers judge ages.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from regions.names import IndexName
from regions.replicator.watermarks import NONE_S

NAMESPACE: Final = "_m.canary"
"""No tenant's: a tenant's begins with its id, which has no such sign."""
ID: Final = "canary"
TOKEN: Final = "_m.canary"  # noqa: S105 - the name of a metadata field
CANARIES_PREFIX: Final = "canary."

_FIRST_LOOK_S: Final = 0.02
_LONGEST_S: Final = 1.0
"""Between two looks: a query costs something on Pinecone, and a second more is little beside such a lag."""
_MOST_UNSEEN: Final = 128
"""Beyond these, neighbours count as one: as old as the first of them, found with the last."""


class Canary(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is told of an index, in the registers of its region."""

    delay_s: float | None = None
    """From sending to finding, of the newest one that was found; None: none was yet."""
    unseen_s: float = NONE_S
    """When the oldest that is acknowledged and not found was sent, by the log's clock (0: all are found)."""

    def lag_s(self, log_now_s: float) -> float | None:
        """How late queries of the index are, by the clock of the region's log; None: nothing is known."""
        if not self.unseen_s:
            return self.delay_s
        return max(self.delay_s or 0.0, log_now_s - self.unseen_s)


def canary_key(index: IndexName) -> str:
    """The register of an index's canary."""
    return CANARIES_PREFIX + index


_DECODER: Final = msgspec.json.Decoder(Canary)


def encode_canary(canary: Canary) -> bytes:
    return msgspec.json.encode(canary)


def decode_canary(data: bytes) -> Canary:
    """Raises: msgspec.DecodeError: the bytes are no canary's."""
    return _DECODER.decode(data)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A canary, or several in a row: the last one's number, the first one's times."""

    number: int
    sent_s: float
    log_s: float


class Flock:
    """The canaries of one index under one daemon: when to write and to look, and what to tell."""

    def __init__(self, writer: str, every_s: float, before: Canary | None = None) -> None:
        """`writer` is of this tenure alone; `before` is what the daemon before had told."""
        self._writer, self._every_s, self._before = writer, every_s, before or Canary()
        self._delay_s = self._before.delay_s
        self._inherited_s = self._before.unseen_s
        self._number = 0
        self._unseen: list[_Sent] = []
        self._under_way: _Sent | None = None
        self.write_s = float("-inf")
        """When the next one is due."""
        self.look_s = float("inf")
        """When a query is: there is one to be found."""
        self._pause_s = _FIRST_LOOK_S

    @property
    def wake_s(self) -> float:
        """When there is something to do."""
        return min(self.write_s, self.look_s)

    @property
    def told(self) -> Canary:
        """What readers are to know."""
        oldest_s = self._unseen[0].log_s if self._unseen else NONE_S
        return Canary(self._delay_s, self._inherited_s or oldest_s)

    def put_off(self, now_s: float) -> None:
        """None can be written now."""
        self.write_s = now_s + self._every_s

    def sent(self, now_s: float, log_s: float) -> str:
        """One is about to be sent; the token that it has to carry."""
        self._number += 1
        self._under_way = _Sent(self._number, now_s, log_s)
        self.write_s = now_s + self._every_s
        return f"{self._writer}:{self._number}"

    def acknowledged(self, now_s: float) -> None:
        """The index took the one that was sent last."""
        if self._under_way is None:
            raise ValueError("nothing was sent")
        if not self._unseen:
            self._pause_s = _FIRST_LOOK_S
            self.look_s = now_s + self._pause_s
        self._unseen.append(self._under_way)
        self._under_way = None
        if len(self._unseen) > _MOST_UNSEEN:
            self._unseen = _in_pairs(self._unseen)

    def looked(self, token: str | None, now_s: float) -> None:
        """A query found this token; None: nothing, or there was no answer."""
        number = self._number_of(token)
        found = [each for each in self._unseen if each.number <= number]
        if number:
            self._inherited_s = NONE_S
        if found:
            self._delay_s = now_s - found[-1].sent_s
            self._unseen = self._unseen[len(found) :]
        if not self._unseen:
            self.look_s = float("inf")
            if found and (self._delay_s or 0.0) > self._every_s:
                self.write_s = now_s  # what it took was long ago: how is it now?
            return
        self._pause_s = _FIRST_LOOK_S if found else min(self._pause_s * 2, _LONGEST_S)
        self.look_s = now_s + self._pause_s

    def _number_of(self, token: str | None) -> int:
        """The number of one of ours; 0 of anything else."""
        writer, _, number = (token or "").rpartition(":")
        return int(number) if writer == self._writer and number.isdecimal() else 0


def _in_pairs(sent: list[_Sent]) -> list[_Sent]:
    """Half as many: each pair as old as its first, found with its last. The newest may stay alone."""
    firsts = sent[::2]
    lasts = [*sent[1::2], *sent[len(sent) // 2 * 2 :]]
    return [_Sent(b.number, a.sent_s, a.log_s) for a, b in zip(firsts, lasts, strict=True)]
