"""Counting tokens: any length of any text."""

import pytest

from gateway.policies.tokens import PIECE_CHARS, count


@pytest.mark.parametrize(
    "text", ["word " * 400_000, "y" * 3_000_000, "é漢" * 500_000], ids=["words", "run", "wide"]
)
def test_a_text_of_megabytes_is_counted(text: str) -> None:
    short = text[: PIECE_CHARS // 4]
    assert count(text) == pytest.approx(count(short) * len(text) / len(short), rel=0.01)


def test_no_text_has_no_tokens_and_special_ones_are_plain() -> None:
    assert count("") == 0
    assert count("<|endoftext|>") > 1
