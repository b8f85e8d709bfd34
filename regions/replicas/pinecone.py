"""A replica behind Pinecone's HTTP API: Pinecone itself, or the embedded node.

Bytes in, bytes out over one pooled aiohttp session; a body is encoded once and an answer decoded once
(155 µs of CPU a query where the official SDK takes 1,850). What holds:

* Every call gives up within its `timeout_s`, and within `connect_timeout_s` when nobody answers.
* A pooled connection that the server had already closed costs one silent repetition, if no byte of an
  answer had come and the call is idempotent. Nothing else is repeated here: that is for who has a budget.
* 429, 408, 5xx, a broken connection and an answer that is no JSON mean `ReplicaUnavailable`; so do 401
  and 403, because the key is ours and another replica has another one, and a read's 404, because it is the
  index that is gone. Every other status is `ReplicaRejected`, in the index's own words.

Source: Pinecone's API reference 2026-07; aiohttp's client of 3.14 repeats idempotent methods only, and
all writes here are POST.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator
from yarl import URL

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
from regions.errors import ReplicaAhead, ReplicaError, ReplicaRejected, ReplicaUnavailable
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import NO_LSN, Lsn, parse_lsn
from regions.records import Metadata, Query, jsonable
from regions.replicas.base import (
    Applied,
    Fetched,
    IdPage,
    IndexInfo,
    NamespaceInfo,
    NamespacePage,
    QueryResult,
)
from regions.runtime import tracing
from regions.runtime.config_file import SecretRef

T = TypeVar("T")

MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
"""A thousand vectors of 20,000 numbers written as JSON, the longest that Pinecone gives."""
LONGEST_WAIT_S: Final = 3600.0
"""Nobody waits longer, whatever an index asks."""
_UNAVAILABLE: Final = frozenset({401, 403, 408, 429})
_WRITE_LSN: Final = (api.REQUEST_LSN_HEADER, "x-pinecone-lsn-committed")
_NOTHING: Final[Metadata] = {"_m.dry": ""}
"""What a dry run would write: Pinecone wants some metadata even where nothing is changed."""
_READ_LSN: Final = (api.INDEXED_LSN_HEADER, "x-pinecone-lsn-reconciled")


class Config(BaseModel):
    """Where the index answers, and with which key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(description="The index's host: https://… on Pinecone, http://… of a node.")
    api_key: SecretRef | None = Field(None, description="Pinecone's key; a node without keys needs none.")
    api_version: str = Field(api.API_VERSION, description="Sent as X-Pinecone-Api-Version.")
    connect_timeout_s: float = Field(
        2.0, gt=0, description="A region that does not even accept is given up early."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must look like https://host or http://host:port/path")
        return value.rstrip("/")


def build(
    config: Config, *, index: IndexName, region: RegionId, resolve: Callable[[SecretRef], str]
) -> "PineconeReplica":
    """The replica; it opens its session at the first call."""
    key = resolve(config.api_key) if config.api_key is not None else None
    return PineconeReplica(config, index=index, region=region, api_key=key)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Any
    body: bytes


class PineconeReplica:
    """`regions.replicas.base.Replica` over HTTP."""

    def __init__(
        self,
        config: Config,
        *,
        index: IndexName,
        region: RegionId,
        api_key: str | None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._base, self._index, self.region = config.url, index, region
        self._peer = tracing.peer(config.url)
        self._connect_timeout_s = config.connect_timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._headers = {api.API_VERSION_HEADER: config.api_version, "Content-Type": "application/json"}
        if api_key is not None:
            self._headers[api.API_KEY_HEADER] = api_key
        self._opened: aiohttp.ClientSession | None = None
        self._incarnation: str | None = None

    @property
    def index(self) -> IndexName:
        return self._index

    @property
    def incarnation(self) -> str | None:
        return self._incarnation

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    # --- Writes ------------------------------------------------------------------------------

    async def apply(
        self, namespace: NamespaceRef, change: Change, *, timeout_s: float, position: Lsn | None = None
    ) -> Applied:
        method, path, body, idempotent = _request_of(namespace.stored, change)
        answer = await self._call(
            method,
            path,
            body,
            timeout_s=timeout_s,
            namespace=namespace,
            idempotent=idempotent,
            position=position,
        )
        matched: int | None = None
        if isinstance(change, UpdateByFilter):
            matched = _decoded(answer.body, api.UpdateAnswer).matched_records
        return Applied(lsn=_lsn(answer.headers, _WRITE_LSN), matched=matched)

    async def count_matching(
        self, namespace: NamespaceRef, filter_: dict[str, Any], *, timeout_s: float
    ) -> Applied:
        request = api.UpdateRequest(
            namespace=namespace.stored, filter=filter_, set_metadata=_NOTHING, dry_run=True
        )
        answer = await self._ask(
            "POST", "/vectors/update", _encoded(request), timeout_s=timeout_s, namespace=namespace
        )
        matched = _decoded(answer.body, api.UpdateAnswer).matched_records
        return Applied(lsn=_lsn(answer.headers, _WRITE_LSN), matched=matched)

    # --- Reads -------------------------------------------------------------------------------

    async def query(self, namespace: NamespaceRef, query: Query, *, timeout_s: float) -> QueryResult:
        body = _encoded(msgspec.structs.replace(query, namespace=namespace.stored))
        answer = await self._ask("POST", "/query", body, timeout_s=timeout_s, namespace=namespace)
        decoded = _decoded(answer.body, api.QueryAnswer)
        return QueryResult(decoded.matches, _lsn(answer.headers, _READ_LSN), _units(decoded.usage))

    async def fetch(self, namespace: NamespaceRef, ids: Sequence[str], *, timeout_s: float) -> Fetched:
        params = [("ids", id_) for id_ in ids] + [("namespace", namespace.stored)]
        answer = await self._ask(
            "GET", f"/vectors/fetch?{urlencode(params)}", timeout_s=timeout_s, namespace=namespace
        )
        decoded = _decoded(answer.body, api.FetchAnswer)
        return Fetched(decoded.vectors, _lsn(answer.headers, _READ_LSN), _units(decoded.usage))

    async def fetch_by_metadata(
        self,
        namespace: NamespaceRef,
        filter_: dict[str, Any],
        *,
        limit: int,
        token: str | None,
        timeout_s: float,
    ) -> Fetched:
        request = api.FetchByMetadataRequest(
            filter=filter_, namespace=namespace.stored, limit=limit, pagination_token=token
        )
        answer = await self._ask(
            "POST", "/vectors/fetch_by_metadata", _encoded(request), timeout_s=timeout_s, namespace=namespace
        )
        decoded = _decoded(answer.body, api.FetchByMetadataAnswer)
        return Fetched(
            decoded.vectors,
            _lsn(answer.headers, _READ_LSN),
            _units(decoded.usage),
            _next(decoded.pagination),
        )

    async def list_ids(
        self, namespace: NamespaceRef, *, prefix: str, limit: int, token: str | None, timeout_s: float
    ) -> IdPage:
        params = _page_params(prefix, limit, token) | {"namespace": namespace.stored}
        answer = await self._ask(
            "GET", f"/vectors/list?{urlencode(params)}", timeout_s=timeout_s, namespace=namespace
        )
        decoded = _decoded(answer.body, api.ListAnswer)
        return IdPage([v.id for v in decoded.vectors], _next(decoded.pagination), _units(decoded.usage))

    async def describe(self, *, timeout_s: float) -> IndexInfo:
        answer = await self._ask("POST", "/describe_index_stats", b"{}", timeout_s=timeout_s)
        decoded = _decoded(answer.body, api.StatsAnswer)
        return IndexInfo(decoded.dimension or 0, decoded.metric or "", decoded.total_vector_count)

    async def list_namespaces(
        self, *, prefix: str, limit: int, token: str | None, timeout_s: float
    ) -> NamespacePage:
        params = urlencode(_page_params(prefix, limit, token))
        answer = await self._ask("GET", f"/namespaces?{params}", timeout_s=timeout_s)
        decoded = _decoded(answer.body, api.NamespacesAnswer)
        return NamespacePage(
            [_namespace_info(n) for n in decoded.namespaces], _next(decoded.pagination), decoded.total_count
        )

    async def describe_namespace(self, namespace: NamespaceRef, *, timeout_s: float) -> NamespaceInfo:
        answer = await self._call(
            "GET", _namespace_path(namespace.stored), timeout_s=timeout_s, namespace=namespace
        )
        return _namespace_info(_decoded(answer.body, api.NamespaceAnswer))

    # --- Transport ---------------------------------------------------------------------------

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout_s: float,
        namespace: NamespaceRef | None = None,
    ) -> _Answer:
        """A question that a namespace which does not exist would not be refused: what lacks is the index."""
        try:
            return await self._call(method, path, body, timeout_s=timeout_s, namespace=namespace)
        except ReplicaRejected as error:
            if error.status != 404:
                raise
            raise ReplicaUnavailable(f"{self._name()} is not there: {error.message}") from error

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout_s: float,
        namespace: NamespaceRef | None = None,
        idempotent: bool = True,
        position: Lsn | None = None,
    ) -> _Answer:
        if tracing.current() is None:
            return await self._called(method, path, body, timeout_s, idempotent, position)
        operation = operation_of(method, path)
        attributes: tracing.Attributes = {
            "db.system.name": "pinecone",
            "db.collection.name": self._index,
            "db.operation.name": operation,
            **self._peer,
            "meridian.replica": self.region,
        }
        if namespace is not None:
            attributes["db.namespace"] = namespace.stored
        with tracing.span(f"{operation} {self._index}", tracing.Kind.CLIENT, attributes):
            return await self._called(method, path, body, timeout_s, idempotent, position)

    async def _called(
        self,
        method: str,
        path: str,
        body: bytes | None,
        timeout_s: float,
        idempotent: bool,
        position: Lsn | None,
    ) -> _Answer:
        url = URL(self._base + path, encoded=True)
        headers = dict(tracing.outgoing())
        if position is not None:
            headers[api.APPLY_HEADER] = str(position)
        timeout = aiohttp.ClientTimeout(total=None, connect=min(timeout_s, self._connect_timeout_s))
        try:
            async with asyncio.timeout(timeout_s):  # one clock for both sendings
                try:
                    answer = await self._send(method, url, body, headers, timeout)
                except _StaleConnection:
                    if not idempotent:
                        raise
                    answer = await self._send(method, url, body, headers, timeout)
        except TimeoutError as error:
            raise ReplicaUnavailable(f"{self._name()} did not answer in {timeout_s:.3g} s") from error
        except aiohttp.ClientError as error:
            may_land = not isinstance(error, aiohttp.ClientConnectorError)
            raise ReplicaUnavailable(
                f"{self._name()} cannot be reached: {error}", may_land=may_land
            ) from error
        tracing.note({"db.response.status_code": str(answer.status)})
        if answer.status >= 400:
            raise self._failure(answer)
        self._incarnation = answer.headers.get(api.INCARNATION_HEADER)
        return answer

    async def _send(
        self,
        method: str,
        url: URL,
        body: bytes | None,
        headers: dict[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> _Answer:
        seen = SimpleNamespace(reused=False)
        try:
            async with self._session().request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                trace_request_ctx=seen,
            ) as response:
                return _Answer(response.status, response.headers, await self._read(response))
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if seen.reused and not isinstance(error, aiohttp.ClientConnectorError):
                raise _StaleConnection(str(error)) from error
            raise

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for part in response.content.iter_any():
            body += part
            if len(body) > self._max_answer_bytes:
                raise ReplicaUnavailable(f"{self._name()} answers more than {self._max_answer_bytes} bytes")
        return bytes(body)

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_note_reuse)
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ttl_dns_cache=30),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[trace],
            )
        return self._opened

    def _failure(self, answer: _Answer) -> ReplicaError:
        if answer.status == 409 and api.POSITION_HEADER in answer.headers:
            return ReplicaAhead(_lsn(answer.headers, (api.POSITION_HEADER,)) or NO_LSN)
        code, message = _reason(answer)
        if answer.status >= 500 or answer.status in _UNAVAILABLE:
            return ReplicaUnavailable(
                f"{self._name()} answered {answer.status}: {message}",
                _retry_after_s(answer.headers),
                may_land=answer.status >= 500 or answer.status == 408,
            )
        return ReplicaRejected(answer.status, code, message)

    def _name(self) -> str:
        return f"the replica of {self._index} in {self.region}"


