"""Builds what a gateway counts its tenants' limits with, out of its configuration."""

import asyncio
from contextlib import AsyncExitStack

import structlog

from gateway.admission import Admission
from gateway.config import GatewayConfig
from gateway.connect import Resolve
from gateway.limiters.base import Limiter
from gateway.limiters.local import LocalLimiter
from gateway.limiters.redis import RedisLimiter
from gateway.policies.breaker import Breakers
from gateway.shared_store import BREAKER, TERMS, SharedStore
from gateway.telemetry import Telemetry
from regions.runtime.config_file import SecretRef, is_reference


def build_store(
    config: GatewayConfig, resolve: Resolve, breakers: Breakers, stack: AsyncExitStack
) -> SharedStore | None:
    """The region's shared store, if the configuration has one; `stack` closes it.

    Raises: ConfigError: its URL is a reference to nothing. ValueError: what it refers to is no such URL.
    """
    own = config.redis
    if own is None:
        return None
    store = SharedStore(
        resolve(SecretRef(own.url)) if is_reference(own.url) else own.url,
        timeout_s=own.timeout_ms / 1000,
        connections=own.connections,
        prefix=own.prefix,
        clock=asyncio.get_running_loop().time,
        breaker=breakers.of(BREAKER, TERMS),
    )
    stack.push_async_callback(store.close)
    return store


async def build_admission(
    config: GatewayConfig,
    store: SharedStore | None,
    telemetry: Telemetry,
    log: structlog.stdlib.BoundLogger,
    stack: AsyncExitStack,
) -> Admission:
    """Limits counted with the region's other gateways when there is a store, else by this process alone."""
    limiter = await _build_limiter(config, store, telemetry, log, stack)
    return Admission(limiter, lambda tenant, limit: telemetry.refused.labels(tenant, limit).inc())


async def _build_limiter(
    config: GatewayConfig,
    store: SharedStore | None,
    telemetry: Telemetry,
    log: structlog.stdlib.BoundLogger,
    stack: AsyncExitStack,
) -> Limiter:
    clock, workers = asyncio.get_running_loop().time, config.server.workers
    if store is None:
        telemetry.watch_limits(lambda: False, lambda: workers)
        return LocalLimiter(clock, lambda: workers)

    def say(is_shared: bool, sharers: int) -> None:
        if is_shared:
            log.info("limits_shared", processes=sharers)
        else:
            log.warning("limits_local", share=f"1/{sharers}", reason="the shared store does not answer")

    limiter = RedisLimiter(store, region=config.region, clock=clock, sharers=workers, on_change=say)
    await stack.enter_async_context(limiter.running())
    telemetry.watch_limits(lambda: limiter.is_shared, lambda: limiter.sharers)
    return limiter
