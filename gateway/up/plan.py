"""What one region on loopback consists of: places, ports, and the files that say so.

Pure: every path and port is decided here, from values that are handed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.up.indexes import Shape
from gateway.up.llm import Llm

HOST: Final = "127.0.0.1"
FIRST_PORT: Final = 8401
"""The gateway's; the operators' stands 1000 above, the node's 100 and the model's 200 above."""

INDEX: Final = "docs"
NAMESPACE: Final = "corpus"
SHAPE: Final = Shape(dimension=384, metric="dotproduct", sparse=True)
TENANT: Final = "demo000000000001"
MODEL: Final = "meridian"


@dataclass(frozen=True, slots=True)
class Ports:
    """Of one region; all on loopback."""

    gateway: int
    operators: int
    node: int
    llm: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One region: where its files are and its processes listen."""

    region: str
    home: Path
    ports: Ports

    @property
    def gateway_url(self) -> str:
        return f"http://{HOST}:{self.ports.gateway}"

    @property
    def operators_url(self) -> str:
        return f"http://{HOST}:{self.ports.operators}"

    @property
    def node_url(self) -> str:
        return f"http://{HOST}:{self.ports.node}"

    @property
    def replica_url(self) -> str:
        """The node's own address of the index, which it tells whoever asks for the index's host."""
        return f"{self.node_url}/i/{INDEX}"

    @property
    def node_data(self) -> Path:
        return self.home / self.region / "node"

    @property
    def gateway_file(self) -> Path:
        return self.home / self.region / "gateway.yaml"

    def log(self, name: str) -> Path:
        """Where a process of the region writes what it says."""
        return self.home / self.region / "logs" / f"{name}.log"


def gateway_config(plan: Plan, llm: Llm) -> dict[str, Any]:
    """The gateway's configuration file, as plain values."""
    config: dict[str, Any] = {
        "region": plan.region,
        "server": {"port": plan.ports.gateway, "operators_port": plan.ports.operators, "drain_s": 1},
        "tenants": {"file": str(plan.home / "tenants.yaml"), "pepper": f"file:{plan.home / 'pepper'}"},
        "embedders": {"minilm": {"kind": "local"}},
        "indexes": {
            INDEX: {
                "dimension": SHAPE.dimension,
                "metric": SHAPE.metric,
                "sparse": SHAPE.sparse,
                "embedder": "minilm",
                "replicas": [{"region": plan.region, "kind": "pinecone", "url": plan.replica_url}],
            }
        },
        "models": {MODEL: {"upstreams": [dict(upstream) for upstream in llm.upstreams]}},
        "log": {"format": "json"},
    }
    if llm.is_local:  # it reads some hundred tokens a second, and loses its way among many passages
        config["rag"] = {"top_k": 2, "answer_tokens": 128}
    if llm.cards:
        config["catalogue"] = {name: dict(card) for name, card in llm.cards.items()}
    return config


def tenants_file(digest: str) -> Mapping[str, Any]:
    """One tenant, whose plain calls mean the bundled corpus."""
    return {
        "tenants": [
            {
                "id": TENANT,
                "name": "demo",
                "keys": [{"digest": digest, "label": "meridian up"}],
                "defaults": {"index": INDEX, "namespace": NAMESPACE},
            }
        ]
    }
