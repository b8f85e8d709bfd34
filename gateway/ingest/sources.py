"""Which files an ingestion reads, and what it calls them.

A source is named by its path from the given path's own name on: `meridian ingest docs` reads
`docs/guide/a.md` under just that name, wherever it is run. Names are ASCII: other bytes are
percent-encoded, because record ids must be.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

SUFFIXES: Final = frozenset({".jsonl", ".md", ".txt", ".html", ".htm"})
_KEPT: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in "%#")


@dataclass(frozen=True, slots=True)
class Source:
    """A file and its name."""

    path: Path
    name: str
    size_bytes: int

    @property
    def has_rows(self) -> bool:
        """Whether its records bring their own ids; else they are pieces, `<name>#<part>`."""
        return self.path.suffix.lower() == ".jsonl"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was not ingested: where (a line from 1, None: all of it) and why."""

    source: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}" if self.line else f"{self.source}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Found:
    """The sources under the given paths, in a fixed order.

    `scopes` are the names that belong to this ingestion: "docs/" for a folder, "a.md" for a file.
    """

    sources: Sequence[Source]
    refused: Sequence[Refusal]
    scopes: Sequence[str]

    def covers(self, name: str) -> bool:
        """Whether a source of that name would be under the given paths."""
        return any(name.startswith(scope) if scope.endswith("/") else name == scope for scope in self.scopes)


def find_sources(paths: Sequence[Path]) -> Found:
    """The readable files; in folders, hidden files and other suffixes are passed over."""
    by_name: dict[str, Source] = {}
    refused: list[Refusal] = []
    scopes: list[str] = []
    for given in paths:
        path = given.resolve()
        if path.is_dir():
            scopes.append(encode_name(path.name) + "/")
            files = _walk(path)
        elif path.is_file() and path.suffix.lower() in SUFFIXES:
            scopes.append(encode_name(path.name))
            files = [path]
        else:
            known = " ".join(sorted(SUFFIXES))
            refused.append(
                Refusal(str(given), None, f"not one of {known}" if path.exists() else "does not exist")
            )
            continue
        for file in files:
            name = encode_name(file.relative_to(path.parent).as_posix())
            earlier = by_name.setdefault(name, Source(file, name, file.stat().st_size))
            if earlier.path != file:
                refused.append(Refusal(str(file), None, f"has the name of {earlier.path}"))
    return Found([by_name[name] for name in sorted(by_name)], refused, scopes)


def encode_name(name: str) -> str:
    """Printable ASCII without "#", which parts a name from its piece's number."""
    return quote(name, safe=_KEPT)


def _walk(folder: Path) -> list[Path]:
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(here, name)
            for name in sorted(files)
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return found
