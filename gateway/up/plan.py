"""What regions on loopback consist of: places, ports, delays, and the files that say so.

Pure. Every port is decided from the first one; `A` counts the regions, from 0:

    first + A        gateway            first + 300       the relay's control port
    first + 1000 + A operators          first + 301 ...   its doors, two for each way between two regions
    first + 100 + A  node               first + 400       the local model
    first + 200 + A  log server

A region reaches another one's log and node through doors of the relay, which keeps the distance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from gateway.up.indexes import Shape
from gateway.up.keys import ADMIN_KEY
from gateway.up.llm import Llm
from regions.runtime.relay import Door, RelayConfig

HOST: Final = "127.0.0.1"
FIRST_PORT: Final = 8401

INDEX: Final = "docs"
NAMESPACE: Final = "corpus"
SHAPE: Final = Shape(dimension=384, metric="dotproduct", sparse=True)
TENANT: Final = "demo000000000001"
MODEL: Final = "meridian"

REGIONS: Final = ("us-east", "eu-west", "ap-southeast")
RTT_MS: Final = {
    frozenset(("us-east", "eu-west")): 80.0,
    frozenset(("us-east", "ap-southeast")): 220.0,
    frozenset(("eu-west", "ap-southeast")): 160.0,
}
OTHER_RTT_MS: Final = 100.0
"""Between regions of other names."""


@dataclass(frozen=True, slots=True)
class Place:
    """One region: where its files are and its processes listen."""

    region: str
    home: Path
    first_port: int
    number: int

    @property
    def gateway_port(self) -> int:
        return self.first_port + self.number

    @property
    def operators_port(self) -> int:
        return self.first_port + 1000 + self.number

    @property
    def node_port(self) -> int:
        return self.first_port + 100 + self.number

    @property
    def log_port(self) -> int:
        return self.first_port + 200 + self.number

    @property
    def gateway_url(self) -> str:
        return f"http://{HOST}:{self.gateway_port}"

    @property
    def operators_url(self) -> str:
        return f"http://{HOST}:{self.operators_port}"

    @property
    def node_url(self) -> str:
        return f"http://{HOST}:{self.node_port}"

    def replica_url(self, index: str = INDEX) -> str:
        """The node's own address of an index, which it tells whoever asks for the index's host."""
        return f"{self.node_url}/i/{index}"

    @property
    def folder(self) -> Path:
        return self.home / self.region

    @property
    def node_data(self) -> Path:
        return self.folder / "index"

    @property
    def log_data(self) -> Path:
        return self.folder / "log"

    @property
    def gateway_file(self) -> Path:
        return self.folder / "gateway.yaml"

    def said(self, name: str) -> Path:
        """Where a process of the region writes what it says."""
        return self.folder / "logs" / f"{name}.log"


@dataclass(frozen=True, slots=True)
class Plan:
    """All regions and how far they are from each other.

    `homes` is the home region of each index; by default that of the only one is the first region.
    """

    home: Path
    regions: Sequence[str]
    rtt_ms: Mapping[frozenset[str], float]
    first_port: int = FIRST_PORT
    homes: Mapping[str, str] = field(default_factory=dict)

    @property
    def places(self) -> list[Place]:
        return [Place(name, self.home, self.first_port, n) for n, name in enumerate(self.regions)]

    @property
    def relay_port(self) -> int:
        """Where the relay is told to cut and heal."""
        return self.first_port + 300

    @property
    def model_port(self) -> int:
        return self.first_port + 400

    @property
    def relay_file(self) -> Path:
        return self.home / "relay.json"

    @property
    def indexes(self) -> Mapping[str, str]:
        """The home region of each index."""
        return self.homes or {INDEX: self.regions[0]}

    def ports(self) -> list[int]:
        """Every port that something is to listen on."""
        own = [(p.gateway_port, p.operators_port, p.node_port, p.log_port) for p in self.places]
        relay = [self.relay_port, *(door.port for door in self.relay().doors)] if self.has_relay else []
        return [port for four in own for port in four] + relay + [self.model_port]

    @property
    def has_relay(self) -> bool:
        return len(self.regions) > 1

    def relay(self) -> RelayConfig:
        """The relay's file: a link for each two regions, with half their round trip as its delay."""
        delays = {link(*pair): self._rtt(*pair) / 2 for pair in combinations(self.regions, 2)}
        ways = [(here, there) for here in self.places for there in self.places if here != there]
        doors = [
            Door(port, to_port, link(here.region, there.region))
            for here, there in ways
            for port, to_port in (
                (self._door(here, there), there.log_port),
                (self._door(here, there) + 1, there.node_port),
            )
        ]
        return RelayConfig(self.relay_port, delays, doors)

    def log_url(self, here: Place, there: Place) -> str:
        """The log server of `there`, as it is reached from `here`."""
        port = there.log_port if here == there else self._door(here, there)
        return f"nats://{HOST}:{port}"

    def replica_url(self, here: Place, there: Place, index: str = INDEX) -> str:
        """An index of `there`, as it is reached from `here`."""
        if here == there:
            return there.replica_url(index)
        return f"http://{HOST}:{self._door(here, there) + 1}/i/{index}"

    def _door(self, here: Place, there: Place) -> int:
        return self.first_port + 301 + 2 * (here.number * len(self.regions) + there.number)

    def _rtt(self, one: str, other: str) -> float:
        return self.rtt_ms.get(frozenset((one, other)), OTHER_RTT_MS)


