"""Any OpenAI-compatible `/embeddings` endpoint, over raw aiohttp.

Vectors are asked for as base64 (a quarter of the bytes of JSON numbers) and taken as JSON numbers too,
because not every endpoint knows base64. Answers are checked: as many as asked, each once, of the
configured dimension, finite. What the endpoint does not scale to unit length is scaled here. Errors mean
what they mean of an LLM's endpoint, and a call that is given up is ended there at once.
"""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
import msgspec
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gateway.embedders.base import Embedded, Kind, Resolve, Vectors, to_unit
from gateway.errors import BadRequest, GatewayError, Overloaded, UpstreamProtocolError, UpstreamTimeout
from gateway.upstream_http import UpstreamHttp, leave, upstream_http
from gateway.wire import refusals
from gateway.wire.provider_names import provider_of
from regions.runtime import tracing
from regions.runtime.config_file import SecretRef

MAX_INPUTS: Final = 2048
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024  # 2,048 vectors of 3,072 numbers written as JSON
DECODED_ON_THE_LOOP: Final = 64 * 1024
"""Bytes; a few vectors, which is what a question's answer has."""


class Config(BaseModel):
    """An embeddings endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(pattern=r"^https?://", description="Up to and including /v1.")
    model: str = Field(min_length=1, description="The endpoint's own name of the model.")
    dimension: int = Field(ge=1, le=20_000, description="Of the model's vectors; answers are checked.")
    api_key: SecretRef | None = Field(None, description="Sent as a bearer token.")
    ask_dimension: bool = Field(False, description="Send `dimensions`: for models that can shorten theirs.")
    version: str | None = Field(
        None,
        pattern=r"^[!-~]+$",
        description="Change it when the endpoint's vectors change; by default model@dimension.",
    )
    batch_size: int = Field(
        MAX_INPUTS, ge=1, le=MAX_INPUTS, description="Texts a call; some endpoints take fewer than OpenAI's."
    )
    max_in_flight: int = Field(16, ge=1, description="Passage calls at once; 503 for calls that would wait.")
    connect_timeout_s: float = Field(3.0, gt=0, description="To reach the endpoint, TLS included.")
    ca_file: SecretRef | None = Field(
        None, description="PEM of the authorities trusted for this endpoint, instead of the system's."
    )


def build(config: Config, name: str, resolve: Resolve) -> "OpenAIEmbedder":
    """The embedder of that section; `name` is what the configuration calls it.

    Raises: ConfigError: `ca_file` holds no certificate.
    """
    key = resolve(config.api_key) if config.api_key is not None else None
    http = upstream_http(name, config.connect_timeout_s, config.ca_file, resolve)
    return OpenAIEmbedder(config, name, key, http)


def version_of(config: Config) -> str:
    """The version of the endpoint's vectors."""
    return config.version or f"{config.model}@{config.dimension}"


class _Datum(msgspec.Struct, frozen=True):
    index: int
    embedding: str | list[float]


class _Usage(msgspec.Struct, frozen=True):
    total_tokens: int = 0


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Datum]
    usage: _Usage | None = None


class OpenAIEmbedder:
    """One model at one endpoint."""

    def __init__(self, config: Config, name: str, key: str | None, http: UpstreamHttp) -> None:
        self._config, self._name, self._http = config, name, http
        self._url = config.base_url.rstrip("/") + "/embeddings"
        self._peer = {"gen_ai.provider.name": provider_of(config.base_url), **tracing.peer(config.base_url)}
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._passage_calls = 0

    @property
    def version(self) -> str:
        return version_of(self._config)

    @property
    def dimension(self) -> int:
        return self._config.dimension

    async def start(self) -> None:
        """Open the pool. The endpoint is not called: a gateway must start while it is down."""
        await self._http.start()

    async def close(self) -> None:
        await self._http.close()

    async def embed(self, texts: Sequence[str], *, kind: Kind, timeout_s: float) -> Embedded:
        """See `Embedder.embed`. Batches go one after the other: the caller's order, and no burst."""
        if not texts or not all(texts):
            raise BadRequest("there is no text to embed: the input or a part of it is empty", param="input")
        # Questions always go: what is bounded is how much of the endpoint ingestion takes.
        is_counted = kind == "passage"
        if is_counted and self._passage_calls >= self._config.max_in_flight:
            raise Overloaded(f"{self._name}: {self._passage_calls} passage calls under way", retry_after_s=1)
        self._passage_calls += is_counted
        try:
            async with asyncio.timeout(timeout_s):
                size = self._config.batch_size
                parts = [await self._call(texts[at : at + size]) for at in range(0, len(texts), size)]
        except TimeoutError as error:
            raise UpstreamTimeout(f"{self._name}: no answer within {timeout_s:.1f} s") from error
        finally:
            self._passage_calls -= is_counted
        return Embedded(np.concatenate([part.vectors for part in parts]), sum(part.tokens for part in parts))

    async def _call(self, texts: Sequence[str]) -> Embedded:
        body: dict[str, object] = {
            "model": self._config.model,
            "input": list(texts),
            "encoding_format": "base64",
        }
        if self._config.ask_dimension:
            body["dimensions"] = self._config.dimension
        answer = await self._post(msgspec.json.encode(body))
        if len(answer) <= DECODED_ON_THE_LOOP:
            return self._decode(answer, len(texts))
        return await asyncio.to_thread(self._decode, answer, len(texts))

    async def _post(self, body: bytes) -> bytes:
        """The body of a good answer."""
        tracing.note(self._peer)
        response = await self._http.post(self._url, {**self._headers, **tracing.outgoing()}, body)
        try:
            if response.status != 200:
                told = await self._http.refusal(response)
                raise refusals.of_response(self._name, response.status, response.headers, told)
            return await self._whole(response)
        finally:
            leave(response)

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for part in self._http.body(response):
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise UpstreamProtocolError(
                    f"{self._name}: its answer is longer than {MAX_ANSWER_BYTES} bytes"
                )
        return bytes(body)

    def _decode(self, body: bytes, count: int) -> Embedded:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _told_inside(body) or UpstreamProtocolError(
                f"{self._name}: its answer holds no embeddings", detail=f"{error}: {refusals.excerpt(body)}"
            ) from error
        if sorted(datum.index for datum in answer.data) != list(range(count)):
            raise UpstreamProtocolError(
                f"{self._name}: {len(answer.data)} vectors for {count} texts, or not each index once"
            )
        vectors = np.empty((count, self.dimension), np.float32)
        for datum in answer.data:
            vectors[datum.index] = self._vector(datum.embedding)
        if not np.isfinite(vectors).all():
            raise UpstreamProtocolError(f"{self._name}: a vector is not finite")
        return Embedded(to_unit(vectors), answer.usage.total_tokens if answer.usage else 0)

    def _vector(self, embedding: str | list[float]) -> Vectors:
        """(dimension,) float32 of one answer: base64 of little-endian float32, or numbers."""
        try:
            raw = base64.b64decode(embedding, validate=True) if isinstance(embedding, str) else b""
            vector = np.frombuffer(raw, "<f4") if raw else np.asarray(embedding, np.float32)
        except (binascii.Error, ValueError) as error:
            raise UpstreamProtocolError(f"{self._name}: a vector is not base64 of float32") from error
        if vector.shape != (self.dimension,):
            raise UpstreamProtocolError(
                f"{self._name}: vectors of {vector.size} numbers, configured are {self.dimension}"
            )
        return vector


def _told_inside(body: bytes) -> GatewayError | None:
    """The error of a known kind that a 200 tells of, if it does."""
    try:
        told = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return None if told is None else refusals.in_answer(told, body)
