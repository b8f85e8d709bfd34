"""What a node is given."""

import ipaddress
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from regions.runtime.tracing_config import TracingConfig

BODY_LIMIT: Final = 8 << 20
"""Above Pinecone's 2 MB, so that a body that is a little too big is answered and not cut off."""


class NodeConfig(BaseModel):
    """How one node runs. Secrets come resolved: whoever reads the configuration file follows references."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65_535)
    """0 takes a free port; the ready line says which."""

    api_key: SecretStr | None = None
    """None: no key is asked for."""

    public_url: str | None = None
    """How clients reach this node, when not by `host` and `port`; part of every index's `host`."""

    visibility_delay_ms: int = Field(default=0, ge=0, le=600_000)
    """A write is acknowledged at once and seen by reads so much later, as on Pinecone."""

    memory_limit_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Bound on loaded namespaces; those in use stay, whatever their size."""

    search_threads: int = Field(default=2, ge=1, le=64)
    max_in_flight: int = Field(default=512, ge=1)
    """Requests beyond this are refused with 503 at once."""

    ready_file: Path | None = None
    """Written, with the same JSON as the ready line, once the port is open."""

    tracing: TracingConfig | None = None
    """Where traces go; paths of its secrets are as seen from the working directory."""

    @property
    def is_ipv6(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).version == 6
        except ValueError:
            return False

    def url(self, port: int) -> str:
        """Where clients find the node once it listens on `port`."""
        host = f"[{self.host}]" if self.is_ipv6 else self.host
        return self.public_url or f"http://{host}:{port}"