class _StaleConnection(aiohttp.ClientError):
    """A pooled connection turned out to be closed before any byte of an answer."""


async def _note_reuse(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.reused = True


def operation_of(method: str, path: str) -> str:
    """What a call does, in a word: the end of its path, or what is done to a namespace."""
    family, _, name = path.partition("?")[0].removeprefix("/").partition("/")
    if family != "namespaces":
        return name or family
    if method == "GET":
        return "describe_namespace" if name else "list_namespaces"
    return "delete_namespace" if name else "create_namespace"


def _request_of(stored: str, change: Change) -> tuple[str, str, bytes | None, bool]:
    """Method, path, body of a change, and whether doing it twice equals doing it once."""
    match change:
        case Upsert():
            return "POST", "/vectors/upsert", _encoded(api.UpsertRequest(change.records, stored)), True
        case Update():
            update = api.UpdateRequest(
                namespace=stored,
                id=change.id,
                values=change.values,
                sparse_values=change.sparse_values,
                set_metadata=change.set_metadata,
            )
            return "POST", "/vectors/update", _encoded(update), True
        case UpdateByFilter():
            update = api.UpdateRequest(
                namespace=stored, filter=change.filter, set_metadata=change.set_metadata
            )
            return "POST", "/vectors/update", _encoded(update), True
        case Delete():
            return _delete(api.DeleteRequest(namespace=stored, ids=change.ids))
        case DeleteByFilter():
            return _delete(api.DeleteRequest(namespace=stored, filter=change.filter))
        case DeleteAll():
            return _delete(api.DeleteRequest(namespace=stored, delete_all=True))
        case CreateNamespace():
            create = api.CreateNamespaceRequest(name=stored, schema=change.schema)
            return "POST", "/namespaces", _encoded(create), False
        case DropNamespace():
            return "DELETE", _namespace_path(stored), None, False


def _delete(request: api.DeleteRequest) -> tuple[str, str, bytes, bool]:
    return "POST", "/vectors/delete", _encoded(request), True


def _namespace_path(stored: str) -> str:
    return f"/namespaces/{quote(stored, safe='')}"


def _page_params(prefix: str, limit: int, token: str | None) -> dict[str, str | int]:
    params: dict[str, str | int] = {"limit": limit}
    if prefix:
        params["prefix"] = prefix
    if token is not None:
        params["paginationToken"] = token
    return params


def _encoded(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value, enc_hook=jsonable)


def _decoded(body: bytes, type_: type[T]) -> T:
    """Raises: ReplicaUnavailable: a success that is not in Pinecone's dialect, such as an HTML page."""
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReplicaUnavailable(f"the replica's answer is not Pinecone's: {error}") from error


def _reason(answer: _Answer) -> tuple[int, str]:
    """Code and message of a refusal; plain text stands for itself."""
    try:
        told = msgspec.json.decode(answer.body, type=api.DataPlaneError)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = answer.body[:300].decode("utf-8", "replace").strip()
        return 0, text or f"status {answer.status}"
    return told.code, told.message


def _retry_after_s(headers: Any) -> float | None:
    """Seconds, however many digits are sent; None for a date, which is by a clock that is not ours."""
    text = headers.get("Retry-After", "")
    return min(float(text), LONGEST_WAIT_S) if text.isascii() and text.isdigit() else None


def _lsn(headers: Any, names: Sequence[str]) -> Lsn | None:
    """The position told by the first header that is there; None when the index tells none."""
    for name in names:
        text = headers.get(name)
        if text is not None:
            try:
                return parse_lsn(text)
            except ValueError as error:
                raise ReplicaUnavailable(f"the replica's {name} is unreadable: {error}") from error
    return None


def _units(usage: api.Usage | None) -> int:
    return usage.read_units if usage is not None else 0


def _next(pagination: api.Pagination | None) -> str | None:
    return (pagination.next or None) if pagination is not None else None


def _namespace_info(answer: api.NamespaceAnswer) -> NamespaceInfo:
    return NamespaceInfo(
        stored=answer.name,
        record_count=answer.count,
        size_bytes=None if answer.size_bytes is None else int(answer.size_bytes),
        schema=answer.schema,
        indexed_fields=None if answer.indexed_fields is None else answer.indexed_fields.fields,
    )
