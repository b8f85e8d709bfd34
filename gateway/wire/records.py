"""Pinecone's records API: whole text records in, found records out.

Pure. An upsert is NDJSON, one record a line: `_id` (or `id`), the index's text field, and flat metadata
beside it. A search gives text, a vector, or the id of a stored record, and names the fields it wants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import msgspec

from gateway.errors import BadRequest, Unsupported
from gateway.wire.pinecone import decode_body
from gateway.wire.reserved import check_filter, refuse_reserved, visible
from regions import pinecone_api as api
from regions.record_checks import BadRecord, check_id
from regions.records import Match, Metadata, MetadataValue, Query, SparseVector

MAX_TEXT_RECORDS: Final = 96


@dataclass(frozen=True, slots=True)
class TextRecord:
    """A record whose vector is still to be made from its text; `metadata` is the tenant's other fields."""

    id: str
    text: str
    metadata: Metadata


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the records API's bodies: snake case."""


class SearchInputs(_Body, frozen=True):
    text: str


class SearchVector(_Body, frozen=True):
    values: list[float] | None = None
    sparse_values: list[float] | None = None
    sparse_indices: list[int] | None = None


class SearchQuery(_Body, frozen=True):
    top_k: int
    inputs: SearchInputs | None = None
    vector: SearchVector | None = None
    id: str | None = None
    filter: dict[str, Any] | None = None
    match_terms: dict[str, Any] | None = None


class SearchRequest(_Body, frozen=True):
    """POST /records/namespaces/{ns}/search; `fields` None means all."""

    query: SearchQuery
    fields: list[str] | None = None
    rerank: dict[str, Any] | None = None

    def vector_query(self) -> Query:
        """The search by vector or id as a query; its vectors are not yet checked."""
        vector = self.query.vector or SearchVector()
        sparse = None
        if vector.sparse_indices is not None or vector.sparse_values is not None:
            sparse = SparseVector(vector.sparse_indices or [], vector.sparse_values or [])
        return Query(
            top_k=self.query.top_k,
            vector=vector.values,
            sparse_vector=sparse,
            id=self.query.id,
            filter=self.query.filter,
            include_metadata=True,
        )


class Hit(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="_id")
    score: float = msgspec.field(name="_score")
    fields: dict[str, Any]


class Hits(msgspec.Struct, frozen=True):
    hits: list[Hit]


class SearchUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    read_units: int
    embed_total_tokens: int = 0


class SearchAnswer(msgspec.Struct, frozen=True):
    result: Hits
    usage: SearchUsage


def decode_records(body: bytes, text_field: str) -> list[TextRecord]:
    """The records of an NDJSON body, in order; of a repeated id the last one counts.

    Raises: BadRequest: none, more than 96, or a line that is no text record (with its number).
    """
    if len(body) > api.MAX_BODY_BYTES:
        raise BadRequest(f"The request has {len(body)} bytes; the limit is {api.MAX_BODY_BYTES} bytes")
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if not 0 < len(lines) <= MAX_TEXT_RECORDS:
        raise BadRequest(f"The number of records must be 1 to {MAX_TEXT_RECORDS}, got {len(lines)}")
    records: dict[str, TextRecord] = {}
    for number, line in lines:
        try:
            record = _text_record(line, text_field)
        except BadRequest as error:
            raise BadRequest(f"Record on line {number}: {error.message}", param=error.param) from error
        records.pop(record.id, None)
        records[record.id] = record
    return list(records.values())


def _text_record(line: bytes, text_field: str) -> TextRecord:
    fields = decode_body(line, dict[str, Any])
    refuse_reserved(fields, "record")
    for name, value in fields.items():
        if not _is_metadata(value):
            raise BadRequest(
                f"Field {name[:60]!r} must be a string, a number, a boolean or a list of strings", param=name
            )
    id_ = fields.pop("_id") if "_id" in fields else fields.pop("id", None)
    if not isinstance(id_, str):
        raise BadRequest("Missing or invalid field '_id': a string is required", param="_id")
    try:
        check_id(id_)
    except BadRecord as error:
        raise BadRequest(str(error), param="_id") from error
    text = fields.pop(text_field, None)
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(f"Missing or empty field {text_field!r}: text is required", param=text_field)
    return TextRecord(id_, text, fields)


def _is_metadata(value: object) -> TypeGuard[MetadataValue]:
    if isinstance(value, list):
        return all(isinstance(element, str) for element in value)
    return isinstance(value, str | int | float)


def decode_search(body: bytes) -> SearchRequest:
    """Raises: BadRequest: no search, or not exactly one of inputs, vector and id. Unsupported: reranking
    or required terms, which need a model or an index that is not here.
    """
    request = decode_body(body, SearchRequest)
    if request.rerank is not None:
        raise Unsupported("Reranking is not supported by this gateway: leave out 'rerank'")
    query = request.query
    if query.match_terms is not None:
        raise Unsupported("Required terms are not supported by this gateway: leave out 'match_terms'")
    if sum(way is not None for way in (query.inputs, query.vector, query.id)) != 1:
        raise BadRequest("Exactly one of inputs, vector and id must be given", param="query")
    if not 1 <= query.top_k <= api.MAX_TOP_K:
        raise BadRequest(f"top_k must be between 1 and {api.MAX_TOP_K}, got {query.top_k}", param="top_k")
    if query.inputs is not None and not query.inputs.text.strip():
        raise BadRequest("inputs.text must not be empty", param="inputs")
    check_filter(query.filter)
    if request.fields:
        refuse_reserved(request.fields, "fields")
    return request


def encode_hits(
    matches: Sequence[Match], text_field: str, fields: Sequence[str] | None, *, read_units: int, tokens: int
) -> bytes:
    """The answer to a search, best first, with the fields asked for (None: all)."""
    hits = [
        Hit(match.id, match.score, _selected(visible(match.metadata, text_field) or {}, fields))
        for match in matches
    ]
    return msgspec.json.encode(SearchAnswer(Hits(hits), SearchUsage(read_units, tokens)))


def _selected(metadata: Metadata, fields: Sequence[str] | None) -> Metadata:
    if fields is None:
        return metadata
    return {name: metadata[name] for name in fields if name in metadata}
