"""Connects a process to the logs and registers of every region, as its configuration says."""

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from gateway import ledger as ledgers
from gateway.config import GatewayConfig, RegionConfig
from gateway.ledger import Ledger
from gateway.spool import Spool
from gateway.stages.nearest_read import Candidate
from gateway.telemetry import Telemetry
from regions import journals, logs, promotion, registers
from regions import replicas as replica_kinds
from regions.errors import ConfigError, ConfigProblem, Conflict, LogError, LogUnavailable
from regions.journals.base import Journal
from regions.live import Live, Place
from regions.names import IndexName, RegionId
from regions.registers.base import Registers
from regions.replicas.base import Replica
from regions.runtime import lifecycle, plugins
from regions.runtime.config_file import SecretRef

ESTABLISH_AGAIN_S: Final = 1.0
FENCE_AGAIN_S: Final = 5.0

Resolve = Callable[[SecretRef], str]


async def places(config: GatewayConfig, resolve: Resolve, stack: AsyncExitStack) -> list[Place]:
    """Every region's log and registers; `stack` closes them. A region that is down connects later."""
    if config.regions is None:
        return []
    made: list[Place] = []
    for name, section in config.regions.places.items():
        region, own = RegionId(name), section.registers_section()
        module = plugins.find(registers, own.kind)
        kept: Registers = module.build(module.Config(**own.own()), region=region, resolve=resolve)
        stack.push_async_callback(kept.close)
        module = plugins.find(logs, section.log.kind)
        log = module.build(module.Config(**section.log.own()), region=region, registers=kept, resolve=resolve)
        stack.push_async_callback(log.close)
        made.append(Place(region, log, kept))
        for each in (kept, log):  # here: their tasks are to end in the task that closes them
            with suppress(LogUnavailable):
                await each.start()
    return made


def journal(config: RegionConfig, region: str, name: str, resolve: Resolve) -> Journal:
    """The journal of that name in a region, not started."""
    own = config.journal_section()
    module = plugins.find(journals, own.kind)
    made: Journal = module.build(
        module.Config(**own.own()), region=RegionId(region), name=name, resolve=resolve
    )
    return made


async def ledger(
    config: GatewayConfig,
    directory: Path,
    worker: int,
    *,
    resolve: Resolve,
    telemetry: Telemetry,
    log: structlog.stdlib.BoundLogger,
    stack: AsyncExitStack,
) -> Ledger | None:
    """This process's ledger, at work until `stack` ends; None when no regions are configured.

    Raises: ConfigError: its directory cannot be used.
    """
    if config.regions is None:
        return None
    kept = journal(config.regions.places[config.region], config.region, ledgers.NAME, resolve)
    stack.push_async_callback(kept.close)
    with suppress(LogUnavailable):
        await kept.start()
    place, own = directory / config.regions.ledger.dir, f"{worker}-{uuid.uuid4().hex[:12]}"
    made = Ledger(
        kept,
        Spool(place, config.region, own, max_bytes=config.regions.ledger.spool_bytes),
        telemetry=telemetry,
        log=log,
        wall_clock=lifecycle.wall_clock,
    )
    try:
        return await stack.enter_async_context(made.running())
    except OSError as error:
        problem = ConfigProblem(
            "regions.ledger.dir", f"{place} cannot be used: {error.strerror}", "name a writable directory"
        )
        raise ConfigError(str(place), [problem]) from error


def replicas(
    config: GatewayConfig, resolve: Resolve, stack: AsyncExitStack
) -> Mapping[IndexName, Sequence[Candidate]]:
    """Each index's replicas, this region's first; `stack` closes them."""
    built: dict[IndexName, list[Candidate]] = {}
    for name, index in config.indexes.items():
        for section in sorted(index.replicas, key=lambda r: r.region != config.region):
            module = plugins.find(replica_kinds, section.kind)
            region = RegionId(section.region)
            replica: Replica = module.build(
                module.Config(**section.own()), index=IndexName(name), region=region, resolve=resolve
            )
            stack.push_async_callback(replica.close)
            built.setdefault(IndexName(name), []).append(Candidate(region, replica))
    return built


async def live(
    config: GatewayConfig,
    candidates: Mapping[IndexName, Sequence[Candidate]],
    resolve: Resolve,
    log: structlog.stdlib.BoundLogger,
    stack: AsyncExitStack,
) -> Live | None:
    """The topology, kept up to date until `stack` ends; None when no regions are configured."""
    if config.regions is None:
        return None
    made = await places(config, resolve, stack)
    found = Live(
        RegionId(config.region),
        made,
        {
            (index, each.region): partial(describe, each.replica)
            for index, each_index in candidates.items()
            for each in each_index
        },
        clock=asyncio.get_running_loop().time,
        wall_clock=lifecycle.wall_clock,
        skew_s=config.regions.clock_skew_ms / 1000,
    )
    await stack.enter_async_context(found.running())
    group = await stack.enter_async_context(asyncio.TaskGroup())
    for work in (_establish(config, made, log), _keep_fenced(found, log)):
        stack.callback(group.create_task(work).cancel)
    return found


async def describe(replica: Replica, timeout_s: float) -> None:
    """The cheapest real question to a replica: how long it takes is how near it is."""
    await replica.describe(timeout_s=timeout_s)


async def _establish(config: GatewayConfig, made: Sequence[Place], log: structlog.stdlib.BoundLogger) -> None:
    """Give every index its first home, as soon as the regions can be reached."""
    left = {IndexName(name): first_home(config, name) for name in config.indexes}
    while left:
        for index, region in list(left.items()):
            try:
                home = await promotion.establish(made, index, region)
            except (LogError, Conflict) as error:
                log.warning("home_unknown", index=index, error=str(error))
            else:
                log.info("home", index=index, region=home.region, epoch=home.epoch)
                del left[index]
        if left:
            await asyncio.sleep(ESTABLISH_AGAIN_S)


async def _keep_fenced(live: Live, log: structlog.stdlib.BoundLogger) -> None:
    """Close the logs of homes that were replaced by force, as soon as each can be reached again."""
    done: set[tuple[IndexName, int, str]] = set()
    while True:
        for index, home in live.topology.homes.items():
            for term in home.terms[:-1]:
                key = (index, home.epoch, term.region)
                if not term.is_forced or key in done or RegionId(term.region) not in live.topology.logs_s:
                    continue
                try:
                    old = live.logs[RegionId(term.region)]
                    await promotion.fence_off(old, home, RegionId(term.region))
                    left = await promotion.tail_length(old, home, term)
                except LogError as error:
                    log.warning("old_home_open", index=index, region=term.region, error=str(error))
                    continue
                done.add(key)
                if left:
                    log.warning("unshipped_tail", index=index, region=term.region, up_to_entries=left)
        await asyncio.sleep(FENCE_AGAIN_S)


def first_home(config: GatewayConfig, index: str) -> RegionId:
    """The region that the configuration names as an index's home before any promotion."""
    wanted = config.indexes[index]
    return RegionId(wanted.home or wanted.replicas[0].region)
