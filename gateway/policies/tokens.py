"""How many LLM tokens a text has.

Pure, but not free: about 65 ns a character, so a caller on the event loop hands long texts to a thread
(`LONG_TEXT_CHARS`). Counts are those of OpenAI's o200k encoding; other families differ by some percent,
which the room left for the answer absorbs.
"""

from functools import lru_cache
from typing import Any, Final

LONG_TEXT_CHARS: Final = 32_768
PIECE_CHARS: Final = 65_536


@lru_cache(maxsize=1)
def _encoding() -> Any:
    # Imported at first use: the tables take 0.15 s to load, which `meridian --help` should not pay.
    import bpe_openai

    return bpe_openai.get_encoding("o200k_base")


def warm() -> None:
    """Load the tables now rather than in the first request."""
    _encoding()


def count(text: str) -> int:
    """Tokens of `text`; text that looks like a special token counts as plain text.

    Long texts are counted in pieces, because the tokenizer refuses very long ones: a cut costs a token
    at the most.
    """
    encoding = _encoding()
    pieces = range(0, len(text), PIECE_CHARS)
    return sum(len(encoding.encode_ordinary(text[at : at + PIECE_CHARS])) for at in pieces)
