"""Excerpt answers: the right sentences, cited, short, the same every time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data import word_rates
from gateway.messages import Passage
from gateway.policies.snippets import (
    MAX_SENTENCE_WORDS,
    MAX_WORDS,
    NOTHING_FOUND,
    compose_snippets,
    split_sentences,
)
from gateway.policies.sparse import SparseEncoder

CARMEN = Passage(
    1,
    "a",
    "It was first performed in Paris on 3 March 1875. The music was written by Georges Bizet. "
    "Its breaking of conventions shocked its first audiences. The weather was mild that spring.",
    0.7,
    "Carmen",
)
MILK = Passage(2, "b", "Milk is a white liquid. Cows give milk. It goes sour in the sun.", 0.2, "Milk")


@pytest.fixture(scope="module")
def encoder() -> SparseEncoder:
    return SparseEncoder(word_rates())


def test_the_best_sentences_stand_first_and_carry_their_passages_number(encoder: SparseEncoder) -> None:
    text = compose_snippets("who wrote the music of the opera carmen", [CARMEN, MILK], encoder)
    first, *_ = text.split("\n")
    assert "The music was written by Georges Bizet." in first
    assert first.endswith("[1]")


def test_the_kind_of_thing_asked_for_decides_between_equals(encoder: SparseEncoder) -> None:
    long = " ".join(f"Filler about{n} nothing{n} in{n} particular{n}." * 3 for n in range(20))
    passage = Passage(1, "a", f"The bridge opened amid cheers. The bridge opened in 1932. {long}", 0.5)
    text = compose_snippets("when was the bridge opened", [passage], encoder)
    assert "1932" in text


def test_neighbours_are_joined_and_gaps_are_shown(encoder: SparseEncoder) -> None:
    text = compose_snippets("carmen paris music conventions", [CARMEN], encoder)
    assert text.count("[1]") == 1
    assert "1875. The music was written by Georges Bizet. Its breaking" in text


def test_the_same_sentence_twice_is_said_once(encoder: SparseEncoder) -> None:
    text = compose_snippets("who wrote carmen", [CARMEN, Passage(2, "c", CARMEN.text, 0.69)], encoder)
    assert text.count("Georges Bizet") == 1


def test_a_passage_about_something_else_does_not_fill_the_rest(encoder: SparseEncoder) -> None:
    text = compose_snippets("who wrote the music of the opera carmen", [CARMEN, MILK], encoder)
    assert "[2]" not in text


def test_references_of_the_text_do_not_pass_for_citations(encoder: SparseEncoder) -> None:
    text = compose_snippets(
        "carmen", [Passage(1, "a", "Carmen is an opera.[7] It is French [12].", 0.5)], encoder
    )
    assert re.findall(r"\[\d+\]", text) == ["[1]"]


def test_without_passages_it_says_so(encoder: SparseEncoder) -> None:
    assert compose_snippets("anything", [], encoder) == NOTHING_FOUND
    assert compose_snippets("anything", [Passage(1, "a", " ", 0.5)], encoder) == NOTHING_FOUND


@given(st.text(max_size=80), st.lists(st.text(alphabet="ab .!?[1]ÄZ\n", max_size=400), max_size=7))
def test_any_text_gives_a_bounded_answer_with_known_markers_only(question: str, texts: list[str]) -> None:
    encoder = SparseEncoder({})
    passages = [Passage(number, str(number), text, 0.5) for number, text in enumerate(texts, 1)]
    text = compose_snippets(question, passages, encoder)
    assert text == compose_snippets(question, passages, encoder)
    if text != NOTHING_FOUND:
        assert len(text.split()) <= max(MAX_WORDS, 2 * MAX_SENTENCE_WORDS) + 20
        assert {int(n) for n in re.findall(r" \[(\d+)\]$", text, re.MULTILINE)} <= set(range(1, 6))


def test_initials_and_abbreviations_end_no_sentence() -> None:
    text = 'Dr. J. R. Smith met Mr. Jones. They spoke (at length). "Why?" Nobody knows.'
    assert split_sentences(text) == [
        "Dr. J. R. Smith met Mr. Jones.",
        "They spoke (at length).",
        '"Why?"',
        "Nobody knows.",
    ]
