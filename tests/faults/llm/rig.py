"""A real gateway before a primary and a fallback, both scripted; one rig a scenario and mode.

The primary stands in the tier of equals and the fallback in another, so that the primary is asked first
whenever it may be asked at all. Timers are short: what is judged is that they are kept, not their length.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.llm import acts
from tests.faults.llm.caller import Outcome, call
from tests.faults.llm.verdicts import Mode
from tests.faults.llm.wall import Act, Upstream, Wall
from tests.gateway.running import Running, running_gateway, tenants_file

PRIMARY: Final = "deepseek-v4-flash"
FALLBACK: Final = "glm-4-plus"
LONGER: Final = "deepseek-v4-pro"
"""Models of the catalogue: the fallback is cheaper than the primary, the longer one has a wider window."""

FIRST_CONTENT_S: Final = 0.8
GAP_S: Final = 0.5
OPEN_S: Final = 1.5
TIMERS: Final = {
    "first_content_s": FIRST_CONTENT_S,
    "gap_s": GAP_S,
    "min_tokens_per_s": 20,
    "rate_window_s": 1.0,
    "total_s": 8,
}
BREAKER: Final = {"window_s": 10, "min_failures": 5, "open_s": OPEN_S}
QUESTION: Final = [{"role": "user", "content": "Explain in sixty words why a gateway earns trust."}]


@dataclass
class Rig:
    """What a scenario plays on."""

    mode: Mode
    gateway: Running
    wall: Wall
    primary: Upstream
    fallback: Upstream
    max_wall_s: float
    outcomes: list[Outcome] = field(default_factory=list)

    async def ask(
        self,
        *,
        mode: Mode | None = None,
        model: str = "tested",
        headers: Mapping[str, str] | None = None,
        max_s: float | None = None,
        **fields: Any,
    ) -> Outcome:
        """One call in the rig's mode; its outcome is not judged unless the scenario returns it."""
        mode = mode or self.mode
        body: dict[str, Any] = {"model": model, "messages": QUESTION, "rag": {"mode": "off"}, **fields}
        if mode is not Mode.JSON:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        own = {"x-meridian-stream": str(mode)} if mode is not Mode.JSON else {}
        began_ms = self.wall.now_ms()
        outcome = await call(
            self.gateway.session,
            self.gateway.url,
            body,
            own | dict(headers or {}),
            max_s=max_s or self.max_wall_s,
        )
        outcome.began_ms = began_ms
        return outcome

    async def is_alive(self) -> bool:
        """Whether the same gateway still answers well, from an upstream without faults."""
        outcome = await self.ask(mode=Mode.LIVE, model="alive", max_s=5)
        return outcome.text == acts.ANSWER

    async def metric(self, name: str, **labels: str) -> float:
        """A value that the operators' port shows; 0 when it was never counted."""
        async with self.gateway.session.get(f"{self.gateway.operators_url}/metrics") as response:
            lines = (await response.text()).splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [li for li in lines if li.partition("{")[0] == name and all(w in li for w in wanted)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)


async def until(holds: Callable[[], bool], within_s: float) -> bool:
    """Poll until it holds. Whether it did in time."""
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + within_s
    while not holds():
        if clock() > deadline_s:
            return False
        await asyncio.sleep(0.01)
    return True


@dataclass(frozen=True, slots=True)
class Setup:
    """What a scenario's gateway looks like: both scripts, the fallback's place, and overrides."""

    primary: tuple[Act, ...]
    fallback: tuple[Act, ...] = (acts.well(),)
    tier: str = "cheaper"
    timers: Mapping[str, Any] = field(default_factory=dict)
    breaker: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    catalogue: Mapping[str, Any] = field(default_factory=dict)

    def models(self, wall: Wall, name: str) -> dict[str, Any]:
        """The routes: the one that is tested, and one without faults."""
        fallback_model = LONGER if self.tier == "longer" else FALLBACK
        return {
            "tested": {
                "upstreams": [
                    upstream(wall.url(f"{name}-primary"), PRIMARY, "equal"),
                    upstream(wall.url(f"{name}-fallback"), fallback_model, self.tier),
                ],
                "timers": {**TIMERS, **self.timers},
                "breaker": {**BREAKER, **self.breaker},
            },
            "alive": {"upstreams": [upstream(wall.url("alive"), PRIMARY, "equal")]},
        }


def upstream(url: str, model: str, tier: str) -> dict[str, Any]:
    return {"kind": "openai", "base_url": url, "model": model, "tier": tier}


@asynccontextmanager
async def open_rig(
    wall: Wall, directory: Path, name: str, mode: Mode, setup: Setup, max_wall_s: float
) -> AsyncIterator[Rig]:
    """A gateway of its own, so that no scenario spends another's budgets or opens its breakers."""
    tenants_file(directory)
    own = f"{name}-{mode}"
    primary = wall.add(f"{own}-primary", setup.primary)
    fallback = wall.add(f"{own}-fallback", setup.fallback)
    wall.add("alive", [acts.well()])
    config = {
        "models": setup.models(wall, own),
        "server": {"deadline_s": 6, **setup.server},
        "catalogue": dict(setup.catalogue),
    }
    async with running_gateway(directory, config) as gateway:
        yield Rig(mode, gateway, wall, primary, fallback, max_wall_s)