def link(one: str, other: str) -> str:
    """What the relay calls the link between two regions."""
    return "--".join(sorted((one, other)))


def links_of(region: str, regions: Sequence[str]) -> list[str]:
    """The links that a region hangs on."""
    return [link(region, other) for other in regions if other != region]


def parse_rtt(text: str, regions: Sequence[str]) -> dict[frozenset[str], float]:
    """Round trips from `80` (every one) or `us-east:eu-west=80,…` (these; the others as by default), in ms.

    Raises: ValueError: it is neither, names a region that there is not, or is outside 0 to 10,000.
    """
    if "=" not in text:
        return {frozenset(pair): _ms(text) for pair in combinations(regions, 2)}
    return RTT_MS | dict(_parse_rtts(text, regions))


def _parse_rtts(text: str, regions: Sequence[str]) -> Iterator[tuple[frozenset[str], float]]:
    for part in text.split(","):
        names, _, ms = part.partition("=")
        pair = frozenset(name.strip() for name in names.split(":"))
        if len(pair) != 2 or not pair <= set(regions):
            raise ValueError(f"{names.strip()!r} is no pair of the regions {', '.join(regions)}")
        yield pair, _ms(ms)


def _ms(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 10_000:
        raise ValueError(f"{text.strip()} ms is outside 0 to 10,000")
    return value


def gateway_config(plan: Plan, place: Place, llm: Llm) -> dict[str, Any]:
    """The configuration file of a region's gateway and replicator, as plain values."""
    config: dict[str, Any] = {
        "region": place.region,
        "server": {
            "port": place.gateway_port,
            "operators_port": place.operators_port,
            "admin_key": f"file:{plan.home / ADMIN_KEY}",
            "drain_s": 1,
        },
        "tenants": {"file": str(plan.home / "tenants.yaml"), "pepper": f"file:{plan.home / 'pepper'}"},
        "embedders": {"minilm": {"kind": "local"}},
        "indexes": {
            index: {
                "dimension": SHAPE.dimension,
                "metric": SHAPE.metric,
                "sparse": SHAPE.sparse,
                "embedder": "minilm",
                "home": home,
                "replicas": [
                    {"region": there.region, "kind": "pinecone", "url": plan.replica_url(place, there, index)}
                    for there in plan.places
                ],
            }
            for index, home in plan.indexes.items()
        },
        "regions": {
            "places": {
                there.region: {"log": {"kind": "jetstream", "urls": [plan.log_url(place, there)]}}
                for there in plan.places
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


def tenants_file(digest: str, index: str = INDEX) -> Mapping[str, Any]:
    """One tenant, whose plain calls mean the bundled corpus."""
    return {
        "tenants": [
            {
                "id": TENANT,
                "name": "demo",
                "keys": [{"digest": digest, "label": "meridian up"}],
                "defaults": {"index": index, "namespace": NAMESPACE},
            }
        ]
    }
