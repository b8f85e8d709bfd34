"""Builds the LLM path: providers, routes and the fallback chain over them, as the configuration says.

What was learnt of the upstreams and the budget of retries outlive a configuration: a model that is replaced
while the gateway runs does not make a sick endpoint look well.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from random import Random

from gateway import pipelines, providers
from gateway.config import GatewayConfig
from gateway.policies import tokens
from gateway.policies.breaker import Breakers, BreakerTerms
from gateway.policies.health import Health
from gateway.policies.retry_budget import RetryBudget
from gateway.providers.base import ChatProvider, Resolve
from gateway.routes import Route, Routes, Upstream
from gateway.stages.fallback import Fallback, OpenFor
from gateway.stages.metering import Record
from gateway.stages.pack import Pack
from gateway.stages.scouts import Scouts
from regions.runtime import plugins


class LlmPath:
    """What a process knows of its LLM upstreams, and the chains that are built on it."""

    def __init__(self, breakers: Breakers, fence_key: bytes, record: Record | None = None) -> None:
        self._breakers, self._fence_key, self._record = breakers, fence_key, record
        self._health, self._budget = Health(), RetryBudget()
        self._scouts = Scouts(asyncio.get_running_loop().time)
        self._rng = Random()  # noqa: S311 - spreads load and retries, keeps no secret

    async def build(
        self, config: GatewayConfig, resolve: Resolve, stack: AsyncExitStack
    ) -> tuple[Routes, Fallback]:
        """The routes of a configuration and the chain that walks them; `stack` closes the connections."""
        routes = build_routes(config)
        terms = {alias: model.breaker or config.breakers for alias, model in config.models.items()}
        upstreams = await build_providers(config, resolve, stack)
        if upstreams:
            await asyncio.to_thread(tokens.warm)
        attempt = pipelines.upstream(
            upstreams,
            timers={alias: model.timers.timers() for alias, model in config.models.items()},
            terms=terms,
            breakers=self._breakers,
            health=self._health,
            record=self._record,
        )
        return routes, Fallback(
            routes,
            attempt,
            Pack(answer_tokens=config.rag.answer_tokens, fence_key=self._fence_key),
            health=self._health,
            budget=self._budget,
            open_s=self._open_s(routes, terms),
            scouts=self._scouts,
            rng=self._rng,
        )

    def _open_s(self, routes: Routes, terms: Mapping[str, BreakerTerms]) -> OpenFor:
        by_name = {
            upstream.name: self._breakers.of(upstream.name, terms[alias])
            for alias in terms
            for upstream in routes.find(alias).upstreams
        }
        return lambda upstream, now_s: by_name[upstream.name].wait_s(now_s)


async def build_providers(
    config: GatewayConfig, resolve: Resolve, stack: AsyncExitStack
) -> Mapping[str, ChatProvider]:
    """Every upstream's provider, by the upstream's name, started; `stack` closes them."""
    built: dict[str, ChatProvider] = {}
    for alias, model in config.models.items():
        for number, section in enumerate(model.upstreams):
            module = plugins.find(providers, section.kind)
            name = upstream_name(alias, number)
            provider: ChatProvider = module.build(
                module.Config(**section.own()), name, section.model, resolve
            )
            stack.push_async_callback(provider.close)
            await provider.start()
            built[name] = provider
    return built


def build_routes(config: GatewayConfig) -> Routes:
    """The routes that a configuration describes."""
    cards = config.cards()
    return Routes(
        {
            alias: Route(
                alias,
                [
                    Upstream(
                        name=(name := upstream_name(alias, number)),
                        model=section.model,
                        card=cards[config.card_name(alias, section)],
                        tier=section.tier,
                        weight=section.weight,
                        account=section.account_name(name),
                    )
                    for number, section in enumerate(model.upstreams)
                ],
                model.max_attempts,
            )
            for alias, model in config.models.items()
        }
    )


def upstream_name(alias: str, number: int) -> str:
    """What operators call an upstream: its route's alias and its place in it."""
    return f"{alias}/{number}"
