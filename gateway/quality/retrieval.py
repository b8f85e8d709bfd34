"""Retrieval on the bundled questions: `python -m gateway.quality.retrieval [--gateway URL]`.

In this process by default: the real embedder and sparse encoder, exact search. With `--gateway`, the
real path: the records search of a running gateway that holds the corpus. Both print recall@1/5/10,
MRR@10, and what excerpts made from the best five passages contain.
"""

import argparse
import asyncio
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.data import corpus_path, questions_path, word_rates
from gateway.embedders import local
from gateway.embedders.base import Embedder, Kind, Vectors
from gateway.ingest.content import passage_text
from gateway.messages import Passage
from gateway.policies.blend import DENSE_WEIGHT
from gateway.policies.snippets import compose_snippets
from gateway.policies.sparse import SparseEncoder
from gateway.quality.metrics import RetrievalScores, contains_answer, score_retrieval
from regions.runtime.config_file import SecretRef

TOP: Final = 10
BASELINE: Final = RetrievalScores(0.898, 0.989, 0.998, 0.939)
"""The best of each column among dense, BM25, rank fusion, min-max blend and rescoring, measured before
the project began; the goal is not to be below it."""
BASELINE_EXCERPTS: Final = 0.883
BATCH: Final = 96
IN_FLIGHT: Final = 8


class Question(msgspec.Struct, frozen=True):
    """A question, its accepted short answers, and the passages that hold one."""

    question: str
    answers: list[str]
    passage_ids: list[str]


