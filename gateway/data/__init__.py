"""Data that ships with the package, each with the NOTICE of its licence beside it.

`nq_gold/`: questions, answers and passages (CC BY-SA 3.0); `minilm/`: the embedded model's tokenizer
(Apache-2.0); `word_rates/`: how often English word stems occur (CC BY-SA 4.0).
"""

import functools
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType


def corpus_path() -> Path:
    """The bundled corpus: one JSON object a line with `id`, `title`, `text`, `source`."""
    return _path("nq_gold/passages.jsonl")


def questions_path() -> Path:
    """Questions about the corpus: one JSON object a line with `id`, `question`, `answers`, `passage_ids`."""
    return _path("nq_gold/queries.jsonl")


def tokenizer_path() -> Path:
    """The embedded model's tokenizer, in the tokenizers library's format."""
    return _path("minilm/tokenizer.json")


@functools.cache
def word_rates() -> Mapping[str, float]:
    """How often an English word stem occurs: share of all words, in (0, 1). Stems not in it are rarer."""
    lines = _path("word_rates/english.tsv").read_text("utf-8").splitlines()
    pairs = (line.split("\t") for line in lines)
    return MappingProxyType({stem: float(per_billion) / 1e9 for stem, per_billion in pairs})


def _path(name: str) -> Path:
    """A data file as a path: packages are installed unpacked."""
    return Path(str(files(__name__).joinpath(name)))
