"""Reserved metadata: what Meridian keeps beside a tenant's own (`_m.text`, `_m.hash`, `_m.embedding`).

Pure. A tenant never writes, filters by or sees a reserved field. The text of a text record is shown
under the index's text field, as Pinecone shows it; a field of that name that the tenant wrote itself
stands before it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.errors import BadRequest
from regions.errors import BadFilter
from regions.filters import compile_filter, fields_of
from regions.records import META_TEXT, RESERVED_PREFIX, Match, Metadata, MetadataValue, Record


def refuse_reserved(fields: Iterable[str], what: str) -> None:
    """Raises: BadRequest: one of the fields is reserved."""
    for field in fields:
        if field.startswith(RESERVED_PREFIX):
            raise BadRequest(
                f"{what} names {field[:60]!r}: fields that begin with {RESERVED_PREFIX!r} are reserved",
                param=what,
            )


def check_filter(raw: Mapping[str, Any] | None) -> None:
    """Raises: BadRequest: outside Pinecone's filter language, or it looks at a reserved field."""
    if not raw:
        return
    try:
        fields = fields_of(compile_filter(raw))
    except BadFilter as error:
        raise BadRequest(str(error), param="filter") from error
    refuse_reserved(fields, "filter")


def visible(metadata: Metadata | None, text_field: str) -> Metadata | None:
    """What the tenant sees of a record's metadata; None when nothing is left."""
    if metadata is None or not any(key.startswith(RESERVED_PREFIX) for key in metadata):
        return metadata
    shown = {key: value for key, value in metadata.items() if not key.startswith(RESERVED_PREFIX)}
    text = text_of(metadata, text_field)
    if text is not None:
        shown[text_field] = text
    return shown or None


def text_of(metadata: Mapping[str, MetadataValue], text_field: str) -> MetadataValue | None:
    """The record's text: the tenant's own field, else the text it was embedded from."""
    own = metadata.get(text_field)
    return metadata.get(META_TEXT) if own is None else own


def visible_match(match: Match, text_field: str) -> Match:
    """The match as the tenant sees it; the same object when nothing is hidden."""
    shown = visible(match.metadata, text_field)
    return match if shown is match.metadata else msgspec.structs.replace(match, metadata=shown)


def visible_record(record: Record, text_field: str) -> Record:
    """The record as the tenant sees it; the same object when nothing is hidden."""
    shown = visible(record.metadata, text_field)
    return record if shown is record.metadata else msgspec.structs.replace(record, metadata=shown)
