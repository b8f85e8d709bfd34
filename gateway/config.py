"""The gateway's configuration: one frozen model; `config_checks` tells what no single field shows.

Every default stands beside its field with its unit and reason; the commented example, the reference
and `check-config` are generated from here. Sections named by `kind` are validated by their plug-in's
own `Config`.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gateway.catalogue import SEED_MODELS, ModelCard
from gateway.policies.blend import DENSE_WEIGHT
from gateway.policies.breaker import BreakerTerms
from gateway.policies.timers import Timers
from gateway.routes import Tier
from regions import journals, registers
from regions.runtime import plugins
from regions.runtime.config_file import SecretRef, is_reference
from regions.runtime.tracing_config import TracingConfig

MIB = 1024 * 1024


class Section(BaseModel):
    """A part of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PluginSection(BaseModel):
    """A part whose other keys belong to the plug-in named by `kind`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str = Field(description="Which plug-in; its own keys stand beside this one.")

    def own(self) -> dict[str, Any]:
        """The keys that belong to the plug-in."""
        return dict(self.__pydantic_extra__ or {})


class EmbedderConfig(PluginSection):
    fallbacks: list[PluginSection] = Field(
        default_factory=list,
        description="Other endpoints of the same model version, asked in order when this one fails.",
    )
    query_s: float = Field(
        5.0,
        gt=0,
        description="What a question may wait for one endpoint; then the next, or a search by words alone.",
    )

    def endpoints(self) -> list[PluginSection]:
        """This one, then its fallbacks."""
        return [self, *self.fallbacks]


class QueueConfig(Section):
    max_waiting: int = Field(
        256, ge=0, description="Requests that may wait for a slot in one process; beyond them 503 at once."
    )
    max_waiting_per_tenant: int = Field(64, ge=0, description="How many of those may be one tenant's.")
    wait_s: float = Field(
        1.0, ge=0, description="Longest wait for a slot, within the request's deadline; then 503."
    )


class ServerConfig(Section):
    host: str = Field("127.0.0.1", description="Address that tenants' apps reach; 0.0.0.0 in a container.")
    port: int = Field(8401, ge=1, le=65535, description="Port of both dialects.")
    operators_host: str = Field("127.0.0.1", description="Address of the operators' port; never public.")
    operators_port: int = Field(
        9401, ge=1, le=65535, description="Health and metrics; worker n listens on this plus n."
    )
    admin_key: SecretRef | None = Field(
        None,
        examples=["env:MERIDIAN_ADMIN_KEY"],
        description="What /admin on the operators' port asks for; without one it is shut.",
    )
    workers: int = Field(1, ge=1, le=64, description="Processes that share the port (SO_REUSEPORT).")
    public_url: str | None = Field(
        None, description="What GET /indexes answers as host; by default http://host:port."
    )
    body_limit_bytes: int = Field(
        8 * MIB, ge=1024, description="Larger bodies get 413; a full Pinecone upsert batch is 2 MiB."
    )
    max_in_flight: int = Field(
        1024, ge=1, description="Slots: requests at work in one process; beyond them requests queue."
    )
    queue: QueueConfig = Field(
        QueueConfig(), description="Where requests wait for a slot, and tenants take turns by weight."
    )
    deadline_s: float = Field(
        60, gt=0, le=3600, description="A request's whole time unless it or its tenant asks for less."
    )
    keepalive_s: float = Field(
        15,
        gt=0,
        description="A stream that is silent for so long sends a comment; load balancers cut at 60 s.",
    )
    write_timeout_s: float = Field(
        30, gt=0, description="A caller that takes nothing of its answer for so long is cut off."
    )
    head_timeout_s: float = Field(
        15, gt=0, description="How long a request's line and headers may take to arrive."
    )
    drain_s: float = Field(30, ge=0, description="How long SIGTERM waits for answers that are under way.")


class RedisConfig(Section):
    url: str = Field(
        examples=["redis://127.0.0.1:6379/0"],
        description="redis://, rediss:// or unix://; env:NAME or file:PATH when it holds a password.",
    )
    timeout_ms: int = Field(
        20, ge=1, le=1000, description="Each call's time, once; after that this process decides alone."
    )
    connections: int = Field(64, ge=1, le=1024, description="Of one process, at most.")
    prefix: str = Field("meridian", pattern=r"^[a-zA-Z0-9_.-]{1,64}$", description="Of every key.")

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if is_reference(url):
            return url
        if not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("is no redis://, rediss:// or unix://, and no env:NAME or file:PATH")
        if urlsplit(url).password is not None or "password=" in url:
            raise ValueError("holds a password: say where the whole URL is, as env:NAME or file:PATH")
        return url


class CacheConfig(Section):
    max_bytes: int = Field(
        64 * MIB, ge=4096, description="What the kept answers of one process may take together."
    )
    shared: bool = Field(True, description="Keep answers in redis too, for the region's other gateways.")


class TenantsConfig(Section):
    file: str = Field("tenants.yaml", description="Tenants and their key digests, beside this file.")
    pepper: SecretRef = Field(
        examples=["env:MERIDIAN_PEPPER"],
        description="Key of the digests: the file alone cannot be brute-forced.",
    )


class ReplicaConfig(PluginSection):
    region: str = Field(description="Where this copy of the index is.")


class IndexConfig(Section):
    dimension: int = Field(ge=1, le=20_000, description="Of the dense vectors; the embedder's.")
    metric: Literal["dotproduct", "cosine", "euclidean"] = Field(
        "dotproduct", description="dotproduct over unit vectors allows hybrid retrieval without re-ingestion."
    )
    embedder: str = Field(description="Name of the embedder that reads this index's text.")
    text_field: str = Field("text", description="The field of a text record that is embedded.")
    sparse: bool = Field(True, description="Write BM25-style sparse vectors beside the dense ones.")
    home: str | None = Field(
        None,
        description="The region whose log takes its writes at first; promotions move it. [first replica's]",
    )
    replicas: list[ReplicaConfig] = Field(min_length=1, description="One copy a region; the nearest serves.")


EXAMPLE_PLACES: Final = {
    region: {"log": {"kind": "jetstream", "urls": [f"nats://127.0.0.1:{port}"]}}
    for region, port in (("us-east", 4221), ("eu-west", 4222), ("ap-southeast", 4223))
}


class UpstreamConfig(PluginSection):
    model: str = Field(description="The provider's own name of the model.")
    tier: Tier = Field(
        Tier.EQUAL,
        description="equal: asked first; longer: for what fits no equal; cheaper: when no equal answers.",
    )
    weight: float = Field(1.0, gt=0, description="Its share of calls among the healthy of its tier.")
    account: str | None = Field(
        None, description="Whose rate and bill it draws on. [its endpoint and key together]"
    )

    def account_name(self, name: str) -> str:
        """Its account, by default its endpoint and key; `name` stands in where neither is told."""
        own = self.own()
        told = [str(own[key]) for key in ("base_url", "api_key") if own.get(key) is not None]
        return self.account or " ".join(told) or name


class ProviderConfig(PluginSection):
    import_models: bool = Field(
        True,
        description="Offer every model that its own list has with a price, under the provider's name for it.",
    )
    only: list[str] = Field(default_factory=list, description="Only models like these: qwen/*; empty: all.")
    prefix: str = Field("", description="What the aliases of its models begin with.")
    list_s: float = Field(
        5.0, gt=0, description="How long start-up waits for the list; then it goes on without."
    )


class TimersConfig(Section):
    first_content_s: float = Field(
        20, gt=0, description="Longest wait for the first content; keep-alive comments are none."
    )
    gap_s: float = Field(30, gt=0, description="Longest silence between two events with content.")
    min_tokens_per_s: float = Field(
        1, ge=0, description="Slower than this over rate_window_s is given up; 0 switches it off."
    )
    rate_window_s: float = Field(20, gt=0, description="What min_tokens_per_s is measured over.")
    total_s: float = Field(300, gt=0, description="Longest answer, from its request to its end.")

    def timers(self) -> Timers:
        return Timers(**self.model_dump())


class ModelConfig(Section):
    upstreams: list[UpstreamConfig] = Field(
        default_factory=list, description="Where the model is served; none means snippet answers only."
    )
    max_attempts: int = Field(3, ge=1, le=10, description="Calls of upstreams that one request may cost.")
    timers: TimersConfig = TimersConfig()
    breaker: BreakerTerms | None = Field(
        None, description="When its upstreams are left alone; by default as under breakers."
    )
    card: str | None = Field(
        None, description="Catalogue entry with price and window; by default the upstream's model name."
    )


class RagConfig(Section):
    top_k: int = Field(8, ge=1, le=100, description="Passages retrieved when the request does not say.")
    dense_weight: float = Field(
        DENSE_WEIGHT,
        ge=0,
        le=1,
        description="Dense against sparse: 1 is dense alone, which collapses off-domain.",
    )
    answer_tokens: int = Field(1024, ge=1, description="Room left for the answer when passages are packed.")


class ReadsConfig(Section):
    max_staleness_s: float = Field(
        90, gt=0, description="Older replicas are not read, unless a request accepts more or less."
    )
    wait_s: float = Field(
        1.0, ge=0, description="How long a read waits for a replica to become fresh enough for it."
    )
    attempt_s: float = Field(
        2.0, gt=0, description="A replica that is silent for so long is given up while there is another."
    )


class WritesConfig(Section):
    append_s: float = Field(
        5.0, gt=0, description="How long the home's log may take; then the write's outcome is unknown."
    )
    move_s: float = Field(
        3.0, ge=0, description="How long a write waits while its index is on its way to another home."
    )


class RegionConfig(Section):
    log: PluginSection = Field(description="The region's change log.")
    registers: PluginSection | None = Field(
        None, description="The region's registers; by default where the log is, reached in the same way."
    )

    journal: PluginSection | None = Field(
        None,
        description="The region's journals (the ledger of what models cost); by default where the log is.",
    )

    def registers_section(self) -> PluginSection:
        """What the registers are built from: without a section, those of the log's keys that both have."""
        return self.registers or self._as_the_log(registers)

    def journal_section(self) -> PluginSection:
        """What the region's journals are built from, in the same way."""
        return self.journal or self._as_the_log(journals)

    def _as_the_log(self, package: ModuleType) -> PluginSection:
        shared = {"kind": self.log.kind, **self.log.own()}
        known = {"kind", *plugins.find(package, self.log.kind).Config.model_fields}
        return PluginSection(**{name: value for name, value in shared.items() if name in known})


