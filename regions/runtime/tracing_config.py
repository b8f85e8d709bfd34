"""The configuration of tracing, the same for gateway, replicator and node; and how a process takes it up."""

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from regions.runtime.config_file import SecretRef
from regions.runtime.tracing import Tracer

Tell = Callable[[str], None]


class TracingConfig(BaseModel):
    """Where traces go, and which."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(
        examples=["http://127.0.0.1:4318"],
        description="The collector's OTLP/HTTP address; without a path, /v1/traces.",
    )
    headers: dict[str, SecretRef] = Field(
        default_factory=dict,
        examples=[{"authorization": "env:OTLP_AUTHORIZATION"}],
        description="Sent with every export.",
    )
    service_name: str = Field(
        "meridian", min_length=1, description="Shown as …-gateway, …-replicator, …-node."
    )
    sample_ratio: float = Field(
        0.01, ge=0, le=1, description="Of the traces that begin here; errors, degraded and slow come on top."
    )
    slow_s: float = Field(10.0, gt=0, description="What takes so long is kept, whether sampled or not.")
    late_per_s: float = Field(
        100, ge=1, description="Traces a second kept for an error, a degraded answer or their slowness."
    )
    follow_callers: bool = Field(
        True, description="Sample what a caller's traceparent says is sampled; false: our ratio alone."
    )
    queue_spans: int = Field(
        4096, ge=1, description="Spans that wait for the collector; what comes beyond is dropped, counted."
    )
    timeout_s: float = Field(5.0, gt=0, description="One export, its repetitions included.")
    export_every_s: float = Field(1.0, gt=0, description="How long spans are gathered for one export.")

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must look like http://host:4318 or https://host/path")
        return value

    def url(self) -> str:
        """The address that spans are sent to."""
        bare = self.endpoint.rstrip("/")
        return self.endpoint if urlsplit(bare).path else f"{bare}/v1/traces"


class SpanCounts(Protocol):
    """Spans since the start, by what became of them."""

    @property
    def exported(self) -> int: ...

    @property
    def full(self) -> int: ...

    @property
    def failed(self) -> int: ...


class Tracing:
    """A process's tracer, if it has one, and what became of its spans."""

    def __init__(self, tracer: Tracer | None = None, counts: SpanCounts | None = None) -> None:
        self.tracer, self._counts = tracer, counts

    def spans(self) -> Iterator[tuple[str, int]]:
        """(what became of them, how many), since the start; nothing where nothing is traced."""
        if self._counts is not None:
            yield "exported", self._counts.exported
            yield "queue_full", self._counts.full
            yield "not_taken", self._counts.failed
        if self.tracer is not None:
            yield "over_rate", self.tracer.over_rate


@asynccontextmanager
async def tracing_as(
    config: TracingConfig | None,
    role: str,
    *,
    resolve: Callable[[SecretRef], str],
    resource: Mapping[str, str],
    tell: Tell,
) -> AsyncIterator[Tracing]:
    """Tracing as configured, until the block ends. `role` is gateway, replicator or node.

    `tell` is called from another thread: `traces_not_taken` when the collector goes away, `traces_taken`
    when it is back.
    Raises: ConfigError: a header's secret cannot be used.
    """
    if config is None:
        yield Tracing()
        return
    from regions.runtime.otlp import exporting

    headers = {name: resolve(ref) for name, ref in config.headers.items()}
    named = {
        "service.namespace": config.service_name,
        "service.name": f"{config.service_name}-{role}",
        "service.instance.id": f"{socket.gethostname()}/{os.getpid()}",
    }
    async with exporting(config, headers, {**named, **resource}, tell) as (tracer, sink):
        yield Tracing(tracer, sink.counts)
