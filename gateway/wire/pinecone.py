"""Pinecone's vectors and namespaces API: a tenant's bytes <-> values.

Pure. Bodies are decoded strictly (types, unknown fields, repeated keys) and checked against all of
Pinecone's limits before anything is done with them, so that what passes here is refused by no replica.
Names in and out are the tenant's own; `NamespaceRef` is the business of the edge. Reserved metadata is
refused on the way in and hidden on the way out (`wire.reserved`).

The text and search calls for whole records are in `wire.records`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from gateway.errors import BadRequest
from gateway.wire.reserved import check_filter, refuse_reserved, visible_match, visible_record
from regions import pinecone_api as api
from regions import record_checks as checks
from regions.changes import (
    Change,
    CreateNamespace,
    Delete,
    DeleteAll,
    DeleteByFilter,
    Update,
    UpdateByFilter,
    Upsert,
)
from regions.record_checks import BadRecord, VectorShape
from regions.records import META_HASH, Metadata, Query
from regions.replicas.base import Fetched, IdPage, NamespaceInfo, QueryResult
from regions.runtime.strict_json import BadJson, decode

T = TypeVar("T")

LIST_LIMIT: Final = 100


class DryRun(msgspec.Struct, frozen=True):
    """An update by filter that only counts."""

    filter: dict[str, Any]


class PageQuery(msgspec.Struct, frozen=True):
    """A page of a list: ids of a namespace, or namespaces of the tenant."""

    prefix: str
    limit: int
    token: str | None


# --- Requests ------------------------------------------------------------------------------------


def decode_body(body: bytes, type_: type[T]) -> T:
    """Raises: BadRequest: not JSON, a repeated key, an unknown field, or a wrong type (with its path)."""
    try:
        return decode(body, type_)
    except BadJson as error:
        raise BadRequest(f"Invalid request body: {error}") from error


def decode_upsert(body: bytes, shape: VectorShape) -> tuple[str, Upsert]:
    """The namespace's name and the change. Raises: BadRequest."""
    if len(body) > api.MAX_BODY_BYTES:
        raise BadRequest(
            f"Error, message length too large: found {len(body)} bytes, "
            f"the limit is: {api.MAX_BODY_BYTES} bytes"
        )
    request = decode_body(body, api.UpsertRequest)
    for record in request.vectors:
        if record.metadata:
            refuse_reserved(record.metadata, "metadata")
    with _limits():
        checks.check_records(request.vectors, shape)
    return request.namespace, Upsert(request.vectors)


def decode_update(body: bytes, shape: VectorShape) -> tuple[str, Update | UpdateByFilter | DryRun]:
    """The namespace's name and the change, or the count that a dry run asks for. Raises: BadRequest."""
    request = decode_body(body, api.UpdateRequest)
    if request.set_metadata:
        refuse_reserved(request.set_metadata, "setMetadata")
    if (request.id is None) == (request.filter is None):
        raise BadRequest("Exactly one of id and filter must be given")
    if request.filter is not None:
        return request.namespace, _update_by_filter(request, request.filter)
    return request.namespace, _update_by_id(request, request.id or "", shape)


def _update_by_filter(request: api.UpdateRequest, filter_: dict[str, Any]) -> UpdateByFilter | DryRun:
    _check_nonempty_filter(filter_)
    if request.values is not None or request.sparse_values is not None:
        raise BadRequest("An update by filter can set metadata only")
    if request.dry_run:
        return DryRun(filter_)
    if not request.set_metadata:
        raise BadRequest("setMetadata must not be empty", param="setMetadata")
    with _limits():
        checks.check_metadata(request.set_metadata)
    return UpdateByFilter(filter_, request.set_metadata)


def _update_by_id(request: api.UpdateRequest, id_: str, shape: VectorShape) -> Update:
    if request.dry_run:
        raise BadRequest("dryRun needs a filter", param="dryRun")
    if request.values is None and request.sparse_values is None and not request.set_metadata:
        raise BadRequest("One of values, sparseValues and setMetadata must be given")
    update = Update(id_, request.values, request.sparse_values, request.set_metadata)
    with _limits():
        checks.check_update(update, shape)
    if update.values is None and update.sparse_values is None:
        return update
    # The vector no longer is the text's: the same text, sent again, must not count as unchanged.
    forgotten: Metadata = {**(update.set_metadata or {}), META_HASH: ""}
    return msgspec.structs.replace(update, set_metadata=forgotten)


