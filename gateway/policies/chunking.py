"""Long text -> pieces that an embedding model reads whole.

Pure. Sections (a heading and what stands under it) are cut apart first, so that no piece mixes two; a
section longer than the model's window is cut where its structure allows: paragraphs, then sentences,
then words (semchunk).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

MAX_TOKENS: Final = 200  # of a piece; the embedded model reads 256, and the title stands above the text


@dataclass(frozen=True, slots=True)
class Section:
    """Text under a title; the title says the whole path to it ("Guide › Install")."""

    title: str
    text: str


def chunk(
    sections: Sequence[Section], count_tokens: Callable[[str], int], max_tokens: int = MAX_TOKENS
) -> list[Section]:
    """The sections in pieces of at most `max_tokens`, in order; empty ones left out."""
    from semchunk.semchunk import chunk as cut  # here: 0.15 s to import, and most runs need it not

    pieces = []
    for section in sections:
        text = section.text.strip()
        if not text:
            continue
        parts = cut(text, max_tokens, count_tokens, memoize=False)
        pieces += [Section(section.title, part) for part in parts if isinstance(part, str) and part.strip()]
    return pieces
