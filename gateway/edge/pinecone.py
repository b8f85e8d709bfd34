"""Routes of the Pinecone dialect: data plane, namespaces, records, and the control-plane reads SDKs need.

One gateway serves several indexes: `/i/{index}/…` names one, which is the host that `GET /indexes` answers,
so `pc.Index(name=…)` works; a bare host means the tenant's default index, so `pc.Index(host=…)` does.

Every handler is: find the index and the tenant's namespace, decode, one pipeline call, encode.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiohttp import web

from gateway.allowances import Operation
from gateway.config import IndexConfig
from gateway.context import RequestContext
from gateway.edge import render
from gateway.edge.server import Handler as HttpHandler
from gateway.edge.server import context_of, decoded, granted, read_body
from gateway.errors import BadRequest, GatewayError, NotFound, Unsupported
from gateway.messages import Source, Written
from gateway.stages import nearest_read
from gateway.stages.base import Handler
from gateway.stages.ingest_text import Ingested, TextBatch
from gateway.stages.nearest_read import Read, Served
from gateway.stages.search_text import SearchText
from gateway.wire import pinecone as wire
from gateway.wire import records
from gateway.wire.page_tokens import Page, PageTokens, Scope
from regions import pinecone_api as api
from regions.changes import DropNamespace, Write
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import Lsn
from regions.record_checks import BadRecord, VectorShape, check_query
from regions.replicas.base import NamespacePage

T = TypeVar("T")
_Route = tuple[str, str, Operation, Callable[["_Call"], Awaitable[web.Response]]]

STATS_PAGE: Final = api.MAX_NAMESPACES_LIMIT


@dataclass(frozen=True, slots=True)
class PineconePipelines:
    """What the dialect's calls end in."""

    read: Callable[[RequestContext, Read[Any]], Awaitable[Served[Any]]]
    write: Handler[Write, Written]
    ingest: Handler[TextBatch, Ingested]
    search: SearchText


