"""A gateway under load while everything behind it goes down, each in turn and all at once.

Real node, real embeddings endpoint, scripted models; each can be made to refuse or to fall silent.
Every caller sets a deadline; every answer must be complete, degraded and marked, or a clean error inside it.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer

from regions.node.config import NodeConfig
from regions.node.main import run_node
from regions.runtime import lifecycle
from tests.faults.llm import acts
from tests.faults.llm.caller import Ending, Outcome
from tests.faults.llm.gate import Gate, State
from tests.faults.llm.rig import FALLBACK, PRIMARY, TIMERS, Rig, upstream
from tests.faults.llm.verdicts import Mode, whole
from tests.faults.llm.wall import Act, Call, Wall
from tests.gateway.running import KEY, running_gateway, tenants_file

DIMENSION: Final = 64
DEADLINE_S: Final = 1.5
LATE_S: Final = 0.75
"""How much later than its deadline an answer may end on a machine that does much else: then it hangs."""
CALLERS: Final = 8
PAUSE_S: Final = 0.04
PHASE_S: Final = 0.5
RECOVERED_S: Final = 4.0
QUESTION: Final = [{"role": "user", "content": "Which hills are made of limestone?"}]
RECORDS: Final = (
    {"_id": "hills", "text": "The Karst hills are made of limestone.", "title": "Karst"},
    {"_id": "iron", "text": "Iron rusts when it meets water and oxygen."},
)


class Kind(StrEnum):
    """What an answer was worth."""

    COMPLETE = "complete"
    DEGRADED = "degraded"
    ERROR = "clean error"
    WRONG = "wrong"


def kind_of(outcome: Outcome) -> Kind:
    """`WRONG`: a hang, a broken connection, a late answer, or one that falls short and does not say so."""
    if outcome.wall_s > DEADLINE_S + LATE_S:
        return Kind.WRONG
    is_marked = bool(outcome.headers.get("x-meridian-degraded"))
    if outcome.ending is Ending.ERROR and not outcome.has_done and outcome.error.get("code"):
        return Kind.ERROR
    if outcome.ending is not Ending.SUCCESS or not outcome.has_done or outcome.finish != "stop":
        return Kind.WRONG
    if whole(outcome):
        return Kind.DEGRADED if is_marked else Kind.COMPLETE
    return Kind.DEGRADED if is_marked and outcome.model == "snippets" and outcome.text else Kind.WRONG


class Switch:
    """An act that can be changed while callers come."""

    def __init__(self) -> None:
        self.act: Act = acts.well()

    async def __call__(self, call: Call) -> None:
        await self.act(call)


@dataclass
class World:
    """Everything behind the gateway, and what takes it down."""

    rig: Rig
    primary: Switch
    fallback: Switch
    embedder: Gate
    node: Gate

    async def up(self) -> None:
        self.primary.act = self.fallback.act = acts.well()
        await self.embedder.set(State.OPEN)
        await self.node.set(State.OPEN)

    async def primary_down(self) -> None:
        self.primary.act = acts.refuse(503)

    async def models_refuse(self) -> None:
        self.primary.act = self.fallback.act = acts.refuse(503)

    async def models_silent(self) -> None:
        self.primary.act = self.fallback.act = acts.silence

    async def models_cut(self) -> None:
        self.primary.act = self.fallback.act = acts.cut(20)

    async def embedder_refuses(self) -> None:
        await self.embedder.set(State.RESET)

    async def embedder_silent(self) -> None:
        await self.embedder.set(State.SILENT)

    async def node_refuses(self) -> None:
        await self.node.set(State.RESET)

    async def node_silent(self) -> None:
        await self.node.set(State.SILENT)

    async def all_refuse(self) -> None:
        self.primary.act = self.fallback.act = acts.reset
        await self.embedder.set(State.RESET)
        await self.node.set(State.RESET)

    async def all_silent(self) -> None:
        self.primary.act = self.fallback.act = acts.silence
        await self.embedder.set(State.SILENT)
        await self.node.set(State.SILENT)


PHASES: Final[Sequence[tuple[str, Callable[[World], Awaitable[None]]]]] = (
    ("nothing is down", World.up),
    ("the primary refuses", World.primary_down),
    ("every model refuses", World.models_refuse),
    ("every model is silent", World.models_silent),
    ("every model breaks off", World.models_cut),
    ("the embedder refuses", World.embedder_refuses),
    ("the embedder is silent", World.embedder_silent),
    ("the node refuses", World.node_refuses),
    ("the node is silent", World.node_silent),
    ("everything refuses", World.all_refuse),
    ("everything is silent", World.all_silent),
)


@dataclass
class Phase:
    """What callers got while one thing was down."""

    name: str
    counted: Counter[Kind] = field(default_factory=Counter)
    slowest_s: float = 0.0
    wrong: list[Outcome] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    recovered_s: float | None = None

    def count(self, outcome: Outcome) -> None:
        kind = kind_of(outcome)
        self.counted[kind] += 1
        self.slowest_s = max(self.slowest_s, outcome.wall_s)
        if kind is Kind.WRONG:
            self.wrong.append(outcome)
        elif kind is Kind.ERROR:
            self.codes[outcome.code] += 1
        elif kind is Kind.DEGRADED:
            self.codes[outcome.headers["x-meridian-degraded"]] += 1


async def run(directory: Path) -> list[Phase]:
    """Every phase under load, each followed by everything coming back."""
    phases = []
    async with opened(directory) as world:
        for name, takes_down in PHASES:
            phase = Phase(name)
            await takes_down(world)
            async with asyncio.TaskGroup() as group:
                for number in range(CALLERS):
                    group.create_task(_calls(world.rig, phase, number))
            await world.up()
            phase.recovered_s = await _recovery_s(world.rig)
            phases.append(phase)
    return phases


async def _calls(rig: Rig, phase: Phase, number: int) -> None:
    clock = asyncio.get_running_loop().time
    until_s = clock() + PHASE_S
    modes = itertools.islice(itertools.cycle(Mode), number % len(Mode), None)
    while clock() < until_s:
        phase.count(await _ask(rig, next(modes)))
        await asyncio.sleep(PAUSE_S)


async def _ask(rig: Rig, mode: Mode) -> Outcome:
    return await rig.ask(
        mode=mode,
        messages=QUESTION,
        rag={"index": "docs", "namespace": "facts"},
        headers={"x-meridian-deadline-ms": str(round(DEADLINE_S * 1000))},
        max_s=DEADLINE_S + 2,
    )


async def _recovery_s(rig: Rig) -> float | None:
    """How long after all is well again answers are complete again: as many as there are modes, in a row."""
    clock = asyncio.get_running_loop().time
    began_s, row = clock(), 0
    for mode in itertools.cycle(Mode):
        row = row + 1 if kind_of(await _ask(rig, mode)) is Kind.COMPLETE else 0
        if row == len(Mode):
            return clock() - began_s
        if clock() - began_s > RECOVERED_S:
            return None
        await asyncio.sleep(PAUSE_S)
    return None


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[World]:
    """Everything running, a few records written."""
    tenants_file(directory, index="docs", namespace="facts")
    node_port, stop_node = lifecycle.free_port(), asyncio.Event()
    embeddings = web.Application()
    embeddings.router.add_post("/v1/embeddings", _on_embeddings)
    primary, fallback = Switch(), Switch()
    async with asyncio.TaskGroup() as group, TestServer(embeddings) as endpoint, Wall.open() as wall:
        group.create_task(run_node(NodeConfig(data_dir=directory / "node", port=node_port), stop_node))
        await _create_index(f"http://127.0.0.1:{node_port}")
        names = wall.add("primary", [primary]), wall.add("fallback", [fallback])
        assert endpoint.port is not None
        async with Gate.open(endpoint.port) as embedder_gate, Gate.open(node_port) as node_gate:
            config = _config(wall, embedder_gate.url, node_gate.url)
            async with running_gateway(directory, config) as gateway:
                rig = Rig(Mode.LIVE, gateway, wall, *names, max_wall_s=DEADLINE_S + 2)
                await _write(rig)
                yield World(rig, primary, fallback, embedder_gate, node_gate)
                stop_node.set()


def _config(wall: Wall, embedder_url: str, node_url: str) -> dict[str, Any]:
    replica = {"region": "us-east", "kind": "pinecone", "url": f"{node_url}/i/docs"}
    embedder = {"kind": "openai", "base_url": f"{embedder_url}/v1", "model": "e", "dimension": DIMENSION}
    return {
        "models": {
            "tested": {
                "upstreams": [
                    upstream(wall.url("primary"), PRIMARY, "equal"),
                    upstream(wall.url("fallback"), FALLBACK, "cheaper"),
                ],
                "timers": TIMERS,
                "breaker": {"window_s": 2, "min_failures": 5, "open_s": 0.5},
            }
        },
        "breakers": {"window_s": 2, "min_failures": 5, "open_s": 0.5},
        "embedders": {"endpoint": embedder},
        "indexes": {"docs": {"dimension": DIMENSION, "embedder": "endpoint", "replicas": [replica]}},
        "server": {"deadline_s": 5},
    }


async def _on_embeddings(request: web.Request) -> web.Response:
    """Vectors of words: texts that share words are near each other."""
    texts = (await request.json())["input"]
    rows = []
    for number, text in enumerate([texts] if isinstance(texts, str) else texts):
        vector = np.zeros(DIMENSION, np.float32)
        for word in text.lower().split():
            vector[sum(word.encode()) % DIMENSION] += 1
        rows.append({"index": number, "embedding": vector.tolist(), "object": "embedding"})
    body = {"object": "list", "data": rows, "model": "e", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    return web.json_response(body)


async def _create_index(url: str) -> None:
    spec = {
        "name": "docs",
        "dimension": DIMENSION,
        "metric": "dotproduct",
        "spec": {"serverless": {"cloud": "aws", "region": "us-east-1"}},
    }
    async with asyncio.timeout(10), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.post(f"{url}/indexes", json=spec) as response:
                    assert response.status == 201, await response.text()
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)


async def _write(rig: Rig) -> None:
    lines = b"\n".join(msgspec.json.encode(record) for record in RECORDS)
    url = f"{rig.gateway.url}/records/namespaces/facts/upsert"
    async with rig.gateway.session.post(url, data=lines, headers={"Api-Key": KEY}) as response:
        assert response.status == 201, await response.text()


def table(phases: Sequence[Phase]) -> str:
    """What callers got in each phase, as a Markdown table."""
    rows = ["| while | complete | degraded | clean error | wrong | slowest | whole again after | said |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for phase in phases:
        cells = " | ".join(str(phase.counted[kind]) for kind in Kind)
        back = "never" if phase.recovered_s is None else f"{phase.recovered_s:.1f} s"
        said = ", ".join(f"{count} {code}" for code, count in phase.codes.most_common(3))
        rows.append(f"| {phase.name} | {cells} | {phase.slowest_s:.1f} s | {back} | {said} |")
    return "\n".join(rows)
