"""Records over HTTP: the vectors API, namespaces and stats of one index, under `/i/{index}`.

A handler reads the body, checks it against Pinecone's limits, asks the `Node` and writes the answer. Writes
carry their position in `x-pinecone-request-lsn`, reads what they saw in `x-pinecone-max-indexed-lsn`. A
replicator's writes say in `x-meridian-apply` where they stand in its log, and older ones are refused (409).
"""

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from regions import pinecone_api as api
from regions.changes import (
    Change,
    CreateNamespace,
    Delete,
    DeleteAll,
    DeleteByFilter,
    DropNamespace,
    Update,
    UpdateByFilter,
    Upsert,
)
from regions.filters import compile_filter
from regions.names import DEFAULT_NAMESPACE
from regions.node import render
from regions.node.node import IndexChanged, Node, NodeIndex
from regions.node.reading import Namespace
from regions.node.render import BadCall, Unsupported
from regions.node.store import NamespaceMissing, Written
from regions.positions import Lsn, parse_lsn
from regions.record_checks import (
    check_id,
    check_ids,
    check_metadata,
    check_namespace,
    check_query,
    check_records,
    check_update,
)
from regions.records import Query

Call = Callable[[web.Request], Awaitable[web.Response]]

_RECORDS_A_READ_UNIT: Final = 10
_CHECKED_ON_THE_LOOP: Final = 32
_RENDERED_ON_THE_LOOP: Final = 100
"""Records beyond which checking and writing them out goes to a thread."""


