"""Pieces fit the model's window, keep their section, and lose nothing."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.chunking import Section, chunk


def words(text: str) -> int:
    return len(text.split())


@given(st.lists(st.text(alphabet="abc .\n", max_size=300), max_size=4), st.integers(3, 40))
def test_every_piece_fits_and_every_word_is_kept_in_order(texts: list[str], bound: int) -> None:
    pieces = chunk([Section(str(at), text) for at, text in enumerate(texts)], words, bound)
    assert all(0 < words(piece.text) <= bound for piece in pieces)
    for at, text in enumerate(texts):
        own = " ".join(piece.text for piece in pieces if piece.title == str(at))
        assert own.split() == text.split()


def test_a_section_is_cut_between_paragraphs_before_it_is_cut_inside_one() -> None:
    pieces = chunk([Section("t", "one two three\n\nfour five six")], words, 4)
    assert [piece.text for piece in pieces] == ["one two three", "four five six"]


def test_short_sections_are_not_mixed() -> None:
    sections = [Section("a", "one"), Section("b", "two")]
    assert chunk(sections, words, 100) == sections
