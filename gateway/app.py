"""The composition root: a configuration in, a running gateway out. The only place that builds things."""

import asyncio
import hashlib
import os
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import structlog
from aiohttp import web

from gateway import connect, embedders, pipelines, reload
from gateway.admission import Admission
from gateway.budget_metrics import BudgetMetrics
from gateway.budgets import Budgets
from gateway.caching import CacheParts, build_parts, build_stage
from gateway.config import GatewayConfig, ServerConfig
from gateway.config_checks import cross_check
from gateway.data import word_rates
from gateway.edge import operators
from gateway.edge.connection import Patience, serving
from gateway.edge.console import Console
from gateway.edge.openai import OpenAIFace
from gateway.edge.pinecone import PineconeFace, PineconePipelines
from gateway.edge.server import Edge
from gateway.embedders.base import Embedder
from gateway.generations import Generation, Generations
from gateway.imports import Imports
from gateway.limits import build_admission, build_store
from gateway.llm import LlmPath
from gateway.logs import make_logger
from gateway.observe import Observer
from gateway.policies.breaker import Breakers
from gateway.policies.fair_queue import Bounds
from gateway.policies.sparse import SparseEncoder
from gateway.receipts import Receipts
from gateway.regional_metrics import RegionalMetrics
from gateway.reload import Reloader, TenantsReloader
from gateway.span_metrics import SpanMetrics
from gateway.stages.degrade import DegradeToSnippets
from gateway.stages.gate import Gate
from gateway.stages.guarded_embedder import GuardedEmbedder
from gateway.stages.ingest_text import IngestText
from gateway.stages.metering import Record
from gateway.stages.positions import AskedPositions, Positions
from gateway.stages.search_text import SearchText
from gateway.telemetry import Telemetry
from gateway.tenants_file import Tenants, TenantsFile, check_tenants
from gateway.wire.page_tokens import PageTokens, page_key
from regions.live import Live
from regions.names import RegionId
from regions.runtime import config_file, lifecycle, plugins
from regions.runtime.config_file import SecretRef
from regions.runtime.loop_lag import watch_lag
from regions.runtime.tracing import Tracer
from regions.runtime.tracing_config import tracing_as
from regions.status import summary

Resolve = Callable[[SecretRef], str]


async def run_gateway(
    config: GatewayConfig,
    *,
    config_dir: Path,
    worker: int,
    sock: socket.socket,
    stop: asyncio.Event,
    path: Path | None = None,
) -> None:
    """Serve on `sock` until `stop` is set, then drain and let go of everything.

    When `path` is given, it is the configuration's file, and its models are followed as it changes.

    Raises: ConfigError: a secret or the tenants file cannot be used. PortTaken: the operators' port.
    """
    log = make_logger(config.log.level, config.log.format, region=config.region, worker=worker)
    telemetry = Telemetry(version("meridian-gateway"), config.region)
    async with AsyncExitStack() as stack:
        operators_sock = lifecycle.bind(config.server.operators_host, config.server.operators_port + worker)
        stack.enter_context(operators_sock)
        tracing = await stack.enter_async_context(
            tracing_as(
                config.tracing,
                "gateway",
                resolve=lambda ref: config_file.resolve_secret(ref, config_dir, os.environ),
                resource={"service.version": telemetry.version, "cloud.region": config.region},
                tell=log.warning,
            )
        )
        telemetry.registry.register(SpanMetrics(tracing.spans))
        receipts = Receipts()
        observer = Observer(telemetry, log, receipts, lifecycle.wall_clock, tracing.tracer)
        ledger = await connect.ledger(
            config,
            config_dir,
            worker,
            resolve=lambda ref: config_file.resolve_secret(ref, config_dir, os.environ),
            telemetry=telemetry,
            log=log,
            stack=stack,
        )
        record = None if ledger is None else ledger.record
        gateway = await _build(config, config_dir, telemetry, log, observer, tracing.tracer, record, stack)
        console = Console(
            telemetry.registry,
            gateway.facts,
            receipts,
            lambda: gateway.tenants.file.tenants,
            lifecycle.wall_clock,
            lambda error: log.error("console_failed", exc_info=error),
        )
        admin_key = _admin_key(config, config_dir)
        operators_app = operators.application(
            telemetry.registry, gateway.is_ready, gateway.facts, receipts, admin_key, console
        )
        if admin_key is not None:  # without one nobody may see it
            await stack.enter_async_context(_running(console.watch()))
        patience = Patience(config.server.head_timeout_s, config.server.write_timeout_s)
        await stack.enter_async_context(serving(operators_app, operators_sock, patience))
        if gateway.imports.imported.problems:
            again = gateway.imports.keep_looking(lambda: gateway.reload(gateway.config))
            await stack.enter_async_context(_running(again))
        if path is not None:
            looks = [
                Reloader(config, partial(_load, path), gateway.reload, log, telemetry.tell_reload).look,
                TenantsReloader(
                    gateway.tenants, partial(_load_tenants, config, config_dir), log, telemetry.tell_reload
                ).look,
            ]
            folders = {path.parent, (config_dir / config.tenants.file).parent}
            await stack.enter_async_context(_running(reload.watch(sorted(folders), looks)))
        await stack.enter_async_context(_running(watch_lag(telemetry.loop_lag_seconds.observe)))
        async with serving(gateway.application(), sock, patience, gateway.edge.refuse):
            gateway.is_serving = True
            log.info("serving", port=sock.getsockname()[1], operators_port=operators_sock.getsockname()[1])
            await stop.wait()
            log.info("draining", grace_s=config.server.drain_s)
            if not await gateway.edge.drain(config.server.drain_s):
                log.warning("cut_off", after_s=config.server.drain_s)
    log.info("stopped")


