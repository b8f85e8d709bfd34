"""Measures of retrieval and of short answers. Pure."""

import re
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """Means over questions, each in [0, 1]."""

    recall_1: float
    recall_5: float
    recall_10: float
    mrr_10: float


def score_retrieval(ranked: Sequence[Sequence[str]], wanted: Sequence[Collection[str]]) -> RetrievalScores:
    """`ranked`: found ids of each question, best first; `wanted`: its right ones, any of which counts."""
    ranks = [first_rank(found, right) for found, right in zip(ranked, wanted, strict=True)]
    count = max(1, len(ranks))

    def recall(k: int) -> float:
        return sum(rank is not None and rank <= k for rank in ranks) / count

    mrr = sum(1 / rank for rank in ranks if rank is not None and rank <= 10) / count
    return RetrievalScores(recall(1), recall(5), recall(10), mrr)


def first_rank(found: Sequence[str], right: Collection[str]) -> int | None:
    """The place, from 1, of the first right id; None when there is none."""
    return next((place for place, id_ in enumerate(found, 1) if id_ in right), None)


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether an accepted answer stands in the text, whole words, after SQuAD's normalisation."""
    padded = f" {normalise(text)} "
    return any(f" {normalise(answer)} " in padded for answer in answers)


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces. Source: SQuAD's evaluation, v1.1."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
