"""Any OpenAI-compatible chat endpoint, over raw aiohttp: pooled connections, events relayed as bytes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
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
from regions.runtime.config_file import SecretRef

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
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
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._config.connect_timeout_s),
            auto_decompress=True,
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
            text = await self._read(response, _ERROR_BODY_BYTES)
            raise UpstreamProtocolError(
                f"{self._name}: answered a stream with {response.content_type}: {_excerpt(text)}"
            )
        events = self._events(response) if stream else self._whole(response)
        return await first_content(events, self._closer(response))

    async def _post(self, body: bytes) -> aiohttp.ClientResponse:
        if self._session is None:
            raise UpstreamUnavailable(f"{self._name}: not started")
        try:
            return await self._session.post(
                self._url, data=body, headers=self._headers, allow_redirects=False
            )
        except TimeoutError as error:
            raise UpstreamUnavailable(f"{self._name}: could not be reached in time") from error
        except aiohttp.ClientError as error:
            raise UpstreamUnavailable(f"{self._name}: {type(error).__name__}: {error}") from error

    async def _refusal(self, response: aiohttp.ClientResponse) -> GatewayError:
        body = await self._read(response, _ERROR_BODY_BYTES)
        status = response.status
        message = f"{self._name}: answered {status}: {_excerpt(body)}"
        if status == 429 or status >= 500:
            return UpstreamUnavailable(message, retry_after_s=_retry_after_s(response))
        return UpstreamRejected(message, status=status, body=body)

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
                raise UpstreamUnavailable(f"{self._name}: broke off inside its answer: {error}") from error
            if not part:
                return
            yield part

    async def _whole(self, response: aiohttp.ClientResponse) -> AsyncIterator[ChatEvent]:
        body = await self._read(response, MAX_ANSWER_BYTES)
        if response.content_type != "application/json":
            raise UpstreamProtocolError(
                f"{self._name}: answered with {response.content_type}: {_excerpt(body)}"
            )
        yield wire.decode_chunk(body, body)

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[ChatEvent]:
        splitter = sse.SseSplitter()
        is_finished = False
        try:
            async for part in self._bytes(response):
                for raw in splitter.feed(part):
                    data = sse.data_of(raw)
                    if data == b"[DONE]":
                        break
                    if data is not None:
                        event = wire.decode_chunk(data, raw)
                        is_finished = is_finished or event.finish_reason is not None
                        yield event
                else:
                    continue
                break
        except sse.EventTooLong as error:
            raise UpstreamProtocolError(f"{self._name}: {error}") from error
        except UpstreamUnavailable:
            # Everything that matters had come: a missing [DONE] is no loss.
            if not is_finished:
                raise
        if not is_finished:
            raise UpstreamProtocolError(f"{self._name}: its answer ended without a finish_reason")

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


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    with contextlib.suppress(ValueError):
        if "retry-after-ms" in response.headers:
            return float(response.headers["retry-after-ms"]) / 1000
        if "Retry-After" in response.headers:
            return float(response.headers["Retry-After"])
    return None


def _excerpt(body: bytes) -> str:
    return " ".join(body[:200].decode(errors="replace").split())
