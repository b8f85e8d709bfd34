"""HTTP to one endpoint of a model: pooled connections, a bounded wait to reach it, an end at once when left.

What holds: a pooled connection that the endpoint had already closed costs one silent repetition, if no
byte of an answer had come; nothing else is repeated here. A connection that is given up before its answer
was read is aborted, also while the answer's head is awaited: after a mere close, TLS would wait for the
other side, under uvloop up to 30 s, and go on downloading meanwhile.
"""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp.connector import Connection

from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from regions.errors import ConfigError, ConfigProblem
from regions.runtime.config_file import SecretRef

KEEP_ALIVE_S: Final = 60.0
LOOK_S: Final = 0.5
"""How often a silent body is looked after: aiohttp 3.14 closes a connection over a malformed chunk without a
word to who is reading."""
ERROR_BODY_BYTES: Final = 16 * 1024
_ERROR_BODY_S: Final = 2.0
"""For the words of a refusal whose status is known already."""


def upstream_http(
    name: str, connect_timeout_s: float, ca_file: SecretRef | None, resolve: Callable[[SecretRef], str]
) -> "UpstreamHttp":
    """Raises: ConfigError: `ca_file` holds no certificate."""
    ca = resolve(ca_file) if ca_file is not None else None
    try:
        return UpstreamHttp(name, connect_timeout_s=connect_timeout_s, ca=ca)
    except (OSError, ValueError) as error:
        problem = ConfigProblem(str(ca_file), "holds no certificate in PEM", "-----BEGIN CERTIFICATE-----")
        raise ConfigError("ca_file", [problem]) from error


class UpstreamHttp:
    """Connections to one endpoint. `name` is said in errors; `ca` (PEM) replaces the usual authorities."""

    def __init__(self, name: str, *, connect_timeout_s: float, ca: str | None = None) -> None:
        self._name, self._connect_timeout_s = name, connect_timeout_s
        self._tls: ssl.SSLContext | bool = True if ca is None else ssl.create_default_context(cadata=ca)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        # No limit on connections: in-flight requests are bounded at the edge, and a pool that is full
        # would queue where nobody sees it.
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
            response_class=_AbortedWhenLeft,
            # Compression would hold tokens back until a block of them is full.
            headers={"Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> aiohttp.ClientResponse:
        """The answer's head; whoever takes it calls `leave`.

        Raises: UpstreamUnavailable: not reached. UpstreamProtocolError: what came is no HTTP.
        """
        if self._session is None:
            raise UpstreamUnavailable(f"{self._name}: not started")
        try:
            try:
                return await self._send(self._session, url, headers, body)
            except _StaleConnection:
                return await self._send(self._session, url, headers, body)
        except aiohttp.ServerTimeoutError as error:
            raise UpstreamUnavailable(f"{self._name}: could not be reached in time") from error
        except aiohttp.ClientResponseError as error:
            raise UpstreamProtocolError(
                f"{self._name}: its answer is no HTTP", detail=error.message[:300]
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnavailable(
                f"{self._name}: could not be reached", detail=f"{type(error).__name__}: {error}"[:300]
            ) from error

    async def get(self, url: str, headers: Mapping[str, str], *, max_bytes: int) -> bytes:
        """The whole body of a 200. Raises: as `post`; UpstreamUnavailable: another status."""
        if self._session is None:
            raise UpstreamUnavailable(f"{self._name}: not started")
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    raise UpstreamUnavailable(f"{self._name}: {url} answered {response.status}")
                body = bytearray()
                async for part in self.body(response):
                    body += part
                    if len(body) > max_bytes:
                        raise UpstreamProtocolError(f"{self._name}: an answer of more than {max_bytes} bytes")
                return bytes(body)
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnavailable(
                f"{self._name}: could not be reached", detail=f"{type(error).__name__}: {error}"[:300]
            ) from error

    async def _send(
        self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        seen = SimpleNamespace(reused=False)
        try:
            return await session.post(
                url,
                data=io.BytesIO(body),
                headers={**headers, "Content-Length": str(len(body))},
                allow_redirects=False,
                trace_request_ctx=seen,
            )
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if seen.reused and _came_to_nothing(error):
                raise _StaleConnection(str(error)) from error
            raise

    async def body(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises: UpstreamUnavailable: broken off. UpstreamProtocolError: no HTTP."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    part = await response.content.readany()
            except TimeoutError:
                if not _is_lost(response):
                    continue
                raise UpstreamProtocolError(f"{self._name}: its answer stopped being HTTP") from None
            except (aiohttp.ClientError, OSError) as error:
                raise UpstreamUnavailable(
                    f"{self._name}: broke off inside its answer", detail=str(error)[:300]
                ) from error
            if not part:
                return
            yield part

    async def refusal(self, response: aiohttp.ClientResponse) -> bytes:
        """What a refusal says: as much of its body as comes soon, up to `ERROR_BODY_BYTES`."""
        body = bytearray()
        try:
            async with asyncio.timeout(_ERROR_BODY_S):
                async for part in self.body(response):
                    body += part
                    if len(body) > ERROR_BODY_BYTES:
                        break
        except (TimeoutError, UpstreamUnavailable, UpstreamProtocolError):
            pass  # the status says more than how its explanation ended
        return bytes(body[:ERROR_BODY_BYTES])


def _is_lost(response: aiohttp.ClientResponse) -> bool:
    """Whether nothing more can come of an answer that is not at its end."""
    connection = response.connection
    return connection is not None and (connection.transport is None or connection.transport.is_closing())


def leave(response: aiohttp.ClientResponse) -> None:
    """Done with an answer: one that was read to its end gives its connection back, any other ends it."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


class _AbortedWhenLeft(aiohttp.ClientResponse):
    """An answer whose connection is aborted rather than closed."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        try:
            return await super().start(connection)
        except BaseException:
            _abort(connection)
            raise

    def close(self) -> None:
        if self.connection is not None:
            _abort(self.connection)
        super().close()


def _abort(connection: Connection) -> None:
    if connection.transport is not None:
        connection.transport.abort()


def _came_to_nothing(error: aiohttp.ClientError) -> bool:
    """Whether a connection that was up ended before any byte of an answer."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it is the part of a head that came
    return not isinstance(error, aiohttp.ClientConnectorError)


class _StaleConnection(aiohttp.ClientError):
    """A pooled connection turned out to be closed before any byte of an answer."""


async def _note_reuse(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.reused = True