class DataPlane:
    """The handlers of one index's calls; which index stands in the path."""

    def __init__(self, node: Node, read_body: Callable[[web.Request, Any], Awaitable[Any]]) -> None:
        self._node, self._read_body = node, read_body

    def routes(self) -> list[web.RouteDef]:
        calls = {
            ("POST", "/vectors/upsert"): self._upsert,
            ("POST", "/query"): self._query,
            ("GET", "/vectors/fetch"): self._fetch,
            ("POST", "/vectors/fetch_by_metadata"): self._fetch_by_metadata,
            ("POST", "/vectors/update"): self._update,
            ("POST", "/vectors/delete"): self._delete,
            ("GET", "/vectors/list"): self._list,
            ("POST", "/describe_index_stats"): self._stats,
            ("GET", "/describe_index_stats"): self._stats,
            ("GET", "/namespaces"): self._list_namespaces,
            ("POST", "/namespaces"): self._create_namespace,
            ("GET", "/namespaces/{namespace}"): self._describe_namespace,
            ("DELETE", "/namespaces/{namespace}"): self._drop_namespace,
            ("*", "/bulk/imports{rest:(/.*)?}"): self._unsupported,
            ("*", "/records/namespaces/{rest:.*}"): self._unsupported,
            ("*", "/namespaces/{namespace}/documents/{rest:.*}"): self._unsupported,
        }
        return [
            web.route(method, "/i/{index}" + path, self._told(call)) for (method, path), call in calls.items()
        ]

    def _told(self, call: Call) -> Call:
        """The call, whose answer tells which index it is about: one of the same name may follow it."""

        async def told(http: web.Request) -> web.Response:
            incarnation = self._node.incarnation_of(self._index(http))
            answer = await call(http)
            if self._node.incarnation_of(self._index(http)) != incarnation:
                raise IndexChanged(f"Resource {http.match_info['index']} was made anew meanwhile")
            answer.headers[api.INCARNATION_HEADER] = incarnation
            return answer

        return told

    def _index(self, http: web.Request) -> NodeIndex:
        return self._node.index(http.match_info["index"])

    # -- writes -------------------------------------------------------------------------------------

    async def _upsert(self, http: web.Request) -> web.Response:
        index = self._index(http)
        request: api.UpsertRequest = await self._read_body(http, api.UpsertRequest)
        namespace = stored(request.namespace)
        if len(request.vectors) > _CHECKED_ON_THE_LOOP:
            await self._node.run(check_records, request.vectors, index.definition.shape)
        else:
            check_records(request.vectors, index.definition.shape)
        written = await self._node.write(index, namespace, Upsert(request.vectors), position_of(http))
        return _written(api.UpsertAnswer(len(request.vectors)), written)

    async def _update(self, http: web.Request) -> web.Response:
        index = self._index(http)
        request: api.UpdateRequest = await self._read_body(http, api.UpdateRequest)
        namespace, change = stored(request.namespace), update_of(request)
        if isinstance(change, Update):
            check_update(change, index.definition.shape)
        elif request.dry_run:
            matched = await self._node.count_matching(index, namespace, change.filter)
            return render.answer(api.UpdateAnswer(matched))
        written = await self._node.write(index, namespace, change, position_of(http))
        return _written(api.UpdateAnswer(written.matched), written)

    async def _delete(self, http: web.Request) -> web.Response:
        index = self._index(http)
        request: api.DeleteRequest = await self._read_body(http, api.DeleteRequest)
        namespace, change = stored(request.namespace), delete_of(request)
        written = await self._node.write(index, namespace, change, position_of(http))
        return _written(api.Empty(), written)

    async def _create_namespace(self, http: web.Request) -> web.Response:
        index = self._index(http)
        request: api.CreateNamespaceRequest = await self._read_body(http, api.CreateNamespaceRequest)
        check_namespace(request.name)
        if request.name in ("", DEFAULT_NAMESPACE):
            raise BadCall("the default namespace exists already and cannot be created")
        check_schema(request.schema)
        change = CreateNamespace(request.schema)
        written = await self._node.write(index, request.name, change, position_of(http))
        described = await self._node.namespace(index, request.name)
        if described is None:
            raise NamespaceMissing(f"Namespace {request.name!r} was removed while it was being created")
        return _written(_namespace(described), written)

    async def _drop_namespace(self, http: web.Request) -> web.Response:
        index, name = self._index(http), stored(http.match_info["namespace"])
        written = await self._node.write(index, name, DropNamespace(), position_of(http))
        return _written(api.Empty(), written)

    # -- reads --------------------------------------------------------------------------------------

    async def _query(self, http: web.Request) -> web.Response:
        index = self._index(http)
        query: Query = await self._read_body(http, Query)
        check_query(query, index.definition.shape)
        found = await self._node.query(index, stored(query.namespace), query)
        body = api.QueryAnswer(found.matches, query.namespace, api.Usage(1))
        if len(found.matches) > _RENDERED_ON_THE_LOOP and (query.include_values or query.include_metadata):
            return _read(msgspec.Raw(await self._node.run(msgspec.json.encode, body)), found.lsn)
        return _read(body, found.lsn)

    async def _fetch(self, http: web.Request) -> web.Response:
        index, ids = self._index(http), http.query.getall("ids", [])
        namespace = http.query.get("namespace", "")
        check_ids(ids, api.MAX_FETCH_IDS)
        found = await self._node.fetch(index, stored(namespace), ids)
        usage = api.Usage(max(1, -(-len(ids) // _RECORDS_A_READ_UNIT)))
        body = api.FetchAnswer(found.records, namespace, usage)
        return _read(msgspec.Raw(await self._node.run(msgspec.json.encode, body)), found.lsn)

    async def _fetch_by_metadata(self, http: web.Request) -> web.Response:
        index = self._index(http)
        request: api.FetchByMetadataRequest = await self._read_body(http, api.FetchByMetadataRequest)
        if not request.filter:
            raise BadCall("Empty filter provided for fetch by metadata request")
        limit = api.DEFAULT_FETCH_BY_METADATA_LIMIT if request.limit is None else request.limit
        _check_limit(limit, api.MAX_FETCH_BY_METADATA_LIMIT)
        after = parse_token(request.pagination_token)
        found = await self._node.fetch_by_metadata(
            index, stored(request.namespace), request.filter, after, limit
        )
        page = None if found.is_last else api.Pagination(make_token(list(found.records)[-1]))
        usage = api.Usage(max(1, -(-len(found.records) // _RECORDS_A_READ_UNIT)))
        body = api.FetchByMetadataAnswer(found.records, request.namespace, usage, page)
        return _read(msgspec.Raw(await self._node.run(msgspec.json.encode, body)), found.lsn)

    async def _list(self, http: web.Request) -> web.Response:
        index, namespace = self._index(http), http.query.get("namespace", "")
        limit = _limit(http, api.MAX_LIST_LIMIT)
        prefix, after = http.query.get("prefix", ""), parse_token(http.query.get("paginationToken"))
        if prefix:
            check_id(prefix)
        found = await self._node.list_ids(index, stored(namespace), prefix, after, limit)
        page = None if found.is_last else api.Pagination(make_token(found.ids[-1]))
        body = api.ListAnswer([api.ListedId(id_) for id_ in found.ids], namespace, api.Usage(1), page)
        return _read(body, found.lsn)

    async def _stats(self, http: web.Request) -> web.Response:
        index = self._index(http)
        if http.method == "POST" and http.can_read_body:
            request: api.StatsRequest = await self._read_body(http, api.StatsRequest)
            if request.filter:
                raise BadCall("Serverless indexes do not support describing stats with metadata filtering")
        counts = await self._node.record_counts(index)
        definition = index.definition
        body = api.StatsAnswer(
            namespaces={name: api.NamespaceCount(count) for name, count in counts.items()},
            dimension=definition.dimension,
            total_vector_count=sum(counts.values()),
            metric=definition.metric,
            vector_type=definition.vector_type,
        )
        return render.answer(body)

    async def _list_namespaces(self, http: web.Request) -> web.Response:
        index, prefix = self._index(http), http.query.get("prefix", "")
        check_namespace(prefix)
        limit = _limit(http, api.MAX_NAMESPACES_LIMIT)
        after = parse_token(http.query.get("paginationToken"))
        found, total = await self._node.namespaces(index, prefix, after, limit)
        page = api.Pagination(make_token(found[limit - 1].name)) if len(found) > limit else None
        return render.answer(api.NamespacesAnswer([_namespace(each) for each in found[:limit]], page, total))

    async def _describe_namespace(self, http: web.Request) -> web.Response:
        index, name = self._index(http), stored(http.match_info["namespace"])
        found = await self._node.namespace(index, name)
        if found is None:
            raise NamespaceMissing(f"Namespace {name!r} not found")
        return _read(_namespace(found), found.applied_lsn)

    async def _unsupported(self, http: web.Request) -> web.Response:
        raise Unsupported(f"{http.method} {http.path} is not served by this index: it holds vectors only")


def stored(namespace: str) -> str:
    """The name that a namespace is kept under. Raises: BadRecord: outside the limits."""
    check_namespace(namespace)
    return namespace or DEFAULT_NAMESPACE


def position_of(http: web.Request) -> Lsn | None:
    """Where in its log a replicator says that the write stands; None on everybody else's writes.

    Raises: BadCall: no position.
    """
    text = http.headers.get(api.APPLY_HEADER)
    if text is None:
        return None
    try:
        return parse_lsn(text)
    except ValueError as error:
        raise BadCall(f"{api.APPLY_HEADER}: {error}") from error


def update_of(request: api.UpdateRequest) -> Update | UpdateByFilter:
    """The change that an update asks for. Raises: BadCall, BadFilter, BadRecord."""
    if (request.id is None) == (request.filter is None):
        raise BadCall("Exactly one of id and filter must be given")
    if request.id is not None:
        if request.dry_run:
            raise BadCall("dryRun is for updates by filter")
        return Update(request.id, request.values, request.sparse_values, request.set_metadata)
    if not request.filter:
        raise BadCall("Update with empty metadata filter is not allowed")
    if request.values is not None or request.sparse_values is not None:
        raise BadCall("An update by filter changes metadata only")
    compile_filter(request.filter)
    check_metadata(request.set_metadata or {})
    return UpdateByFilter(request.filter, request.set_metadata or {})


def delete_of(request: api.DeleteRequest) -> Change:
    """The change that a delete asks for. Raises: BadCall, BadFilter, BadRecord."""
    if (request.ids is not None) + request.delete_all + (request.filter is not None) != 1:
        raise BadCall("Exactly one of ids, deleteAll and filter must be given")
    if request.ids is not None:
        check_ids(request.ids, api.MAX_DELETE_IDS)
        return Delete(request.ids)
    if request.filter is not None:
        if not request.filter:
            raise BadCall("Delete with empty metadata filter is not allowed")
        compile_filter(request.filter)
        return DeleteByFilter(request.filter)
    return DeleteAll()


def check_schema(schema: dict[str, Any] | None) -> None:
    """Raises: BadCall: not of the form {"fields": {name: {"filterable": true}}}."""
    if schema is None:
        return
    fields = schema.get("fields")
    if schema.keys() != {"fields"} or not isinstance(fields, dict):
        raise BadCall('schema must be of the form {"fields": {...}}')
    for name, field in fields.items():
        if field != {"filterable": True}:
            raise BadCall(f'field {name!r} must be {{"filterable": true}}')


def make_token(last: str) -> str:
    """A page token: where the page ended."""
    return base64.urlsafe_b64encode(last.encode()).decode()


def parse_token(token: str | None) -> str:
    """Where the page before ended; "" before the first. Raises: BadCall: no token of ours."""
    try:
        return base64.b64decode(token or "", altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise BadCall("Invalid pagination token") from None


def _limit(http: web.Request, most: int) -> int:
    text = http.query.get("limit", str(most))
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadCall(f"limit must be an integer, got {text[:40]!r}")
    _check_limit(int(text), most)
    return int(text)


def _check_limit(limit: int, most: int) -> None:
    if not 1 <= limit <= most:
        raise BadCall(f"limit must be between 1 and {most}, got {limit}")


def _namespace(namespace: Namespace) -> api.NamespaceAnswer:
    schema = msgspec.json.decode(namespace.schema) if namespace.schema else None
    return api.NamespaceAnswer(
        name=namespace.name,
        record_count=str(namespace.records),
        schema=schema,
        indexed_fields=api.IndexedFields(sorted(schema["fields"])) if schema else None,
        size_bytes=namespace.size_bytes,
    )


def _written(body: msgspec.Struct, written: Written) -> web.Response:
    return render.answer(body, headers={api.REQUEST_LSN_HEADER: str(written.lsn)})


def _read(body: msgspec.Struct | msgspec.Raw, lsn: int) -> web.Response:
    return render.answer(body, headers={api.INDEXED_LSN_HEADER: str(lsn)})
