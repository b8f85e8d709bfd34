"""Positions in the order of changes: epochs and log sequence numbers.

Pure. An LSN is one integer, ``epoch << 40 | sequence``, below 2^53 so that every JSON reader keeps it
whole: 8,191 epochs of 1.1 trillion changes each (DESIGN, section 4).
"""

from typing import Final, NewType

Epoch = NewType("Epoch", int)
Lsn = NewType("Lsn", int)

SEQUENCE_BITS: Final = 40
MAX_LSN: Final = (1 << 53) - 1
NO_LSN: Final = Lsn(0)
"""Before every change."""


def make_lsn(epoch: Epoch, sequence: int) -> Lsn:
    """Raises: ValueError: either part is outside its range."""
    if not 0 <= sequence < 1 << SEQUENCE_BITS or not 0 <= epoch < 1 << (53 - SEQUENCE_BITS):
        raise ValueError(f"no LSN for epoch {epoch}, sequence {sequence}")
    return Lsn(epoch << SEQUENCE_BITS | sequence)


def parse_lsn(text: str) -> Lsn:
    """An LSN from a header. Raises: ValueError: not a decimal integer in 0 .. 2^53 - 1."""
    if not text.isascii() or not text.isdigit() or len(text) > 16 or int(text) > MAX_LSN:
        raise ValueError(f"{text[:40]!r} is no LSN: expected an integer from 0 to {MAX_LSN}")
    return Lsn(int(text))


def epoch_of(lsn: Lsn) -> Epoch:
    return Epoch(lsn >> SEQUENCE_BITS)


def sequence_of(lsn: Lsn) -> int:
    """The position within its epoch's stream, from 1."""
    return lsn & ((1 << SEQUENCE_BITS) - 1)
