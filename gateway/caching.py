"""Builds the prompt cache out of a gateway's configuration: what lives as long as the process, and a
generation's stage on top of it.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from gateway.caches.base import Cache
from gateway.caches.memory import MemoryCache
from gateway.caches.redis import RedisCache
from gateway.config import GatewayConfig
from gateway.policies.cache_key import fingerprint
from gateway.shared_store import SharedStore
from gateway.stages.positions import Positions
from gateway.stages.prompt_cache import PromptCache, Spawn, Tiers
from gateway.telemetry import Telemetry
from regions.runtime import lifecycle


@dataclass(frozen=True, slots=True)
class CacheParts:
    """What outlives a generation of models."""

    tiers: Tiers
    positions: Positions
    spawn: Spawn


async def build_parts(
    config: GatewayConfig,
    positions: Positions,
    store: SharedStore | None,
    pepper: bytes,
    telemetry: Telemetry,
    stack: AsyncExitStack,
) -> CacheParts:
    """The tiers, nearest first. Keys are digests under a secret of their own: they tell no prompt."""
    memory = MemoryCache(config.cache.max_bytes, asyncio.get_running_loop().time)
    telemetry.watch_cache(lambda: (memory.size().entries, memory.size().bytes))
    caches: list[Cache] = [memory]
    if store is not None and config.cache.shared:
        caches.append(RedisCache(store, region=config.region))
    tiers = Tiers(
        caches,
        wall_clock=lifecycle.wall_clock,
        rng=Random(),  # noqa: S311 - spreads ends, keeps no secret
        secret=hashlib.blake2b(pepper, person=b"meridian.cache").digest(),
    )
    return CacheParts(tiers, positions, await stack.enter_async_context(_background()))


def build_stage(config: GatewayConfig, parts: CacheParts) -> PromptCache:
    """One generation's stage: another route, another embedder or another way to retrieve is another key."""
    cards = config.cards()
    routes = {
        alias: fingerprint(
            [
                model.model_dump(mode="json"),
                [cards[config.card_name(alias, each)].model_dump(mode="json") for each in model.upstreams],
            ]
        )
        for alias, model in config.models.items()
    }
    retrieval = {
        name: fingerprint(
            [
                index.model_dump(mode="json", exclude={"home", "replicas"}),
                config.embedders[index.embedder].model_dump(mode="json"),
                config.rag.model_dump(mode="json"),
            ]
        )
        for name, index in config.indexes.items()
    }
    return PromptCache(
        parts.tiers,
        parts.positions,
        indexes=config.indexes,
        routes=routes,
        retrieval=retrieval,
        default_top_k=config.rag.top_k,
        spawn=parts.spawn,
    )


@asynccontextmanager
async def _background() -> AsyncIterator[Spawn]:
    """Tasks that outlive whoever began them, until the block ends."""
    under_way: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as tasks:

        def spawn(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
            task = tasks.create_task(work)
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            return task

        try:
            yield spawn
        finally:
            for task in under_way:
                task.cancel()
