"""A gateway's records API as a tenant uses it: send text, list, find and remove records.

Refusals for load and lost connections are tried again, a bounded number of times, after what
Retry-After asks; every call here may be repeated without harm.
"""

import asyncio
import io
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

T = TypeVar("T")

ATTEMPTS: Final = 8
FIRST_BACKOFF_S: Final = 0.5
LONGEST_BACKOFF_S: Final = 20.0
TRY_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
PAGE: Final = 100
DELETE_IDS: Final = 1000


class GatewayFailed(Exception):
    """The gateway cannot be used: not reached, or it refuses this key or index altogether."""


class Refused(Exception):
    """The gateway refuses this very request; `message` is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class _Listed(msgspec.Struct, frozen=True):
    class Id(msgspec.Struct, frozen=True):
        id: str

    class Pagination(msgspec.Struct, frozen=True):
        next: str | None = None

    vectors: list[Id] = []
    pagination: Pagination | None = None


class _Fetched(msgspec.Struct, frozen=True):
    class Record(msgspec.Struct, frozen=True):
        metadata: dict[str, Any] | None = None

    vectors: dict[str, Record] = {}
    pagination: _Listed.Pagination | None = None


class GatewayClient:
    """One namespace of one index, behind one gateway. An async context manager."""

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        index: str | None,
        namespace: str,
        timeout_s: float = 120.0,
        rng: random.Random | None = None,
    ) -> None:
        self._base = url.rstrip("/") + (f"/i/{quote(index, safe='')}" if index else "")
        self._url, self._namespace = url, namespace
        self._headers = {"Api-Key": api_key}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=5.0)
        self._rng = rng or random.Random()  # noqa: S311 - jitter

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def upsert(self, lines: Sequence[bytes]) -> int:
        """Send records, each a line of JSON; how many the gateway had already, unchanged.

        Raises: Refused: one of them is not accepted, so none is written. GatewayFailed.
        """
        # "__default__" is Pinecone's name of the namespace without one, which a path cannot say.
        place = quote(self._namespace or "__default__", safe="")
        headers, _ = await self._call(
            "POST",
            f"/records/namespaces/{place}/upsert",
            body=b"".join(lines),
            headers={"Content-Type": "application/x-ndjson"},
        )
        return int(headers.get("x-meridian-unchanged", "0"))

    async def list_ids(self, prefix: str) -> AsyncIterator[str]:
        """Ids that begin with `prefix`."""
        token: str | None = None
        while True:
            params = {"namespace": self._namespace, "prefix": prefix, "limit": str(PAGE)}
            if token is not None:
                params["paginationToken"] = token
            _, body = await self._call("GET", "/vectors/list", params=params)
            page = _decode(body, _Listed)
            for each in page.vectors:
                yield each.id
            token = page.pagination.next if page.pagination else None
            if not token:
                return

    async def find(self, filter_: Mapping[str, Any]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Ids and metadata of the records that a metadata filter matches."""
        token: str | None = None
        while True:
            asked: dict[str, Any] = {"namespace": self._namespace, "filter": filter_, "limit": PAGE}
            if token is not None:
                asked["paginationToken"] = token
            _, body = await self._call("POST", "/vectors/fetch_by_metadata", body=msgspec.json.encode(asked))
            page = _decode(body, _Fetched)
            for id_, record in page.vectors.items():
                yield id_, record.metadata or {}
            token = page.pagination.next if page.pagination else None
            if not token:
                return

    async def delete(self, filter_: Mapping[str, Any]) -> None:
        """Remove what a metadata filter matches."""
        await self._delete({"filter": filter_})

    async def delete_ids(self, ids: Sequence[str]) -> None:
        """Remove records by id."""
        for at in range(0, len(ids), DELETE_IDS):
            await self._delete({"ids": list(ids[at : at + DELETE_IDS])})

    async def _delete(self, what: Mapping[str, Any]) -> None:
        body = msgspec.json.encode({"namespace": self._namespace, **what})
        await self._call("POST", "/vectors/delete", body=body)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Mapping[str, str], bytes]:
        problem = ""
        for attempt in range(ATTEMPTS):
            wait_s = self._backoff_s(attempt)
            try:
                async with self._session.request(
                    method,
                    self._base + path,
                    # As a stream: aiohttp would otherwise copy a large body in one go.
                    data=None if body is None else io.BytesIO(body),
                    params=params,
                    headers=headers or {"Content-Type": "application/json"},
                ) as response:
                    answer = await response.read()
                    if response.status < 300:
                        return response.headers, answer
                    problem = f"{response.status} {_message(answer)}"
                    if response.status not in TRY_AGAIN:
                        raise self._refusal(response.status, _message(answer))
                    wait_s = max(wait_s, _retry_after_s(response.headers))
            except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                problem = f"{type(error).__name__}: {error}"
            if attempt + 1 < ATTEMPTS:
                await asyncio.sleep(wait_s)
        raise GatewayFailed(f"{self._url} did not take it in {ATTEMPTS} attempts: {problem}")

    def _backoff_s(self, attempt: int) -> float:
        """Full jitter over a doubling bound, never below half of it."""
        bound: float = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2**attempt)
        return bound * self._rng.uniform(0.5, 1.0)

    def _refusal(self, status: int, message: str) -> Exception:
        if status in (401, 403, 404, 405):
            return GatewayFailed(f"{self._url} answers {status}: {message}")
        return Refused(status, message)


def _decode(body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise GatewayFailed(f"not an answer of a gateway: {error}") from error


def _message(body: bytes) -> str:
    """What the gateway says, from Pinecone's error body, else the body's beginning."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return " ".join(body[:200].decode(errors="replace").split())
    while isinstance(decoded, dict) and "error" in decoded:
        decoded = decoded["error"]
    return str(decoded.get("message", decoded)) if isinstance(decoded, dict) else str(decoded)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    try:
        return min(60.0, float(headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0