def decode_delete(body: bytes) -> tuple[str, Change]:
    """The namespace's name and the change. Raises: BadRequest: not exactly one of the three ways."""
    request = decode_body(body, api.DeleteRequest)
    ways = (request.ids is not None, request.delete_all, request.filter is not None)
    if sum(ways) != 1:
        raise BadRequest("Exactly one of ids, deleteAll and filter must be given")
    if request.ids is not None:
        with _limits():
            checks.check_ids(request.ids, api.MAX_DELETE_IDS)
        return request.namespace, Delete(request.ids)
    if request.filter is not None:
        _check_nonempty_filter(request.filter)
        return request.namespace, DeleteByFilter(request.filter)
    return request.namespace, DeleteAll()


def decode_query(body: bytes, shape: VectorShape) -> Query:
    """The query; its `namespace` is the tenant's name. Raises: BadRequest."""
    query = decode_body(body, Query)
    check_filter(query.filter)
    with _limits():
        checks.check_query(query, shape)
    return query


def decode_fetch(params: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
    """The namespace's name and the ids asked for. Raises: BadRequest."""
    single = _single_params([p for p in params if p[0] != "ids"], {"namespace"})
    ids = [value for name, value in params if name == "ids"]
    with _limits():
        checks.check_ids(ids, api.MAX_FETCH_IDS)
    return single.get("namespace", ""), ids


def decode_fetch_by_metadata(body: bytes) -> tuple[api.FetchByMetadataRequest, int]:
    """The request with its filter checked, and the page's size. Raises: BadRequest."""
    request = decode_body(body, api.FetchByMetadataRequest)
    _check_nonempty_filter(request.filter)
    limit = api.DEFAULT_FETCH_BY_METADATA_LIMIT if request.limit is None else request.limit
    if not 1 <= limit <= api.MAX_FETCH_BY_METADATA_LIMIT:
        raise BadRequest(f"limit must be between 1 and {api.MAX_FETCH_BY_METADATA_LIMIT}", param="limit")
    return request, limit


def decode_list(params: Sequence[tuple[str, str]]) -> tuple[str, PageQuery]:
    """The namespace's name and the page asked for. Raises: BadRequest."""
    single = _single_params(params, {"namespace", "prefix", "limit", "paginationToken"})
    return single.get("namespace", ""), _page(single, api.MAX_LIST_LIMIT)


def decode_list_namespaces(params: Sequence[tuple[str, str]]) -> PageQuery:
    """The page asked for. Raises: BadRequest."""
    return _page(_single_params(params, {"prefix", "limit", "paginationToken"}), api.MAX_NAMESPACES_LIMIT)


def decode_create_namespace(body: bytes) -> tuple[str, CreateNamespace]:
    """The namespace's name and the change. Raises: BadRequest."""
    request = decode_body(body, api.CreateNamespaceRequest)
    if not request.name:
        raise BadRequest("Namespace name must not be empty", param="name")
    fields = (request.schema or {}).get("fields")
    if isinstance(fields, dict):
        refuse_reserved(fields, "schema")
    return request.name, CreateNamespace(request.schema)


def check_stats(body: bytes) -> None:
    """Raises: BadRequest: the body is none, or asks for a filter, which serverless indexes refuse."""
    if body.strip() and decode_body(body, api.StatsRequest).filter:
        raise BadRequest(
            "Serverless and Starter indexes do not support describing index stats with metadata filtering"
        )


def _page(single: Mapping[str, str], max_limit: int) -> PageQuery:
    text = single.get("limit", str(LIST_LIMIT))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else 0
    if not 1 <= limit <= max_limit:
        raise BadRequest(f"limit must be between 1 and {max_limit}, got {text[:20]!r}", param="limit")
    prefix = single.get("prefix", "")
    if len(prefix) > api.MAX_ID_LENGTH or not prefix.isascii() or "\0" in prefix:
        raise BadRequest(f"prefix must be at most {api.MAX_ID_LENGTH} ASCII characters", param="prefix")
    return PageQuery(prefix, limit, single.get("paginationToken") or None)


def _single_params(params: Iterable[tuple[str, str]], known: set[str]) -> dict[str, str]:
    """Query parameters that may stand once. Raises: BadRequest: one is repeated or not known."""
    single: dict[str, str] = {}
    for name, value in params:
        if name not in known:
            raise BadRequest(f"There is no parameter {name[:40]!r}; known: {', '.join(sorted(known))}")
        if name in single:
            raise BadRequest(f"The parameter {name} is repeated", param=name)
        single[name] = value
    return single


def _check_nonempty_filter(raw: dict[str, Any] | None) -> None:
    if not raw:
        raise BadRequest("filter must not be empty", param="filter")
    check_filter(raw)


class _limits:  # noqa: N801 - reads as a statement, `with _limits():`
    """Turns a value outside Pinecone's limits into a BadRequest."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadRecord):
            raise BadRequest(str(error)) from error


# --- Answers -------------------------------------------------------------------------------------


def encode_upserted(change: Upsert) -> bytes:
    return msgspec.json.encode(api.UpsertAnswer(len(change.records)))


def encode_updated(matched: int | None) -> bytes:
    return msgspec.json.encode(api.UpdateAnswer(matched))


def encode_matches(result: QueryResult, name: str, text_field: str) -> bytes:
    """The answer to a query, under the tenant's name of the namespace."""
    matches = [visible_match(match, text_field) for match in result.matches]
    return msgspec.json.encode(api.QueryAnswer(matches, name, api.Usage(result.read_units)))


def encode_fetched(result: Fetched, name: str, text_field: str) -> bytes:
    """The answer to a fetch by ids."""
    return msgspec.json.encode(
        api.FetchAnswer(_visible_records(result, text_field), name, api.Usage(result.read_units))
    )


def encode_fetched_page(result: Fetched, name: str, text_field: str, token: str | None) -> bytes:
    """The answer to a fetch by metadata; `token` is ours, None on the last page."""
    return msgspec.json.encode(
        api.FetchByMetadataAnswer(
            _visible_records(result, text_field), name, api.Usage(result.read_units), _pagination(token)
        )
    )


def encode_ids(page: IdPage, name: str, token: str | None) -> bytes:
    """The answer to a list of ids; `token` is ours, None on the last page."""
    ids = [api.ListedId(id_) for id_ in page.ids]
    return msgspec.json.encode(api.ListAnswer(ids, name, api.Usage(page.read_units), _pagination(token)))


def encode_namespace(info: NamespaceInfo, name: str) -> bytes:
    return msgspec.json.encode(_namespace(info, name))


def encode_created_namespace(name: str, change: CreateNamespace) -> bytes:
    """The answer to a create, told from what was asked: a read just after it need not see it yet."""
    fields = (change.schema or {}).get("fields")
    indexed = list(fields) if isinstance(fields, dict) else None
    return msgspec.json.encode(_namespace(NamespaceInfo("", 0, None, change.schema, indexed), name))


def encode_namespaces(
    named: Iterable[tuple[str, NamespaceInfo]], token: str | None, total_count: int | None
) -> bytes:
    """The answer to a list of namespaces, each under the tenant's name for it."""
    listed = [_namespace(info, name) for name, info in named]
    return msgspec.json.encode(api.NamespacesAnswer(listed, _pagination(token), total_count))


def encode_stats(counts: Mapping[str, int], dimension: int, metric: str) -> bytes:
    """The tenant's own part of the index's statistics."""
    answer = api.StatsAnswer(
        namespaces={name: api.NamespaceCount(count) for name, count in counts.items()},
        dimension=dimension,
        total_vector_count=sum(counts.values()),
        metric=metric,
        vector_type="dense",
    )
    return msgspec.json.encode(answer)


def _visible_records(result: Fetched, text_field: str) -> dict[str, Any]:
    return {id_: visible_record(record, text_field) for id_, record in result.records.items()}


def _pagination(token: str | None) -> api.Pagination | None:
    return None if token is None else api.Pagination(token)


def _namespace(info: NamespaceInfo, name: str) -> api.NamespaceAnswer:
    fields = None if info.indexed_fields is None else api.IndexedFields(info.indexed_fields)
    return api.NamespaceAnswer(name, str(info.record_count), info.schema, fields, info.size_bytes)
