"""Callers and upstreams cannot make metrics grow: labels come from the configuration and from enums alone."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.fakes.collector import running_collector
from tests.fakes.provider import ScriptedProvider, Step, answer, chunk
from tests.gateway.running import Running, running_gateway, tenants_file

MARK = "zqx"
"""Stands in whatever a caller or an upstream may choose."""

ROUTES = [
    *("/v1/chat/completions", "/v1/embeddings", "/v1/models/{}", "/v1/{}", "/query", "/vectors/fetch?ids={}"),
    *("/indexes/{}", "/namespaces/{}", "/records/namespaces/{}/search", "/{}", "/vectors/{}", "/%00{}"),
]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    tenants_file(tmp_path)
    words = [
        Step(status=400, parts=[refusal(n)], headers={"Content-Type": "application/json"}) for n in range(40)
    ]
    provider = ScriptedProvider(words, good=lambda: Step([*answer("Well."), chunk({}, f"{MARK}-finish")]))
    async with TestServer(provider.application()) as server, running_collector() as collector:
        section = {"kind": "openai", "base_url": str(server.make_url("/v1")), "model": "gpt-4o"}
        config = {
            "models": {"big": {"upstreams": [section], "max_attempts": 1}},
            "tracing": {"endpoint": collector.url, "sample_ratio": 1},
        }
        async with running_gateway(tmp_path, config) as running:
            yield running


def refusal(number: int) -> bytes:
    error = {"message": f"{MARK}{number}", "type": f"{MARK}-type-{number}", "code": f"{MARK}-code-{number}"}
    return json.dumps({"error": error}).encode()


async def storm(gateway: Running, rng: random.Random) -> None:
    """Two hundred requests, each of its own kind."""

    async def one() -> None:
        word = f"{MARK}{rng.getrandbits(60)}"
        path = rng.choice(ROUTES).format(word)
        method = rng.choice(["GET", "POST", "POST", "PUT", "DELETE", "PATCH", word.upper()])
        fields: dict[str, Any] = {
            "model": rng.choice(["big", "big", word, "snippets"]),
            "messages": [{"role": rng.choice(["user", word]), "content": word}],
            "rag": rng.choice([{"mode": "off"}, {"mode": word}, {"index": word}]),
            "stream": rng.random() < 0.5,
        }
        headers = {
            "x-request-id": word,
            "user-agent": word,
            "x-meridian-complexity": rng.choice(["", word]),
            "x-meridian-ack": rng.choice(["", f"region={word}"]),
            "traceparent": f"00-{rng.getrandbits(128):032x}-{rng.getrandbits(64):016x}-01",
            "tracestate": f"{word}=1",
        }
        if rng.random() < 0.1:
            headers["Authorization"] = f"Bearer {word}"
        async with gateway.session.request(
            method, gateway.url + path, json=fields, headers=headers
        ) as response:
            await response.read()

    for _ in range(20):
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(one())


async def series(gateway: Running) -> set[str]:
    """Every series there is, by name and labels."""
    accept = {"Accept": "application/openmetrics-text"}
    async with gateway.session.get(f"{gateway.operators_url}/metrics", headers=accept) as response:
        exposition = await response.text()
    families = text_string_to_metric_families(exposition)  # type: ignore[no-untyped-call]
    return {f"{each.name}{sorted(each.labels.items())}" for family in families for each in family.samples}


async def test_what_callers_and_upstreams_say_makes_no_series(gateway: Running) -> None:
    await storm(gateway, random.Random(1))
    before = await series(gateway)
    await storm(gateway, random.Random(2))
    await storm(gateway, random.Random(3))
    after = await series(gateway)
    assert not [each for each in after if MARK in each.lower()]
    assert len(before) > 100
    # A combination of labels that came up for the first time is one of those there can be: few, and of ours.
    assert len(after - before) < 150
    assert len(after) < 1_500