class Document(msgspec.Struct, frozen=True):
    """A passage of the corpus."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """What was found for each question, best first, at most `TOP` each."""

    name: str
    found: Sequence[Sequence[Passage]]


def read_questions() -> list[Question]:
    return msgspec.json.Decoder(Question).decode_lines(questions_path().read_bytes())


def read_documents() -> list[Document]:
    return msgspec.json.Decoder(Document).decode_lines(corpus_path().read_bytes())


# -- in this process: exact search --------------------------------------------------------------------


async def rank_here(questions: Sequence[Question], documents: Sequence[Document]) -> list[Ranking]:
    """Dense alone, sparse alone, and the blend that the gateway asks its index for."""
    texts = [passage_text(document.text, {"title": document.title}) for document in documents]
    asked = [question.question for question in questions]
    passages = await embed_cached("passage", texts)
    dense = await embed_cached("query", asked) @ passages.T
    encoder = SparseEncoder(word_rates())
    sparse = sparse_scores(encoder, asked, texts)
    blend = DENSE_WEIGHT * dense + (1 - DENSE_WEIGHT) * sparse
    named = (("dense alone", dense), ("sparse alone", sparse), (f"blend {DENSE_WEIGHT}", blend))
    return [Ranking(name, [_best(row, documents) for row in scores]) for name, scores in named]


def sparse_scores(encoder: SparseEncoder, asked: Sequence[str], texts: Sequence[str]) -> Vectors:
    """Dot products, (questions, texts) float32, as an index computes them."""
    postings: dict[int, list[tuple[int, float]]] = {}
    for number, text in enumerate(texts):
        vector = encoder.passage(text)
        for at, value in zip(vector.indices, vector.values, strict=True):
            postings.setdefault(at, []).append((number, value))
    scores = np.zeros((len(asked), len(texts)), np.float32)
    for row, text in enumerate(asked):
        vector = encoder.query(text)
        for at, weight in zip(vector.indices, vector.values, strict=True):
            for number, value in postings.get(at, ()):
                scores[row, number] += weight * value
    return scores


def _best(scores: NDArray[np.float32], documents: Sequence[Document]) -> list[Passage]:
    order = np.argsort(-scores, kind="stable")[:TOP]
    return [
        Passage(place, documents[at].id, documents[at].text, float(scores[at]), documents[at].title)
        for place, at in enumerate(order, 1)
    ]


async def embed_cached(kind: Kind, texts: Sequence[str]) -> Vectors:
    """Vectors by the local embedder, (n, dimension) float32; kept in the temporary folder between runs."""
    embedder = local.build(local.Config(), "local", _no_secrets)
    kept = _cache_file(embedder.version, texts)
    vectors = await asyncio.to_thread(_load, kept)
    if vectors is None:
        await embedder.start()
        try:
            vectors = await _embed(embedder, kind, texts)
        finally:
            await embedder.close()
        await asyncio.to_thread(np.save, kept, vectors)
    return vectors


async def _embed(embedder: Embedder, kind: Kind, texts: Sequence[str]) -> Vectors:
    parts, done = [], 0
    for at in range(0, len(texts), BATCH):
        embedded = await embedder.embed(texts[at : at + BATCH], kind=kind, timeout_s=120)
        parts.append(embedded.vectors)
        done += len(embedded.vectors)
        if sys.stderr.isatty():
            print(f"\r  {done} of {len(texts)} texts embedded ", end="", file=sys.stderr, flush=True)
    return np.concatenate(parts)


def _cache_file(version: str, texts: Sequence[str]) -> Path:
    digest = hashlib.blake2b("\0".join((version, *texts)).encode(), digest_size=12)
    return Path(tempfile.gettempdir(), f"meridian-{os.getuid()}-{digest.hexdigest()}.npy")


def _load(kept: Path) -> Vectors | None:
    if not kept.is_file() or kept.stat().st_uid != os.getuid():
        return None
    vectors: Vectors = np.load(kept, allow_pickle=False)
    return vectors


def _no_secrets(ref: SecretRef) -> str:
    raise AssertionError(f"the local embedder has no secrets, not even {ref}")


# -- over the real path -------------------------------------------------------------------------------


class _Hit(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="_id")
    score: float = msgspec.field(name="_score")
    fields: dict[str, Any] = {}


class _Hits(msgspec.Struct, frozen=True):
    hits: list[_Hit]


class _Answer(msgspec.Struct, frozen=True):
    result: _Hits


async def rank_there(questions: Sequence[Question], url: str, key: str, namespace: str) -> Ranking:
    """What a running gateway finds through its records search. Raises: aiohttp.ClientError."""
    place = f"{url.rstrip('/')}/records/namespaces/{quote(namespace or '__default__', safe='')}/search"
    limit = asyncio.Semaphore(IN_FLIGHT)

    async def search(question: Question) -> list[Passage]:
        query = {"top_k": TOP, "inputs": {"text": question.question}}
        body = msgspec.json.encode({"query": query, "fields": ["title", "text"]})
        async with limit, session.post(place, data=body) as response:
            answer = msgspec.json.decode(await response.read(), type=_Answer)
        return [
            Passage(at, hit.id, str(hit.fields.get("text", "")), hit.score, hit.fields.get("title"))
            for at, hit in enumerate(answer.result.hits, 1)
        ]

    headers = {"Api-Key": key, "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(headers=headers, raise_for_status=True) as session,
        asyncio.TaskGroup() as tasks,
    ):
        searches = [tasks.create_task(search(question)) for question in questions]
    return Ranking("gateway", [search.result() for search in searches])


# -- the report ---------------------------------------------------------------------------------------


def report(rankings: Sequence[Ranking], questions: Sequence[Question]) -> tuple[str, bool]:
    """A Markdown table, and whether the last ranking and its excerpts are at the baseline or above."""
    wanted = [question.passage_ids for question in questions]
    lines = [
        "| | R@1 | R@5 | R@10 | MRR@10 |",
        "|---|---|---|---|---|",
        _row("baseline, best of each", BASELINE),
    ]
    scores = BASELINE
    for ranking in rankings:
        scores = score_retrieval([[p.id for p in found] for found in ranking.found], wanted)
        lines.append(_row(ranking.name, scores))
    contained, words = excerpt_quality(rankings[-1], questions)
    lines += [
        "",
        f"Excerpts from the last row's best passages: an accepted answer stands in {contained:.3f} of them"
        f" (baseline {BASELINE_EXCERPTS:.3f}), mean {words:.0f} words.",
    ]
    pairs = zip(astuple(scores), astuple(BASELINE), strict=True)
    return "\n".join(lines), contained >= BASELINE_EXCERPTS and all(ours >= theirs for ours, theirs in pairs)


def excerpt_quality(ranking: Ranking, questions: Sequence[Question]) -> tuple[float, float]:
    """Share of questions whose excerpt answer contains an accepted answer, and its mean words."""
    encoder = SparseEncoder(word_rates())
    texts = [
        compose_snippets(question.question, found, encoder)
        for question, found in zip(questions, ranking.found, strict=True)
    ]
    hits = [contains_answer(text, q.answers) for text, q in zip(texts, questions, strict=True)]
    return sum(hits) / len(hits), sum(len(text.split()) for text in texts) / len(texts)


def _row(name: str, scores: RetrievalScores) -> str:
    return f"| {name} | " + " | ".join(f"{value:.3f}" for value in astuple(scores)) + " |"


def main() -> None:
    """Print the report; exit code 1 when it is below the baseline."""
    parser = argparse.ArgumentParser(prog="python -m gateway.quality.retrieval", description=__doc__)
    parser.add_argument("--gateway", metavar="URL", help="search a running gateway that holds the corpus")
    parser.add_argument("--api-key", default=os.environ.get("MERIDIAN_API_KEY", ""))
    parser.add_argument("--namespace", default="corpus")
    asked = parser.parse_args()
    questions = read_questions()
    if asked.gateway:
        rankings = [asyncio.run(rank_there(questions, asked.gateway, asked.api_key, asked.namespace))]
    else:
        rankings = asyncio.run(rank_here(questions, read_documents()))
    text, is_good = report(rankings, questions)
    print(text)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
