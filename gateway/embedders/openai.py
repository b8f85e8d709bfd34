"""Any OpenAI-compatible `/embeddings` endpoint, over raw aiohttp.

Vectors are asked for as base64 (a quarter of the bytes of JSON numbers) and taken as JSON numbers too,
because not every endpoint knows base64. Answers are checked: as many as asked, each once, of the
configured dimension, finite. What the endpoint does not scale to unit length is scaled here.
"""

import asyncio
import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gateway.embedders.base import Embedded, Kind, Resolve, Vectors, to_unit
from gateway.errors import (
    BadRequest,
    GatewayError,
    Overloaded,
    UpstreamProtocolError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.wire.retry_after import retry_after_s
from regions.runtime import tracing
from regions.runtime.config_file import SecretRef

MAX_INPUTS: Final = 2048
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024  # 2,048 vectors of 3,072 numbers written as JSON
ERROR_BODY_BYTES: Final = 16 * 1024


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


def build(config: Config, name: str, resolve: Resolve) -> "OpenAIEmbedder":
    """The embedder of that section; `name` is what the configuration calls it."""
    key = resolve(config.api_key) if config.api_key is not None else None
    return OpenAIEmbedder(config, name, key)


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

    def __init__(self, config: Config, name: str, key: str | None) -> None:
        self._config, self._name = config, name
        self._url = config.base_url.rstrip("/") + "/embeddings"
        self._host = urlsplit(config.base_url).hostname or ""
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None
        self._passage_calls = 0

    @property
    def version(self) -> str:
        return version_of(self._config)

    @property
    def dimension(self) -> int:
        return self._config.dimension

    async def start(self) -> None:
        """Open the pool. The endpoint is not called: a gateway must start while it is down."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._config.connect_timeout_s),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

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
        status, headers, answer = await self._post(msgspec.json.encode(body))
        if status != 200:
            raise self._refusal(status, headers, answer)
        return self._decode(answer, len(texts))

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None:
            raise UpstreamUnavailable(f"{self._name}: not started")
        tracing.note(gen_ai__provider__name="openai", server__address=self._host)
        try:
            async with self._session.post(
                self._url,
                data=io.BytesIO(body),
                headers={**self._headers, **tracing.outgoing()},
                allow_redirects=False,
            ) as response:
                limit = MAX_ANSWER_BYTES if response.status == 200 else ERROR_BODY_BYTES
                return response.status, response.headers, await self._read(response, limit)
        except aiohttp.ServerTimeoutError as error:
            raise UpstreamUnavailable(f"{self._name}: could not be reached in time") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise UpstreamUnavailable(f"{self._name}: {type(error).__name__}: {error}") from error

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        parts, size = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > limit:
                if response.status == 200:
                    raise UpstreamProtocolError(f"{self._name}: its answer is longer than {limit} bytes")
                break
        return b"".join(parts)[:limit]

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
        message = f"{self._name}: answered {status}"
        if status in (408, 429) or status >= 500:
            return UpstreamUnavailable(message, retry_after_s=retry_after_s(headers), detail=_excerpt(body))
        return UpstreamRejected(message, status=status, body=body, detail=_excerpt(body))

    def _decode(self, body: bytes, count: int) -> Embedded:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UpstreamProtocolError(
                f"{self._name}: not an embeddings answer: {error}: {_excerpt(body)}"
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


def _excerpt(body: bytes) -> str:
    return " ".join(body[:200].decode(errors="replace").split())