class ReplicatorConfig(Section):
    lease_s: float = Field(
        8, gt=0, description="A replicator that is gone is replaced after this and apply_settle_s."
    )
    call_s: float = Field(
        4, gt=0, description="What one call on an index may take; none is made that could outlive the lease."
    )
    apply_settle_s: float = Field(
        2, ge=0, description="A call without an answer takes effect within this time, or never."
    )
    calls_per_s: float = Field(
        100, gt=0, description="Calls on an index: Pinecone takes about 100 a second and namespace."
    )
    canary_every_s: float = Field(
        5,
        ge=0,
        description="Between two canaries in an index: one write, then queries until it is found; 0: none.",
    )
    operators_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        examples=[9501],
        description="Health and metrics of meridian replicate, on server.operators_host; null: none.",
    )
    tails_dir: str = Field(
        "tails", description="Where what a replaced home never shipped is saved, beside this file; writable."
    )

    @model_validator(mode="after")
    def _check(self) -> "ReplicatorConfig":
        if self.lease_s * 3 / 4 < self.call_s + 1:
            raise ValueError("call_s + 1 must not exceed 3/4 of lease_s, or nothing could ever be sent")
        return self


class LedgerConfig(Section):
    dir: str = Field(
        "ledger",
        description="Where bills wait for the journal, and `meridian cost` keeps its view; beside this file;"
        " writable, and kept from one start to the next.",
    )
    spool_bytes: int = Field(
        64_000_000,
        ge=100_000,
        description="Bills of a process that may wait there while the journal is down; one takes about 300.",
    )


