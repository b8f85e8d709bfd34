"""Sparse vectors: comparable to a cosine, stable across processes, within Pinecone's limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data import word_rates
from gateway.policies.sparse import MAX_NONZEROS, SparseEncoder, dimension, fold
from regions.records import SparseVector


@pytest.fixture(scope="module")
def encoder() -> SparseEncoder:
    return SparseEncoder(word_rates())


def dot(one: SparseVector, other: SparseVector) -> float:
    weights = dict(zip(other.indices, other.values, strict=True))
    return sum(value * weights.get(at, 0.0) for at, value in zip(one.indices, one.values, strict=True))


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_score_lies_between_nothing_and_all_of_the_question(question: str, passage: str) -> None:
    encoder = SparseEncoder(word_rates())
    assert 0 <= dot(encoder.query(question), encoder.passage(passage)) < 1


@given(st.text(max_size=300))
def test_vectors_are_sorted_without_repeats_and_positive(text: str) -> None:
    encoder = SparseEncoder(word_rates())
    for vector in (encoder.query(text), encoder.passage(text)):
        assert vector.indices == sorted(set(vector.indices))
        assert all(0 <= at < 2**32 for at in vector.indices)
        assert all(value > 0 for value in vector.values)


def test_the_weights_of_a_question_add_up_to_one(encoder: SparseEncoder) -> None:
    assert sum(encoder.query("who wrote the opera carmen").values) == pytest.approx(1)


def test_a_rare_word_weighs_more_than_a_common_one(encoder: SparseEncoder) -> None:
    assert encoder.idf("zyzzyva") > encoder.idf("opera") > encoder.idf("time") > 0


def test_inflected_and_accented_forms_are_one_word(encoder: SparseEncoder) -> None:
    assert encoder.stems("Röntgen's discoveries") == encoder.stems("RONTGEN'S DISCOVERY")
    assert fold("ＡＢＣ Straße") == "abc strasse"


def test_scripts_without_spaces_match_by_character(encoder: SparseEncoder) -> None:
    assert dot(encoder.query("東京"), encoder.passage("私は東京に住んでいます")) > 0


def test_a_question_of_stop_words_has_no_vector(encoder: SparseEncoder) -> None:
    assert encoder.query("who is it that was there?") == SparseVector([], [])


def test_a_text_of_many_words_keeps_its_rarest_within_the_limit(encoder: SparseEncoder) -> None:
    text = " ".join(f"word{number}" for number in range(3000)) + " time people"
    vector = encoder.passage(text)
    assert len(vector.indices) <= MAX_NONZEROS
    assert dimension("time") not in vector.indices


def test_repeating_a_word_helps_less_and_less(encoder: SparseEncoder) -> None:
    question = encoder.query("carmen")
    scores = [dot(question, encoder.passage("carmen " * count + "x " * (20 - count))) for count in (1, 2, 3)]
    assert scores[0] < scores[1] < scores[2]
    assert scores[1] - scores[0] > scores[2] - scores[1]


def test_dimensions_never_change_because_stored_records_use_them() -> None:
    assert dimension("opera") == 4032256226
    assert dimension("東") == 1782089468