@dataclass
class Gateway:
    """A built gateway: the guarded edge and the two dialects behind it."""

    edge: Edge
    openai: OpenAIFace
    pinecone: PineconeFace
    config: GatewayConfig
    tenants: Tenants
    breakers: Breakers
    chat: Generations
    build_chat: Callable[[GatewayConfig], Awaitable[Generation]]
    imports: Imports
    live: Live | None = None
    is_serving: bool = False

    def application(self) -> web.Application:
        app = self.edge.application()
        app.add_routes([*self.openai.routes(), *self.pinecone.routes()])
        return app

    async def reload(self, config: GatewayConfig) -> None:
        """Take over its models. Raises: ConfigError: they cannot be built; nothing has changed."""
        self.chat.replace(await self.build_chat(config))
        self.config = config

    def is_ready(self) -> bool:
        return self.is_serving and not self.edge.draining

    async def facts(self) -> dict[str, Any]:
        """What /readyz tells beside its verdict."""
        models = self.imports.imported.into(self.config).models
        return {
            "region": self.config.region,
            "version": version("meridian-gateway"),
            "draining": self.edge.draining,
            "in_flight": self.edge.in_flight,
            "models": {alias: [u.model for u in m.upstreams] for alias, m in models.items()},
            "indexes": {
                name: [replica.region for replica in index.replicas]
                for name, index in self.config.indexes.items()
            },
            "breakers": self.breakers.states(asyncio.get_running_loop().time()),
            **({} if self.live is None else summary(self.live.topology, asyncio.get_running_loop().time())),
        }


async def _build(
    config: GatewayConfig,
    config_dir: Path,
    telemetry: Telemetry,
    log: structlog.stdlib.BoundLogger,
    observer: Observer,
    tracer: Tracer | None,
    record: Record | None,
    stack: AsyncExitStack,
) -> Gateway:
    def resolve(ref: SecretRef) -> str:
        return config_file.resolve_secret(ref, config_dir, os.environ)

    pepper = resolve(config.tenants.pepper).encode()
    tenants = Tenants(_load_tenants(config, config_dir), pepper, lifecycle.wall_clock)
    breakers = Breakers(
        config.breakers, lambda name, state: log.warning("breaker", name=name, state=state.value)
    )
    state = await _build_state(config, resolve, breakers, log, stack)
    path = LlmPath(breakers, hashlib.blake2b(pepper, person=b"meridian.fence").digest(), record)
    store = build_store(config, resolve, breakers, stack)
    admission = await build_admission(config, store, telemetry, log, stack)
    kept = await build_parts(config, state.positions, store, pepper, telemetry, stack)
    imports = Imports(config, resolve, log)
    await imports.look()
    build_chat = partial(
        _build_chat,
        resolve=resolve,
        path=path,
        state=state,
        admission=admission,
        kept=kept,
        imports=imports,
    )
    chat = await stack.enter_async_context(Generations(await build_chat(config)).running())
    if state.budgets is not None:
        telemetry.registry.register(BudgetMetrics(state.budgets.spending))
    telemetry.watch_breakers(lambda: breakers.states(asyncio.get_running_loop().time()))
    if (live := state.live) is not None:
        told = RegionalMetrics(lambda: summary(live.topology, asyncio.get_running_loop().time()))
        telemetry.registry.register(told)
    return Gateway(
        edge=Edge(
            region=config.region,
            tenants=tenants,
            observer=observer,
            tracer=tracer,
            body_limit_bytes=config.server.body_limit_bytes,
            admission=admission,
            gate=_build_gate(config.server, telemetry),
            deadline_s=config.server.deadline_s,
            clock=asyncio.get_running_loop().time,
        ),
        openai=OpenAIFace(
            region=config.region,
            chat=chat,
            embed=pipelines.embed(state.embedders, admission),
            models=lambda: [*chat.models, *state.embedders],
            created=int(lifecycle.wall_clock()),
            keepalive_s=config.server.keepalive_s,
        ),
        pinecone=PineconeFace(
            indexes=config.indexes,
            pipelines=state.pipelines,
            public_url=config.server.public_url or f"http://{config.server.host}:{config.server.port}",
            page_tokens=PageTokens(page_key(pepper)),
        ),
        config=config,
        tenants=tenants,
        breakers=breakers,
        chat=chat,
        build_chat=build_chat,
        imports=imports,
        live=state.live,
    )


