"""An answer without a language model: the sentences of the passages that say most about the question.

Pure. A sentence counts by how well its passage matched, how much of the question it covers together
with its passage's title (weighted by rarity), whether it holds the kind of thing asked for, and its
passage's rank. The best become excerpts of about 90 words in all, cited as [n]; neighbours within a
passage are joined, repeats are left out.

On the bundled questions an accepted answer stands in .93 of these texts (mean 93 words); the title's
part is worth .03, and a bound in words instead of three sentences .05.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from gateway.messages import Passage
from gateway.policies.sparse import SparseEncoder

MAX_WORDS: Final = 110
MIN_SENTENCES: Final = 2  # also when the best one is long
FROM_PASSAGES: Final = 5
MAX_SENTENCE_WORDS: Final = 60
WORTH: Final = 0.4  # of the best sentence's score: below it a sentence only fills space
SAME: Final = 0.8  # share of common stems beyond which two sentences say the same

PASSAGE_WEIGHT: Final = 0.6
OVERLAP_WEIGHT: Final = 0.6
TYPE_WEIGHT: Final = 0.15
RANK_WEIGHT: Final = 0.05

NOTHING_FOUND: Final = "No passage about this question was found."

# A full stop, not after an initial or a common abbreviation, before what can begin a sentence.
_SENTENCE_END: Final = re.compile(
    r"(?<![A-Z]\.)(?<!\b[A-Z]\.)(?<!\b(?:Mr|Dr|St|Jr|Sr|vs|No|Co|Lt)\.)(?<!\b(?:Mrs|Inc|Ltd|etc|Gen|Rev|Col)\.)"
    r"(?<=[.!?])([\"'”’)\]]*)\s+(?=[\"'“‘(\[]?[A-Z0-9])"
)
_REFERENCE: Final = re.compile(r"\s?\[\d{1,4}\]")
_NUMBER: Final = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|dozen|hundred|million)\b"
)
_DATE: Final = re.compile(
    r"\b(?:1\d|20)\d\d\b|\b(?:January|February|March|April|May|June|July|August|September|October|November"
    r"|December|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)\b|\bcentury\b"
)
_NAME: Final = re.compile(
    r"(?<=[a-z,;:)\"] )[\"'“(]?[A-Z][\w’'-]+|\b[A-Z][\w’'-]+ (?:[A-Z]\.? )*[A-Z][\w’'-]+"
)
_ASKS: Final = (
    (
        re.compile(r"\bhow (?:many|much|long|far|old|tall|big|high|often|deep)\b|\bwhat (?:number|percent)"),
        _NUMBER,
    ),
    (re.compile(r"\bwhen\b|\b(?:what|which) (?:year|date|day|month|century)\b"), _DATE),
    (re.compile(r"\bwhos?e?\b|\bwhom\b|\bwhere\b|\b(?:what|which) (?:country|city|state|place)\b"), _NAME),
)


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A candidate: where it stands, what it says, how well it does."""

    passage: Passage
    at: int
    text: str
    stems: frozenset[str]
    score: float


def compose_snippets(question: str, passages: Sequence[Passage], encoder: SparseEncoder) -> str:
    """The best sentences of the best passages, each excerpt ending in its passage's marker `[n]`.

    `passages` are best first; their `score` should lie in about [0, 1]. Excerpts stand best first, one a
    line. Equal input gives equal text.
    """
    chosen = _choose(sorted(_candidates(question, passages, encoder), key=lambda s: -s.score))
    if not chosen:
        return NOTHING_FOUND
    numbers = dict.fromkeys(sentence.passage.number for sentence in chosen)
    return "\n".join(_excerpts([s for s in chosen if s.passage.number == number]) for number in numbers)


def _choose(best_first: Sequence[_Sentence]) -> list[_Sentence]:
    """The best sentences that say different things, up to the first that is not worth it or too long."""
    chosen: list[_Sentence] = []
    room = MAX_WORDS
    for sentence in best_first:
        if sentence.score < WORTH * best_first[0].score:
            break
        if any(_is_same(sentence.stems, other.stems) for other in chosen):
            continue
        room -= sentence.text.count(" ") + 1
        if room < 0 and len(chosen) >= MIN_SENTENCES:
            break
        chosen.append(sentence)
    return chosen


def _excerpts(sentences: Sequence[_Sentence]) -> str:
    """Sentences of one passage in their own order, gaps shown, with its marker."""
    ordered = sorted(sentences, key=lambda s: s.at)
    text = ordered[0].text
    for before, sentence in pairwise(ordered):
        text += (" " if sentence.at == before.at + 1 else " … ") + sentence.text
    return f"{text} [{ordered[0].passage.number}]"


def _candidates(question: str, passages: Sequence[Passage], encoder: SparseEncoder) -> list[_Sentence]:
    weights = {stem: encoder.idf(stem) for stem in encoder.stems(question)}
    total = sum(weights.values()) or 1.0
    wanted = next((shape for asks, shape in _ASKS if asks.search(question.lower())), None)
    found = []
    for rank, passage in enumerate(passages[:FROM_PASSAGES]):
        title = frozenset(encoder.stems(passage.title or ""))
        for at, text in enumerate(split_sentences(passage.text)):
            stems = frozenset(encoder.stems(text))
            score = (
                PASSAGE_WEIGHT * passage.score
                + OVERLAP_WEIGHT * sum(weights[stem] for stem in (stems | title) & weights.keys()) / total
                + TYPE_WEIGHT * (wanted is not None and wanted.search(text) is not None)
                - RANK_WEIGHT * rank
            )
            found.append(_Sentence(passage, at, text, stems, score))
    return found


def split_sentences(text: str) -> list[str]:
    """Sentences with white space normalised, none empty; overlong ones cut at `MAX_SENTENCE_WORDS`.

    A text's own reference marks, such as [3], are left out: they would read as citations of ours.
    """
    pieces: list[str] = []
    for sentence in _SENTENCE_END.sub("\\1\0", _REFERENCE.sub("", text)).split("\0"):
        words = sentence.split()
        starts = range(0, len(words), MAX_SENTENCE_WORDS)
        pieces += [" ".join(words[start : start + MAX_SENTENCE_WORDS]) for start in starts]
    return pieces


def _is_same(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two sentences share almost all of the shorter one's stems."""
    shorter = min(len(one), len(other))
    return len(one & other) >= SAME * shorter if shorter else one == other
