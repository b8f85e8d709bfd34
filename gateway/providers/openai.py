"""Any OpenAI-compatible chat endpoint, over raw aiohttp: pooled connections, events relayed as bytes.

What holds: a pooled connection that the endpoint had already closed costs one silent repetition, if no
byte of an answer had come; nothing else is repeated here. What is held back or collected is bounded,
and an answer that never pauses lets other requests run. The endpoint's own words go to operators
(`detail`), and to the caller only where the request itself was refused: they may name our account.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Final

import aiohttp
from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import (
    GatewayError,
    UpstreamProtocolError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.messages import ChatEvent, ChatRequest
from gateway.providers.base import OpenedAnswer, Resolve
from gateway.wire import openai as wire
from gateway.wire import sse
from gateway.wire.retry_after import retry_after_s
from regions.runtime.config_file import SecretRef

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_STREAM_BYTES: Final = 64 * 1024 * 1024
"""A streamed token comes in some 200 bytes of frame: room for the longest answers there are."""
_EVENTS_A_TURN: Final = 64
"""Events of one burst before other requests get the loop: about 5 ms of work."""
_MAX_HEAD_EVENTS: Final = 64
_ERROR_BODY_BYTES: Final = 16 * 1024


class Config(BaseModel):
    """An endpoint of the dialect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(pattern=r"^https?://", description="Up to and including /v1.")
    api_key: SecretRef | None = Field(None, description="Sent as a bearer token.")
    connect_timeout_s: float = Field(3.0, gt=0, description="To reach the endpoint, TLS included.")
    gap_timeout_s: float = Field(30.0, gt=0, description="Longest silence inside an answer.")


def build(config: Config, name: str, model: str, resolve: Resolve) -> "OpenAIProvider":
    """The provider of one upstream."""
    key = resolve(config.api_key) if config.api_key is not None else None
    return OpenAIProvider(config, name, model, key)


