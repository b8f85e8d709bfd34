"""Any OpenAI-compatible chat endpoint: events relayed in the bytes they came in.

What is held back or collected is bounded, and an answer that never pauses lets other requests run. The
endpoint's own words go to operators (`detail`), and to the caller only where the request itself was refused:
they may name our account. What counts as an answer:

* Streams end with [DONE], or with every choice that was asked for finished: a missing [DONE] after that is no
  loss, nor is what goes wrong with the connection. Without either, the answer was cut.
* A whole completion as JSON, where a stream was asked, is taken as a stream of one event: it is complete and
  paid for. An HTML page, or JSON that is no completion, is an error.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import aiohttp
from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.messages import ChatEvent, ChatRequest
from gateway.providers.base import OpenedAnswer, Resolve
from gateway.upstream_http import UpstreamHttp, leave, upstream_http
from gateway.wire import openai as wire
from gateway.wire import rate_limits, refusals, sse
from gateway.wire.provider_names import provider_of
from gateway.wire.rate_limits import RateLimits
from regions.runtime import tracing
from regions.runtime.config_file import SecretRef

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_STREAM_BYTES: Final = 64 * 1024 * 1024
"""A streamed token comes in some 200 bytes of frame: room for the longest answers there are."""
MAX_HEAD_EVENTS: Final = 1024
"""Before the first content; some endpoints send an empty event a second to keep a connection open."""
MAX_HEAD_BYTES: Final = 1024 * 1024
_EVENTS_A_TURN: Final = 64
"""Events of one burst before other requests get the loop: about 5 ms of work."""
_DRAIN_S: Final = 0.1
"""For the end of a body after [DONE]: read to it, the connection serves another request."""


class Config(BaseModel):
    """An endpoint of the dialect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(pattern=r"^https?://", description="Up to and including /v1.")
    api_key: SecretRef | None = Field(None, description="Sent as a bearer token.")
    connect_timeout_s: float = Field(3.0, gt=0, description="To reach the endpoint, TLS included.")
    ca_file: SecretRef | None = Field(
        None, description="PEM of the authorities trusted for this endpoint, instead of the system's."
    )


def build(config: Config, name: str, model: str, resolve: Resolve) -> "OpenAIProvider":
    """The provider of one upstream. Raises: ConfigError: `ca_file` holds no certificate."""
    key = resolve(config.api_key) if config.api_key is not None else None
    http = upstream_http(name, config.connect_timeout_s, config.ca_file, resolve)
    return OpenAIProvider(config.base_url, name, model, key, http)


async def list_models(config: Config, name: str, resolve: Resolve) -> bytes:
    """The endpoint's own list of models. Raises: UpstreamUnavailable, UpstreamProtocolError; ConfigError."""
    key = resolve(config.api_key) if config.api_key is not None else None
    headers = {"Accept": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    http = upstream_http(name, config.connect_timeout_s, config.ca_file, resolve)
    await http.start()
    try:
        url = config.base_url.rstrip("/") + "/models"
        return await http.get(url, headers, max_bytes=MAX_ANSWER_BYTES)
    finally:
        await http.close()


class OpenAIProvider:
    """One model at one endpoint."""

    def __init__(self, base_url: str, name: str, model: str, key: str | None, http: UpstreamHttp) -> None:
        self._name, self._model, self._http = name, model, http
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._peer = {"gen_ai.provider.name": provider_of(base_url), **tracing.peer(base_url)}
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"

    async def start(self) -> None:
        await self._http.start()

    async def close(self) -> None:
        await self._http.close()

    async def open(self, request: ChatRequest, *, stream: bool, timeout_s: float) -> OpenedAnswer:
        body = wire.encode_chat(
            request.fields, model=self._model, messages=request.fields["messages"], stream=stream
        )
        try:
            async with asyncio.timeout(timeout_s):
                tracing.note(self._peer)
                headers = {**self._headers, **tracing.outgoing()}
                response = await self._http.post(self._url, headers, body)
                try:
                    return await self._opened(response, stream, request.choices)
                except BaseException:
                    leave(response)
                    raise
        except TimeoutError as error:
            raise UpstreamTimeout(f"{self._name}: no content within {timeout_s:.1f} s") from error

    async def _opened(self, response: aiohttp.ClientResponse, stream: bool, choices: int) -> OpenedAnswer:
        if response.status != 200:
            told = await self._http.refusal(response)
            raise refusals.of_response(self._name, response.status, response.headers, told)
        kind = response.content_type
        if stream and kind == "text/event-stream":
            events = self._events(response, choices)
        elif kind == "application/json":
            events = self._whole(response, as_stream=stream)
        else:
            asked = "a stream" if stream else "JSON"
            raise UpstreamProtocolError(f"{self._name}: answered with {kind} where {asked} was asked")

        async def close() -> None:
            leave(response)

        return await first_content(events, close, rate_limits.read(response.headers))

    async def _whole(self, response: aiohttp.ClientResponse, *, as_stream: bool) -> AsyncIterator[ChatEvent]:
        """The only event of an answer in one piece; every choice in it is finished."""
        body = bytearray()
        async for part in self._http.body(response):
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise UpstreamProtocolError(f"{self._name}: an answer of more than {MAX_ANSWER_BYTES} bytes")
        event = wire.decode_chunk(bytes(body), bytes(body))
        begun, unfinished = set[int](), set[int]()
        wire.open_choices(event, unfinished, begun)
        if unfinished or not begun:
            raise self._cut()
        yield wire.as_chunk(event) if as_stream else event

    async def _events(self, response: aiohttp.ClientResponse, choices: int) -> AsyncIterator[ChatEvent]:
        """Events up to [DONE], or to the end of an answer that is complete without."""
        begun, unfinished = set[int](), set[int]()
        try:
            async for raw in self._raw_events(response):
                data = sse.data_of(raw)
                if data is None:
                    continue
                if data.strip() == b"[DONE]":
                    if unfinished or not begun:
                        raise self._cut()
                    await self._drain(response)
                    return
                event = wire.decode_chunk(data, raw)
                wire.open_choices(event, unfinished, begun)
                yield event
        except UpstreamUnavailable:
            if response.content.exception() is None or unfinished or len(begun) < choices:
                raise
        if unfinished or len(begun) < choices:
            raise self._cut()

    async def _raw_events(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        splitter, size, count = sse.SseSplitter(), 0, 0
        async for part in self._http.body(response):
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
        for raw in splitter.end():
            yield raw

    async def _drain(self, response: aiohttp.ClientResponse) -> None:
        """Read the end of the body, if that is all that is left of it."""
        try:
            async with asyncio.timeout(_DRAIN_S):
                await response.content.readany()
        except (TimeoutError, aiohttp.ClientError, OSError):
            return  # the answer is complete: only its connection is lost

    def _cut(self) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"{self._name}: its answer ended without a finish_reason")


async def first_content(
    events: AsyncIterator[ChatEvent],
    close: Callable[[], Awaitable[None]],
    limits: RateLimits | None = None,
) -> OpenedAnswer:
    """Wait for the first event that a caller would notice, or the one that ends the answer."""
    head: list[ChatEvent] = []
    size = 0
    async for event in events:
        head.append(event)
        size += len(event.raw or b"")
        if event.is_content or event.finish_reason is not None:
            return OpenedAnswer(head, events, close, limits)
        if len(head) > MAX_HEAD_EVENTS or size > MAX_HEAD_BYTES:
            raise UpstreamProtocolError(f"{len(head)} events of {size} bytes, and none with content")
    raise UpstreamProtocolError("an answer without any content")
