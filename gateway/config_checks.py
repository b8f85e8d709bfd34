"""What no single field of the configuration shows: names that do not resolve, unknown kinds and prices.

Each check yields every problem that it finds, with its path and what to do, so that one run tells all.
"""

from collections.abc import Iterator
from types import ModuleType

from pydantic import ValidationError

from gateway import embedders, providers
from gateway.config import EmbedderConfig, GatewayConfig, PluginSection, ServerConfig
from gateway.routes import SNIPPETS, Tier
from regions import journals, logs, registers, replicas
from regions.errors import BadName, ConfigProblem
from regions.names import parse_index, parse_region
from regions.runtime import plugins
from regions.runtime.config_file import problems_of


def cross_check(config: GatewayConfig) -> list[ConfigProblem]:
    """Every problem of the configuration as a whole; [] when there is none."""
    return [
        *_check_region(config.region, "region"),
        *_check_indexes(config),
        *_check_places(config),
        *_check_plugins(config),
        *_check_models(config),
        *_check_ports(config.server),
        *_check_replicator_port(config),
    ]


def _check_region(name: str, path: str) -> Iterator[ConfigProblem]:
    try:
        parse_region(name)
    except BadName as error:
        yield ConfigProblem(path, str(error))


def _check_indexes(config: GatewayConfig) -> Iterator[ConfigProblem]:
    for name, index in config.indexes.items():
        path = f"indexes.{name}"
        try:
            parse_index(name)
        except BadName as error:
            yield ConfigProblem(path, str(error))
        if index.embedder not in config.embedders:
            known = ", ".join(sorted(config.embedders)) or "none"
            yield ConfigProblem(
                f"{path}.embedder", f"no embedder is named {index.embedder!r}", f"there are: {known}"
            )
        if index.sparse and index.metric != "dotproduct":
            yield ConfigProblem(
                f"{path}.sparse", f"sparse vectors need dotproduct, not {index.metric}", "set sparse: false"
            )
        seen: set[str] = set()
        for number, replica in enumerate(index.replicas):
            yield from _check_region(replica.region, f"{path}.replicas.{number}.region")
            if replica.region in seen:
                yield ConfigProblem(
                    f"{path}.replicas.{number}.region", f"{replica.region} has a replica already"
                )
            seen.add(replica.region)


def _check_places(config: GatewayConfig) -> Iterator[ConfigProblem]:
    """Every region that is spoken of has a log, so that it can follow, be home, and be judged."""
    if config.regions is None:
        for name, index in config.indexes.items():
            if index.home is not None:
                yield ConfigProblem(
                    f"indexes.{name}.home", "means nothing without logs", "describe them under regions"
                )
        return
    places = config.regions.places
    known = f"there are: {', '.join(sorted(places))}"
    for region in places:
        yield from _check_region(region, f"regions.places.{region}")
    if config.region not in places:
        yield ConfigProblem("region", f"{config.region} is not under regions.places", known)
    for name, index in config.indexes.items():
        for number, replica in enumerate(index.replicas):
            if replica.region not in places:
                yield ConfigProblem(
                    f"indexes.{name}.replicas.{number}.region", f"{replica.region} has no log", known
                )
        if index.home is not None and index.home not in {replica.region for replica in index.replicas}:
            yield ConfigProblem(
                f"indexes.{name}.home", f"the index has no replica in {index.home}", "a home needs one"
            )


def _check_plugins(config: GatewayConfig) -> Iterator[ConfigProblem]:
    for name, embedder in config.embedders.items():
        yield from _check_embedder(embedder, f"embedders.{name}")
    for name, index in config.indexes.items():
        for number, replica in enumerate(index.replicas):
            yield from _check_plugin(replicas, replica, f"indexes.{name}.replicas.{number}")
    for region, place in (config.regions.places if config.regions else {}).items():
        yield from _check_plugin(logs, place.log, f"regions.places.{region}.log")
        if place.registers is not None:
            yield from _check_plugin(registers, place.registers, f"regions.places.{region}.registers")
        if place.journal is not None:
            yield from _check_plugin(journals, place.journal, f"regions.places.{region}.journal")
    for name, provider in config.providers.items():
        yield from _check_plugin(providers, provider, f"providers.{name}")
    for alias, model in config.models.items():
        for number, upstream in enumerate(model.upstreams):
            yield from _check_plugin(providers, upstream, f"models.{alias}.upstreams.{number}")


def _check_embedder(config: EmbedderConfig, path: str) -> Iterator[ConfigProblem]:
    """Endpoints stand in for each other only when their vectors can be compared."""
    places = [path, *(f"{path}.fallbacks.{number}" for number in range(len(config.fallbacks)))]
    problems = [
        problem
        for section, place in zip(config.endpoints(), places, strict=True)
        for problem in _check_plugin(embedders, section, place)
    ]
    yield from problems
    if problems:
        return
    meant, *others = (_version(section) for section in config.endpoints())
    for number, other in enumerate(others):
        if other != meant:
            yield ConfigProblem(
                f"{path}.fallbacks.{number}",
                f"is of version {other}, the embedder is of {meant}: their vectors cannot be compared",
                "name an endpoint of the same model, or set the same version for both",
            )


def _version(section: PluginSection) -> str:
    """What vectors of that embedder's endpoint can be compared with."""
    module = plugins.find(embedders, section.kind)
    version: str = module.version_of(module.Config(**section.own()))
    return version


def _check_plugin(package: ModuleType, section: PluginSection, path: str) -> Iterator[ConfigProblem]:
    try:
        plugins.find(package, section.kind).Config(**section.own())
    except plugins.UnknownKind as error:
        yield ConfigProblem(f"{path}.kind", f"no such kind: {section.kind!r}", f"there are: {error.known}")
    except ValidationError as error:
        yield from problems_of(error, prefix=path)


def _check_models(config: GatewayConfig) -> Iterator[ConfigProblem]:
    cards = config.cards()
    if SNIPPETS in config.models:
        yield ConfigProblem(f"models.{SNIPPETS}", "this name is taken: it answers with excerpts")
    for alias, model in config.models.items():
        if model.upstreams and all(upstream.tier is not Tier.EQUAL for upstream in model.upstreams):
            yield ConfigProblem(f"models.{alias}.upstreams", "none is of the tier 'equal'", "one has to be")
        for number, upstream in enumerate(model.upstreams):
            name = config.card_name(alias, upstream)
            if name not in cards:
                yield ConfigProblem(
                    f"models.{alias}.upstreams.{number}.model",
                    f"no price is known for {name!r}",
                    f"add it under catalogue, or name a known one in models.{alias}.card",
                )


def _check_replicator_port(config: GatewayConfig) -> Iterator[ConfigProblem]:
    port, server = config.regions and config.regions.replicator.operators_port, config.server
    taken = (server.port, *range(server.operators_port, server.operators_port + server.workers))
    if port in taken:
        yield ConfigProblem("regions.replicator.operators_port", f"{port} is a port of the gateway's already")


def _check_ports(server: ServerConfig) -> Iterator[ConfigProblem]:
    last = server.operators_port + server.workers - 1
    if last > 65535:
        yield ConfigProblem("server.operators_port", f"the last worker would need port {last}")
    if server.operators_port <= server.port <= last and server.host == server.operators_host:
        yield ConfigProblem("server.port", f"falls among the operators' ports {server.operators_port}-{last}")
