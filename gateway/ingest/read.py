"""A source -> the records to send, or why a part of it cannot be sent.

Every record carries `ingested_from`, its source's name; a piece of a document also `ingested_part`, its
number. By these two, and by nothing else, ingestion later knows what it may remove.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from gateway.ingest import documents
from gateway.ingest.content import TITLE_FIELD
from gateway.ingest.sources import Refusal, Source
from gateway.policies.chunking import Section, chunk
from regions.record_checks import BadRecord, check_id, check_metadata
from regions.records import RESERVED_PREFIX, Metadata
from regions.runtime import strict_json

FROM_FIELD: Final = "ingested_from"
PART_FIELD: Final = "ingested_part"
MAX_DOCUMENT_BYTES: Final = 64 << 20
MAX_LINE_BYTES: Final = 1 << 20
OUR_METADATA_BYTES: Final = 512  # what the gateway adds to a record's metadata: hash, version, names


@dataclass(frozen=True, slots=True)
class TextItem:
    """A text record to send. `line` is from 1 in its source; `size_bytes` its share of the file."""

    id: str
    text: str
    metadata: Metadata
    source: Source
    line: int | None
    size_bytes: int


CountTokens = Callable[[str], int]


def read_source(source: Source, text_field: str, count_tokens: CountTokens) -> Iterator[TextItem | Refusal]:
    """What the file holds, in order; nothing raises."""
    try:
        if source.has_rows:
            yield from _rows(source, text_field)
        else:
            yield from _pieces(source, text_field, count_tokens)
    except OSError as error:
        yield Refusal(source.name, None, f"cannot be read: {error.strerror or error}")
    except UnicodeDecodeError as error:
        yield Refusal(source.name, None, f"is not UTF-8: {error.reason} at byte {error.start}")


def _rows(source: Source, text_field: str) -> Iterator[TextItem | Refusal]:
    with source.path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                yield Refusal(source.name, number, f"is longer than {MAX_LINE_BYTES} bytes")
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
            elif line.strip():
                yield _row(source, number, line, text_field)


def _row(source: Source, number: int, line: bytes, text_field: str) -> TextItem | Refusal:
    try:
        fields = strict_json.decode(line, dict[str, Any])
    except strict_json.BadJson as error:
        return Refusal(source.name, number, f"no record: {error}")
    ids = [fields.pop(name) for name in ("_id", "id") if name in fields]
    text = fields.pop(text_field, None)
    if not ids or isinstance(ids[0], list | float | bool | None):
        return Refusal(source.name, number, "has no id: a row needs an `id` or `_id`, text or whole number")
    if not isinstance(text, str) or not text.strip():
        return Refusal(source.name, number, f"has no text in the field {text_field!r}")
    odd = [key for key, value in fields.items() if not _is_flat(value)]
    if odd:
        return Refusal(
            source.name, number, f"the field {odd[0]!r} is no text, number, boolean or list of texts"
        )
    # Pinecone has no null; a field without a value is a field that is not there.
    metadata: Metadata = {key: value for key, value in fields.items() if value is not None}
    taken = [key for key in metadata if key in (FROM_FIELD, PART_FIELD) or key.startswith(RESERVED_PREFIX)]
    if taken:
        return Refusal(source.name, number, f"uses the reserved field {taken[0]!r}")
    metadata[FROM_FIELD] = source.name
    return _checked(TextItem(str(ids[0]), text, metadata, source, number, len(line)))


def _is_flat(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(member, str) for member in value)
    return value is None or isinstance(value, str | int | float)


def _pieces(source: Source, text_field: str, count_tokens: CountTokens) -> Iterator[TextItem | Refusal]:
    if source.size_bytes > MAX_DOCUMENT_BYTES:
        yield Refusal(source.name, None, f"is larger than {MAX_DOCUMENT_BYTES >> 20} MB: split it")
        return
    text = source.path.read_bytes().decode("utf-8-sig")
    pieces = chunk(_sections(source, text), count_tokens)
    if not pieces:
        yield Refusal(source.name, None, "has no text")
    for part, piece in enumerate(pieces):
        metadata: Metadata = {TITLE_FIELD: piece.title, FROM_FIELD: source.name, PART_FIELD: part}
        share = source.size_bytes // len(pieces)
        yield _checked(TextItem(f"{source.name}#{part}", piece.text, metadata, source, None, share))


def _sections(source: Source, text: str) -> list[Section]:
    name = PurePosixPath(source.name).name
    match source.path.suffix.lower():
        case ".md":
            return documents.read_markdown(text, name)
        case ".html" | ".htm":
            return documents.read_html(text, name)
        case _:
            return documents.read_text(text, name)


def _checked(item: TextItem) -> TextItem | Refusal:
    """The item, or why no index takes it: better known here, with its line, than by its whole batch."""
    try:
        check_id(item.id)
        check_metadata({**item.metadata, "text": item.text, "ours": "x" * OUR_METADATA_BYTES})
    except BadRecord as error:
        return Refusal(item.source.name, item.line, str(error))
    return item


def encode_item(item: TextItem, text_field: str) -> bytes:
    """One line of the records API's NDJSON."""
    return msgspec.json.encode({"_id": item.id, text_field: item.text, **item.metadata}) + b"\n"