class RegionsConfig(Section):
    places: dict[str, RegionConfig] = Field(
        min_length=1, examples=[EXAMPLE_PLACES], description="Every region's log, by region."
    )
    clock_skew_ms: float = Field(
        50, ge=0, description="How far the clocks of log servers may be from what is measured of them."
    )
    reads: ReadsConfig = ReadsConfig()
    writes: WritesConfig = WritesConfig()
    replicator: ReplicatorConfig = ReplicatorConfig()
    ledger: LedgerConfig = LedgerConfig()


class LogConfig(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level written.")
    format: Literal["auto", "json", "pretty"] = Field("auto", description="auto: pretty on a terminal.")


EXAMPLE_INDEXES: Final = {
    "docs": {
        "dimension": 384,
        "embedder": "minilm",
        "replicas": [{"region": "us-east", "kind": "pinecone", "url": "http://127.0.0.1:8501"}],
    }
}
EXAMPLE_MODELS: Final = {
    "meridian": {
        "upstreams": [
            {
                "kind": "openai",
                "model": "deepseek-v4-flash",
                "base_url": "https://llm.example.com/v1",
                "api_key": "env:LLM_API_KEY",
            },
            {
                "kind": "openai",
                "model": "glm-4-plus",
                "base_url": "https://llm.example.org/v1",
                "api_key": "env:OTHER_LLM_API_KEY",
                "tier": "cheaper",
            },
        ]
    }
}


class GatewayConfig(Section):
    """One gateway of one region."""

    region: str = Field(examples=["us-east"], description="The region this gateway stands in.")
    server: ServerConfig = ServerConfig()
    tenants: TenantsConfig
    indexes: dict[str, IndexConfig] = Field(
        default_factory=dict, examples=[EXAMPLE_INDEXES], description="By name."
    )
    embedders: dict[str, EmbedderConfig] = Field(
        default_factory=dict, examples=[{"minilm": {"kind": "local"}}], description="By name."
    )
    regions: RegionsConfig | None = Field(
        None,
        examples=[{"places": EXAMPLE_PLACES}],
        description="Logs and registers of all regions; without them writes go straight to one index.",
    )
    models: dict[str, ModelConfig] = Field(
        default_factory=dict, examples=[EXAMPLE_MODELS], description="By the alias tenants use."
    )
    providers: dict[str, ProviderConfig] = Field(
        default_factory=dict,
        examples=[
            {
                "global": {
                    "kind": "openai",
                    "base_url": "https://llm.example.net/v1",
                    "api_key": "env:LLM_API_KEY",
                    "only": ["qwen/*"],
                }
            }
        ],
        description="Providers whose own lists of models are taken over, so that nobody types them.",
    )
    catalogue: dict[str, ModelCard] = Field(
        default_factory=dict,
        examples=[
            {
                "our-own-model": {
                    "input_usd": 0.1,
                    "output_usd": 0.4,
                    "window_tokens": 32_000,
                    "capabilities": ["tools"],
                }
            }
        ],
        description="Prices and windows beside the built-in ones.",
    )
    redis: RedisConfig | None = Field(
        None,
        examples=[{"url": "redis://127.0.0.1:6379/0"}],
        description="What the region's gateways count limits in together; without it each counts alone.",
    )
    cache: CacheConfig = Field(
        CacheConfig(),
        description="The prompt cache; what may be kept of a tenant stands in the tenants file.",
    )
    rag: RagConfig = RagConfig()
    breakers: BreakerTerms = BreakerTerms()
    log: LogConfig = LogConfig()
    tracing: TracingConfig | None = Field(
        None,
        examples=[{"endpoint": "http://127.0.0.1:4318", "sample_ratio": 0.01}],
        description="Where gateway and replicator send their traces; without it they make none.",
    )

    def cards(self) -> Mapping[str, ModelCard]:
        """The catalogue: the built-in models, overridden by this file's."""
        return {**SEED_MODELS, **self.catalogue}

    def card_name(self, alias: str, upstream: UpstreamConfig) -> str:
        """The catalogue entry that prices an upstream of a model."""
        return self.models[alias].card or upstream.model