class OpenAIProvider:
    """One model at one endpoint."""

    def __init__(self, config: Config, name: str, model: str, key: str | None) -> None:
        self._config, self._name, self._model = config, name, model
        self._url = config.base_url.rstrip("/") + "/chat/completions"
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        # No limit on connections: in-flight requests are bounded at the edge, and a pool that is full
        # would queue where nobody sees it.
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._config.connect_timeout_s),
            auto_decompress=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def open(self, request: ChatRequest, *, stream: bool, timeout_s: float) -> OpenedAnswer:
        body = wire.encode_chat(
            request.fields, model=self._model, messages=request.fields["messages"], stream=stream
        )
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._post(body)
                try:
                    return await self._opened(response, stream)
                except BaseException:
                    response.close()
                    raise
        except TimeoutError as error:
            raise UpstreamTimeout(f"{self._name}: no content within {timeout_s:.1f} s") from error

    async def _opened(self, response: aiohttp.ClientResponse, stream: bool) -> OpenedAnswer:
        if response.status != 200:
            raise await self._refusal(response)
        if stream and response.content_type != "text/event-stream":
            raise UpstreamProtocolError(f"{self._name}: answered a stream with {response.content_type}")
        events = self._events(response) if stream else self._whole(response)
        return await first_content(events, self._closer(response))

    async def _post(self, body: bytes) -> aiohttp.ClientResponse:
        if self._session is None:
            raise UpstreamUnavailable(f"{self._name}: not started")
        try:
            try:
                return await self._send(self._session, body)
            except _StaleConnection:
                return await self._send(self._session, body)
        except TimeoutError as error:
            raise UpstreamUnavailable(f"{self._name}: could not be reached in time") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise UpstreamUnavailable(
                f"{self._name}: could not be reached", detail=f"{type(error).__name__}: {error}"[:300]
            ) from error

    async def _send(self, session: aiohttp.ClientSession, body: bytes) -> aiohttp.ClientResponse:
        seen = SimpleNamespace(reused=False)
        try:
            return await session.post(
                self._url,
                data=io.BytesIO(body),
                headers={**self._headers, "Content-Length": str(len(body))},
                allow_redirects=False,
                trace_request_ctx=seen,
            )
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if seen.reused and not isinstance(error, aiohttp.ClientConnectorError):
                raise _StaleConnection(str(error)) from error
            raise

    async def _refusal(self, response: aiohttp.ClientResponse) -> GatewayError:
        body = await self._read(response, _ERROR_BODY_BYTES)
        status = response.status
        message = f"{self._name}: answered {status}"
        if status in (408, 429) or status >= 500:
            wait_s = retry_after_s(response.headers)
            return UpstreamUnavailable(message, retry_after_s=wait_s, detail=_excerpt(body))
        refused = UpstreamRejected(message, status=status, body=body)
        if not refused.is_callers:  # what is said of a caller's request may repeat it, and is not logged
            refused.detail = _excerpt(body)
        return refused

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        parts, size = [], 0
        async for part in self._bytes(response):
            parts.append(part)
            size += len(part)
            if size > limit:
                break
        return b"".join(parts)[:limit]

    async def _bytes(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises: UpstreamTimeout, UpstreamUnavailable: it stalled or broke off."""
        while True:
            try:
                async with asyncio.timeout(self._config.gap_timeout_s):
                    part = await response.content.readany()
            except TimeoutError as error:
                gap_s = self._config.gap_timeout_s
                raise UpstreamTimeout(f"{self._name}: silent for {gap_s:.1f} s inside its answer") from error
            except (aiohttp.ClientError, ConnectionError) as error:
                raise UpstreamUnavailable(
                    f"{self._name}: broke off inside its answer", detail=str(error)[:300]
                ) from error
            if not part:
                return
            yield part

    async def _whole(self, response: aiohttp.ClientResponse) -> AsyncIterator[ChatEvent]:
        body = await self._read(response, MAX_ANSWER_BYTES)
        if response.content_type != "application/json":
            raise UpstreamProtocolError(f"{self._name}: answered with {response.content_type}")
        yield wire.decode_chunk(body, body)

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[ChatEvent]:
        """Events up to [DONE]. An answer is complete once every choice that began was finished.

        What goes wrong after that is no loss: a missing [DONE], a connection that hangs or breaks.
        """
        begun, unfinished = set[int](), set[int]()
        try:
            async for raw in self._raw_events(response):
                data = sse.data_of(raw)
                if data == b"[DONE]":
                    break
                if data is not None:
                    event = wire.decode_chunk(data, raw)
                    wire.open_choices(event, unfinished, begun)
                    yield event
        except (UpstreamUnavailable, UpstreamTimeout):
            if unfinished or not begun:
                raise
        if unfinished or not begun:
            raise UpstreamProtocolError(f"{self._name}: its answer ended without a finish_reason")

    async def _raw_events(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        splitter, size, count = sse.SseSplitter(), 0, 0
        async for part in self._bytes(response):
            size += len(part)
            if size > MAX_STREAM_BYTES:
                raise UpstreamProtocolError(
                    f"{self._name}: its answer is longer than {MAX_STREAM_BYTES} bytes"
                )
            try:
                events = splitter.feed(part)
            except sse.EventTooLong as error:
                raise UpstreamProtocolError(f"{self._name}: {error}") from error
            for raw in events:
                count += 1
                if count % _EVENTS_A_TURN == 0:
                    await asyncio.sleep(0)
                yield raw
            await asyncio.sleep(0)  # a buffer that is never empty never waits by itself

    def _closer(self, response: aiohttp.ClientResponse) -> Callable[[], Awaitable[None]]:
        async def close() -> None:
            # An answer read to its end gives its connection back; any other is aborted, because a
            # half-read one would go on downloading.
            if not response.content.at_eof():
                response.close()
            response.release()

        return close


async def first_content(
    events: AsyncIterator[ChatEvent], close: Callable[[], Awaitable[None]]
) -> OpenedAnswer:
    """Wait for the first event that a caller would notice, or the one that ends the answer."""
    head: list[ChatEvent] = []
    async for event in events:
        head.append(event)
        if event.is_content or event.finish_reason is not None:
            return OpenedAnswer(head, events, close)
        if len(head) > _MAX_HEAD_EVENTS:
            raise UpstreamProtocolError(f"{_MAX_HEAD_EVENTS} events, and none with content")
    raise UpstreamProtocolError("an answer without any content")


class _StaleConnection(aiohttp.ClientError):
    """A pooled connection turned out to be closed before any byte of an answer."""


async def _note_reuse(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.reused = True


def _excerpt(body: bytes) -> str:
    return " ".join(body[:200].decode(errors="replace").split())
