"""The measures say what their names say."""

from dataclasses import astuple

import pytest

from gateway.quality.metrics import contains_answer, score_retrieval


def test_recall_counts_any_right_passage_and_mrr_its_first_place() -> None:
    ranked = [["a", "b"], ["x", "y", "a"], [str(n) for n in range(10)] + ["a"]]
    scores = score_retrieval(ranked, [{"a", "b"}, {"a"}, {"a"}])
    assert astuple(scores) == pytest.approx((1 / 3, 2 / 3, 2 / 3, (1 + 1 / 3) / 3))


@pytest.mark.parametrize(
    ("text", "is_in"),
    [("It was the Opera, Carmen!", True), ("operas carmen", False), ("opera\ncarmen.", True), ("", False)],
)
def test_an_answer_is_contained_as_whole_words_whatever_case_and_marks(text: str, is_in: bool) -> None:
    assert contains_answer(text, ["nothing", "an opera Carmen"]) == is_in
