"""A gateway's configuration in, its region's replicator out: the composition root of `meridian replicate`.

The same file as the gateway's, so that the two never disagree on what a region consists of.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from gateway import connect
from gateway.config import GatewayConfig, RegionsConfig
from gateway.edge import operators
from gateway.edge.connection import Patience, serving
from gateway.logs import make_logger
from gateway.replicator_telemetry import ReplicatorTelemetry
from gateway.span_metrics import SpanMetrics
from regions import replicas
from regions.errors import ConfigError, ConfigProblem
from regions.fences import Fences
from regions.live import Live, Place
from regions.names import IndexName, RegionId
from regions.replicas.base import Replica
from regions.replicator import moves
from regions.replicator.daemon import Daemon, Surroundings, Terms
from regions.replicator.epochs import LiveEpochs
from regions.replicator.follower import Pace
from regions.replicator.snapshot import Site
from regions.runtime import config_file, lifecycle, plugins
from regions.runtime.config_file import SecretRef
from regions.runtime.tracing import Tracer
from regions.runtime.tracing_config import tracing_as
from regions.status import parked
from regions.tails import Saved, Tails


async def run_replicator(config: GatewayConfig, *, config_dir: Path, stop: asyncio.Event) -> None:
    """Replicate into the configuration's region until `stop` is set.

    Raises: ConfigError: no regions are configured, or a secret cannot be used. PortTaken: its port.
    """
    log = make_logger(config.log.level, config.log.format, region=config.region, worker=0)
    telemetry = ReplicatorTelemetry(version("meridian-gateway"), config.region)
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(
            tracing_as(
                config.tracing,
                "replicator",
                resolve=lambda ref: config_file.resolve_secret(ref, config_dir, os.environ),
                resource={"service.version": version("meridian-gateway"), "cloud.region": config.region},
                tell=log.warning,
            )
        )
        telemetry.registry.register(SpanMetrics(tracing.spans))
        daemon = await _build(config, config_dir, log, tracing.tracer, telemetry, stack)
        await stack.enter_async_context(_watched(config, telemetry, daemon))
        log.info("replicating", homes=sorted(config.regions.places if config.regions else ()))
        await daemon.run_until(stop)
    log.info("stopped")


@asynccontextmanager
async def _watched(
    config: GatewayConfig, telemetry: ReplicatorTelemetry, daemon: Daemon
) -> AsyncIterator[None]:
    """Health and metrics on a port of their own, if one is configured. Raises: PortTaken."""
    port = config.regions.replicator.operators_port if config.regions is not None else None
    if port is None:
        yield
        return

    async def facts() -> dict[str, Any]:
        return {
            "region": config.region,
            "version": version("meridian-gateway"),
            "working": daemon.is_working,
        }

    app = operators.probes_alone(telemetry.registry, lambda: True, facts)
    patience = Patience(config.server.head_timeout_s, config.server.write_timeout_s)
    with lifecycle.bind(config.server.operators_host, port) as sock:
        async with serving(app, sock, patience):
            yield


async def _build(
    config: GatewayConfig,
    config_dir: Path,
    log: structlog.stdlib.BoundLogger,
    tracer: Tracer | None,
    telemetry: ReplicatorTelemetry,
    stack: AsyncExitStack,
) -> Daemon:
    def resolve(ref: SecretRef) -> str:
        return config_file.resolve_secret(ref, config_dir, os.environ)

    places = await connect.places(config, resolve, stack)
    here = RegionId(config.region)
    sites = _sites(config, places, resolve, stack)
    if here not in sites or config.regions is None:
        problem = ConfigProblem("regions.places", f"does not have {here}, the region to replicate into")
        raise ConfigError("replicate", [problem])
    live = Live(
        here,
        places,
        {},
        clock=asyncio.get_running_loop().time,
        wall_clock=lifecycle.wall_clock,
        skew_s=config.regions.clock_skew_ms / 1000,
    )
    await stack.enter_async_context(live.running())
    fences = Fences(live.logs, lambda: live.topology)
    indexes = [IndexName(name) for name in config.indexes]
    around = Surroundings(
        here=sites[here],
        others=[site for region, site in sites.items() if region != here],
        logs=live.logs,
        homes={place.region: indexes for place in places},  # a promotion may make any of them any's home
        epochs=LiveEpochs(live, fences),
        calls_per_s=config.regions.replicator.calls_per_s,
        tell=partial(_tell_parked, log, telemetry),
        duties=[Tails(live, config_dir / config.regions.replicator.tails_dir, partial(_tell, log)).run],
        tracer=tracer,
    )
    name = f"{here}.{secrets.token_hex(8)}"  # of this run alone, as the lease asks
    own = config.regions.replicator
    terms = Terms(lease_s=own.lease_s, canary_every_s=own.canary_every_s)
    daemon = Daemon(name, around, _pace(config.regions), terms)
    telemetry.watch(
        parked=lambda: {index: len(parked(live.topology, index, here)) for index in indexes},
        is_working=lambda: daemon.is_working,
    )
    return daemon


def _pace(config: RegionsConfig) -> Pace:
    return Pace(
        call_timeout_s=config.replicator.call_s,
        apply_settle_s=config.replicator.apply_settle_s,
        clock_skew_s=config.clock_skew_ms / 1000,
    )


def _tell_parked(
    log: structlog.stdlib.BoundLogger, telemetry: ReplicatorTelemetry, told: moves.Alarm | moves.AllClear
) -> None:
    """Say that a namespace stands still, and that it goes on: until then it is read elsewhere."""
    where = {"index": told.namespace.index, "namespace": told.namespace.stored}
    match told:
        case moves.Alarm(sequence=sequence, reason=reason):
            telemetry.alarms.labels(told.namespace.index).inc()
            log.error("namespace_parked", **where, sequence=sequence, reason=reason)
        case moves.AllClear():
            log.info("namespace_goes_on", **where)


def _tell(log: structlog.stdlib.BoundLogger, saved: Saved) -> None:
    """Say what became of a tail."""
    told = {"index": saved.index, "epoch": saved.epoch}
    if saved.error:
        log.error("tail_not_saved", **told, error=saved.error)
    else:
        log.warning("tail_saved", **told, changes=saved.changes, path=saved.path, trimmed=saved.trimmed)


def _sites(
    config: GatewayConfig, places: Sequence[Place], resolve: connect.Resolve, stack: AsyncExitStack
) -> Mapping[RegionId, Site]:
    """Every region with its registers and its replicas."""
    sites: dict[RegionId, Site] = {}
    for place in places:
        own: dict[IndexName, Replica] = {}
        for name, index in config.indexes.items():
            for section in (each for each in index.replicas if each.region == place.region):
                module = plugins.find(replicas, section.kind)
                replica: Replica = module.build(
                    module.Config(**section.own()),
                    index=IndexName(name),
                    region=place.region,
                    resolve=resolve,
                )
                stack.push_async_callback(replica.close)
                own[IndexName(name)] = replica
        sites[place.region] = Site(place.region, place.registers, own)
    return sites