class PineconeFace:
    """Pinecone's HTTP API in front of the pipelines. `public_url` is where tenants reach this gateway."""

    def __init__(
        self,
        *,
        indexes: Mapping[str, IndexConfig],
        pipelines: PineconePipelines,
        page_tokens: PageTokens,
        public_url: str,
    ) -> None:
        self._indexes, self._pipelines, self._tokens = indexes, pipelines, page_tokens
        self._public_url = public_url.rstrip("/")

    def routes(self) -> list[web.RouteDef]:
        """Every route, once on the bare host and once under `/i/{index}`."""
        data: list[_Route] = [
            ("POST", "/vectors/upsert", Operation.WRITE, self._upsert),
            ("POST", "/vectors/update", Operation.WRITE, self._update),
            ("POST", "/vectors/delete", Operation.WRITE, self._delete),
            ("POST", "/query", Operation.READ, self._query),
            ("GET", "/vectors/fetch", Operation.READ, self._fetch),
            ("POST", "/vectors/fetch_by_metadata", Operation.READ, self._fetch_by_metadata),
            ("GET", "/vectors/list", Operation.READ, self._list),
            ("POST", "/describe_index_stats", Operation.READ, self._stats),
            ("GET", "/describe_index_stats", Operation.READ, self._stats),
            ("GET", "/namespaces", Operation.READ, self._list_namespaces),
            ("POST", "/namespaces", Operation.ADMIN, self._create_namespace),
            ("GET", "/namespaces/{namespace}", Operation.READ, self._describe_namespace),
            ("DELETE", "/namespaces/{namespace}", Operation.ADMIN, self._drop_namespace),
            ("POST", "/records/namespaces/{namespace}/upsert", Operation.WRITE, self._upsert_records),
            ("POST", "/records/namespaces/{namespace}/search", Operation.READ, self._search_records),
            ("*", "/bulk/imports", Operation.WRITE, _no_imports),
            ("*", "/bulk/imports/{id}", Operation.WRITE, _no_imports),
            ("*", "/namespaces/{namespace}/documents/{call}", Operation.READ, _no_documents),
        ]
        return [
            *(
                web.route(method, place + path, granted(operation, self._data(handler)))
                for method, path, operation, handler in data
                for place in ("", "/i/{index}")
            ),
            web.get("/indexes", _control(self._list_indexes)),
            web.get("/indexes/{name}", _control(self._describe_index)),
            web.post("/indexes", _control(granted(Operation.ADMIN, _no_control))),
            web.post("/indexes/create-for-model", _control(granted(Operation.ADMIN, _no_control))),
            web.patch("/indexes/{name}", _control(granted(Operation.ADMIN, _no_control))),
            web.delete("/indexes/{name}", _control(granted(Operation.ADMIN, _no_control))),
        ]

    def _data(self, handler: Callable[["_Call"], Awaitable[web.Response]]) -> HttpHandler:
        async def handle(request: web.Request) -> web.Response:
            ctx = context_of(request)
            name = ctx.tenant.index(request.match_info.get("index"), self._indexes)
            return await handler(_Call(request, ctx, name, self._indexes[name]))

        return handle

    # --- Mutations: all through one write handler --------------------------------------------

    async def _write(self, call: "_Call", write: Write) -> tuple[Written, dict[str, str]]:
        written = await self._pipelines.write(call.ctx, write)
        return written, _write_headers(written)

    async def _upsert(self, call: "_Call") -> web.Response:
        shape = call.shape
        name, change = await call.decoded(lambda body: wire.decode_upsert(body, shape))
        _, headers = await self._write(call, Write(call.namespace(name), change))
        return _json(wire.encode_upserted(change), headers)

    async def _update(self, call: "_Call") -> web.Response:
        shape = call.shape
        name, change = await call.decoded(lambda body: wire.decode_update(body, shape))
        namespace = call.namespace(name)
        if isinstance(change, wire.DryRun):
            served = await self._pipelines.read(
                call.ctx, nearest_read.count_matching(namespace, change.filter)
            )
            return _json(wire.encode_updated(served.value), _read_headers(served.source))
        written, headers = await self._write(call, Write(namespace, change))
        return _json(wire.encode_updated(written.matched), headers)

    async def _delete(self, call: "_Call") -> web.Response:
        name, change = await call.decoded(wire.decode_delete)
        _, headers = await self._write(call, Write(call.namespace(name), change))
        return _json(b"{}", headers)

    async def _create_namespace(self, call: "_Call") -> web.Response:
        name, change = await call.decoded(wire.decode_create_namespace)
        _, headers = await self._write(call, Write(call.namespace(name), change))
        return _json(wire.encode_created_namespace(name, change), headers, status=201)

    async def _drop_namespace(self, call: "_Call") -> web.Response:
        _, headers = await self._write(call, Write(call.path_namespace(), DropNamespace()))
        return _json(b"{}", headers)

    # --- Reads -------------------------------------------------------------------------------

    async def _query(self, call: "_Call") -> web.Response:
        shape = call.shape
        query = await call.decoded(lambda body: wire.decode_query(body, shape))
        namespace = call.namespace(query.namespace)
        served = await self._pipelines.read(call.ctx, nearest_read.query(namespace, query))
        body = wire.encode_matches(served.value, query.namespace, call.config.text_field)
        return _json(body, _read_headers(served.source))

    async def _fetch(self, call: "_Call") -> web.Response:
        name, ids = wire.decode_fetch(call.params())
        served = await self._pipelines.read(call.ctx, nearest_read.fetch(call.namespace(name), ids))
        body = wire.encode_fetched(served.value, name, call.config.text_field)
        return _json(body, _read_headers(served.source))

    async def _fetch_by_metadata(self, call: "_Call") -> web.Response:
        request, limit = await call.decoded(wire.decode_fetch_by_metadata)
        namespace = call.namespace(request.namespace)
        scope = call.scope("fetch_by_metadata", namespace.stored)
        page = self._opened(scope, request.pagination_token)
        read = nearest_read.fetch_by_metadata(
            namespace, request.filter or {}, limit=limit, token=page.inner, prefer=page.region
        )
        served = await self._pipelines.read(call.ctx, read)
        token = self._sealed(scope, served.value.next_token, served.region)
        body = wire.encode_fetched_page(served.value, request.namespace, call.config.text_field, token)
        return _json(body, _read_headers(served.source))

    async def _list(self, call: "_Call") -> web.Response:
        name, asked = wire.decode_list(call.params())
        namespace = call.namespace(name)
        scope = call.scope("list", namespace.stored)
        page = self._opened(scope, asked.token)
        read = nearest_read.list_ids(
            namespace, prefix=asked.prefix, limit=asked.limit, token=page.inner, prefer=page.region
        )
        served = await self._pipelines.read(call.ctx, read)
        token = self._sealed(scope, served.value.next_token, served.region)
        return _json(wire.encode_ids(served.value, name, token), _read_headers(served.source))

    async def _list_namespaces(self, call: "_Call") -> web.Response:
        asked = wire.decode_list_namespaces(call.params())
        scope = call.scope("list_namespaces", call.ctx.tenant.prefix())
        page = self._opened(scope, asked.token)
        served = await self._namespaces(call, asked.prefix, asked.limit, page)
        token = self._sealed(scope, served.value.next_token, served.region)
        own = call.own(served.value)
        # An index that does not know the prefix counts everybody's, and none knows grants: nothing is said.
        is_all = len(own) == len(served.value.namespaces) and not call.ctx.tenant.grants.namespaces
        total = served.value.total_count if is_all else None
        body = wire.encode_namespaces(own, token, total)
        return _json(body, _read_headers(served.source))

    async def _describe_namespace(self, call: "_Call") -> web.Response:
        served = await self._pipelines.read(call.ctx, nearest_read.describe_namespace(call.path_namespace()))
        body = wire.encode_namespace(served.value, call.request.match_info["namespace"])
        return _json(body, _read_headers(served.source))

    async def _stats(self, call: "_Call") -> web.Response:
        """The tenant's own namespaces, counted page by page: the index's totals are everybody's."""
        await call.decoded(wire.check_stats)
        counts: dict[str, int] = {}
        page = _NoPage
        while True:
            served = await self._namespaces(call, "", STATS_PAGE, page)
            counts |= {name: info.record_count for name, info in call.own(served.value)}
            if served.value.next_token is None:
                break
            page = _Position(served.value.next_token, served.region)
        body = wire.encode_stats(counts, call.config.dimension, call.config.metric)
        return _json(body, _read_headers(served.source))

    async def _namespaces(
        self, call: "_Call", prefix: str, limit: int, page: "_Position"
    ) -> Served[NamespacePage]:
        read = nearest_read.list_namespaces(
            call.index,
            prefix=call.ctx.tenant.prefix() + prefix,
            limit=limit,
            token=page.inner,
            prefer=page.region,
        )
        return await self._pipelines.read(call.ctx, read)

    # --- Records -----------------------------------------------------------------------------

    async def _upsert_records(self, call: "_Call") -> web.Response:
        text_field = call.config.text_field
        batch = await call.decoded(lambda body: records.decode_records(body, text_field))
        done = await self._pipelines.ingest(call.ctx, TextBatch(call.path_namespace(), batch))
        headers = _write_headers(done.written) if done.written else {}
        headers["x-meridian-unchanged"] = str(done.unchanged)
        return web.Response(status=201, headers=headers)

    async def _search_records(self, call: "_Call") -> web.Response:
        request = await call.decoded(records.decode_search)
        namespace, tokens = call.path_namespace(), 0
        if request.query.inputs is not None:
            found = await self._pipelines.search(
                call.ctx,
                namespace,
                request.query.inputs.text,
                top_k=request.query.top_k,
                filter_=request.query.filter,
            )
            matches, units, tokens = found.matches, found.read_units, found.tokens
            headers = _read_headers(found.source)
            if found.degraded is not None:
                headers["x-meridian-degraded"] = str(found.degraded)
        else:
            query = request.vector_query()
            try:
                check_query(query, call.shape)
            except BadRecord as error:
                raise BadRequest(str(error), param="query") from error
            served = await self._pipelines.read(call.ctx, nearest_read.query(namespace, query))
            matches, units = served.value.matches, served.value.read_units
            headers = _read_headers(served.source)
        body = records.encode_hits(
            matches, call.config.text_field, request.fields, read_units=units, tokens=tokens
        )
        return _json(body, headers)

    # --- Control plane -----------------------------------------------------------------------

    async def _list_indexes(self, request: web.Request) -> web.Response:
        tenant = context_of(request).tenant
        mine = [self._index(name) for name in sorted(self._indexes) if tenant.may_use(name)]
        return render.json_response(api.IndexesAnswer(mine))

    async def _describe_index(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._indexes or not context_of(request).tenant.may_use(name):
            raise NotFound(f"Index {name[:60]!r} not found", code="index_not_found")
        return render.json_response(self._index(name))

    def _index(self, name: str) -> api.IndexAnswer:
        config = self._indexes[name]
        dense = api.VectorField(type="dense_vector", dimension=config.dimension, metric=config.metric)
        fields = {api.DENSE_FIELD: dense}
        if config.metric == "dotproduct":
            fields[api.SPARSE_FIELD] = api.VectorField(type="sparse_vector")
        return api.IndexAnswer(
            name=name,
            host=f"{self._public_url}/i/{name}",
            schema=api.IndexSchema(fields),
            deployment={"deployment_type": "managed", "cloud": "meridian", "region": "global"},
            dimension=config.dimension,
            metric=config.metric,
            vector_type="dense",
            spec={"serverless": {"cloud": "meridian", "region": "global"}},
        )

    # --- Pages -------------------------------------------------------------------------------

    def _opened(self, scope: Scope, token: str | None) -> "_Position":
        if token is None:
            return _NoPage
        page = self._tokens.open(scope, token)
        return _Position(page.inner, RegionId(page.region))

    def _sealed(self, scope: Scope, inner: str | None, region: RegionId) -> str | None:
        return None if inner is None else self._tokens.seal(scope, Page(inner, region))


@dataclass(frozen=True, slots=True)
class _Position:
    """Where a list goes on; None: at its beginning, in any region."""

    inner: str | None
    region: RegionId | None


_NoPage: Final = _Position(None, None)


@dataclass(frozen=True, slots=True)
class _Call:
    """A data-plane request whose tenant and index are known."""

    request: web.Request
    ctx: RequestContext
    index: IndexName
    config: IndexConfig

    @property
    def shape(self) -> VectorShape:
        return VectorShape(self.config.dimension, self.config.metric)

    async def decoded(self, decode: Callable[[bytes], T]) -> T:
        """The body, read and decoded; long ones off the event loop."""
        return await decoded(decode, await read_body(self.request))

    def params(self) -> list[tuple[str, str]]:
        return list(self.request.query.items())

    def namespace(self, name: str) -> NamespaceRef:
        return self.ctx.tenant.namespace(self.index, name)

    def path_namespace(self) -> NamespaceRef:
        return self.namespace(self.request.match_info["namespace"])

    def scope(self, call: str, namespace: str) -> Scope:
        return Scope(call, self.ctx.tenant.id, self.index, namespace)

    def own(self, page: NamespacePage) -> list[tuple[str, Any]]:
        """The page's namespaces under the tenant's names; another tenant's would be left out."""
        named = ((self.ctx.tenant.own_name(info.stored), info) for info in page.namespaces)
        return [(name, info) for name, info in named if name is not None]


async def _no_imports(_: _Call) -> web.Response:
    raise Unsupported("Bulk imports are not supported by this gateway: upsert the records instead")


async def _no_documents(_: _Call) -> web.Response:
    raise Unsupported("The documents API is not supported by this gateway: use the vectors or records API")


async def _no_control(_: web.Request) -> web.Response:
    raise Unsupported("Indexes are created and changed by the operators of this gateway, not through it")


def _control(handler: HttpHandler) -> HttpHandler:
    """The handler with its errors in the control plane's shape."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except GatewayError as error:
            return render.control_plane_error(error)

    return handle


def _json(body: bytes, headers: dict[str, str], status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")


def _read_headers(source: Source) -> dict[str, str]:
    return {**render.source_headers(source), **_lsn_headers(source.lsn, api.INDEXED_LSN_HEADER)}


def _write_headers(written: Written) -> dict[str, str]:
    headers = _lsn_headers(written.lsn, api.REQUEST_LSN_HEADER)
    if written.acked is not None:
        headers["x-meridian-acked"] = written.acked
    if written.counted_at is not None:
        headers["x-meridian-counted-lsn"] = str(written.counted_at)
    return headers


def _lsn_headers(lsn: Lsn | None, pinecone_header: str) -> dict[str, str]:
    return {} if lsn is None else {pinecone_header: str(lsn), "x-meridian-lsn": str(lsn)}