def _build_gate(server: ServerConfig, telemetry: Telemetry) -> Gate:
    gate = Gate(
        Bounds(server.max_in_flight, server.queue.max_waiting, server.queue.max_waiting_per_tenant),
        wait_s=server.queue.wait_s,
        clock=asyncio.get_running_loop().time,
        tell=telemetry.count_shed,
    )
    telemetry.watch_gate(lambda: gate.held, gate.waiting)
    return gate


async def _build_chat(
    config: GatewayConfig,
    *,
    resolve: Resolve,
    path: LlmPath,
    state: "_State",
    admission: Admission,
    kept: CacheParts,
    imports: Imports,
) -> Generation:
    """Raises: ConfigError: a secret that a model needs is not there."""
    config = imports.imported.into(config)
    async with AsyncExitStack() as stack:
        routes, fallback = await path.build(config, resolve, stack)
        handler = pipelines.chat(
            search=state.search,
            indexes=config.indexes,
            rag=config.rag,
            routes=routes,
            admission=admission,
            cache=build_stage(config, kept),
            degrade=DegradeToSnippets(state.sparse, lifecycle.wall_clock),
            budgets=state.budgets,
            fallback=fallback,
        )
        return Generation(handler, routes.aliases(), stack.pop_all().aclose)


@dataclass(frozen=True)
class _State:
    """What reads and writes the indexes, for both dialects."""

    embedders: Mapping[str, Embedder]
    sparse: SparseEncoder
    search: SearchText
    pipelines: PineconePipelines
    positions: Positions
    live: Live | None
    budgets: Budgets | None


async def _build_state(
    config: GatewayConfig,
    resolve: Resolve,
    breakers: Breakers,
    log: structlog.stdlib.BoundLogger,
    stack: AsyncExitStack,
) -> _State:
    sparse = SparseEncoder(word_rates())
    candidates = connect.replicas(config, resolve, stack)
    models = await _build_embedders(config, resolve, breakers, stack)
    live = await connect.live(config, candidates, resolve, log, stack)
    read, write = pipelines.reads_and_writes(candidates, config.regions, live, breakers)
    search = SearchText(indexes=config.indexes, embedders=models, sparse=sparse, read=read, rag=config.rag)
    ingest = IngestText(
        indexes=config.indexes, embedders=models, sparse=sparse, read=read, write=write, latest=write.latest
    )
    dialect = PineconePipelines(read=read, write=write, ingest=ingest, search=search)
    budgets = None if live is None else await _build_budgets(config, live, log, stack)
    return _State(models, sparse, search, dialect, AskedPositions(read, candidates), live, budgets)


async def _build_budgets(
    config: GatewayConfig, live: Live, log: structlog.stdlib.BoundLogger, stack: AsyncExitStack
) -> Budgets:
    """Every tenant's budget as this run of this process keeps it: its leases are nobody else's."""
    clock = asyncio.get_running_loop().time
    budgets = Budgets(
        uuid.uuid4().hex,
        RegionId(config.region),
        live.registers,
        default_home=live.topology.regions[0],
        now=lambda region: clock() + live.topology.clock_s[region],
        log=log,
        rng=Random(),  # noqa: S311 - spreads retries, keeps no secret
    )
    return await stack.enter_async_context(budgets.running())


def _load(path: Path) -> GatewayConfig:
    return config_file.load(path, GatewayConfig, os.environ, cross_check)


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do the work beside the block, and stop it at the block's end."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        try:
            yield
        finally:
            task.cancel()


def _admin_key(config: GatewayConfig, config_dir: Path) -> str | None:
    """Raises: ConfigError: it cannot be read, or nothing stands there."""
    ref = config.server.admin_key
    return None if ref is None else config_file.resolve_secret(ref, config_dir, os.environ)


def _load_tenants(config: GatewayConfig, config_dir: Path) -> TenantsFile:
    """Raises: ConfigError."""
    places = config.regions.places if config.regions is not None else ()
    return config_file.load(
        config_dir / config.tenants.file, TenantsFile, {}, lambda f: check_tenants(f, config.indexes, places)
    )


async def _build_embedders(
    config: GatewayConfig, resolve: Resolve, breakers: Breakers, stack: AsyncExitStack
) -> Mapping[str, Embedder]:
    built: dict[str, Embedder] = {}
    for name, section in config.embedders.items():
        endpoints: list[Embedder] = []
        for own in section.endpoints():
            module = plugins.find(embedders, own.kind)
            endpoints.append(module.build(module.Config(**own.own()), name, resolve))
        embedder = GuardedEmbedder(
            name,
            endpoints,
            query_s=section.query_s,
            breakers=breakers,
            clock=asyncio.get_running_loop().time,
        )
        stack.push_async_callback(embedder.close)
        await embedder.start()
        built[name] = embedder
    return built
