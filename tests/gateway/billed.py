"""A region with one real log server and a scripted model, for what an LLM call comes to in the ledger."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from gateway import billing
from gateway.billing import Bill
from gateway.cli import main
from gateway.ledger import NAME
from regions.journals.jetstream import Config, JetStreamJournal
from regions.names import RegionId
from tests.contracts.nats_process import NatsProcess

US: Final = RegionId("us-east")
CARD: Final = {"input_usd": 2.0, "cached_input_usd": 0.5, "output_usd": 8.0, "window_tokens": 8_000}


def sections(nats: NatsProcess, *base_urls: str) -> dict[str, Any]:
    """The model `big`, asked at these endpoints in order, and one region with its log."""
    tiers = ["equal", *["cheaper"] * (len(base_urls) - 1)]
    upstreams = [
        {"kind": "openai", "base_url": url, "model": f"m{n}", "tier": tier}
        for n, (url, tier) in enumerate(zip(base_urls, tiers, strict=True))
    ]
    return {
        "models": {"big": {"upstreams": upstreams}},
        "catalogue": {f"m{n}": CARD for n in range(len(base_urls))},
        "regions": {"places": {US: {"log": {"kind": "jetstream", "urls": [nats.url], "shards": 1}}}},
    }


@asynccontextmanager
async def journal(nats: NatsProcess) -> AsyncIterator[JetStreamJournal]:
    made = JetStreamJournal(Config(urls=[nats.url]), region=US, name=NAME, token=None)
    try:
        yield made
    finally:
        await made.close()


async def bills(nats: NatsProcess) -> list[Bill]:
    """Every bill in the journal, each once."""
    async with journal(nats) as kept:
        state = await kept.state(timeout_s=5)
        async with aclosing(kept.read(state.first - 1, state.incarnation)) as records:
            found = [billing.decode(record.data) async for record in records]
    assert None not in found
    return list({each.id: each for each in found if each is not None}.values())


async def until_billed(nats: NatsProcess, count: int) -> list[Bill]:
    """The bills, once there are so many."""
    async with asyncio.timeout(20):
        while len(found := await bills(nats)) < count:  # noqa: ASYNC110 - the server does not tell us
            await asyncio.sleep(0.05)
    return found


async def meridian(
    capsys: pytest.CaptureFixture[str], config: Path, *arguments: str, command: str = "cost"
) -> tuple[int, str, str]:
    """A command in this process: its exit code, and what it printed on stdout and stderr."""
    capsys.readouterr()
    code = await asyncio.to_thread(_code, [command, "--config", os.fspath(config), *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def _code(argv: list[str]) -> int:
    try:
        main(argv)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def started(directory: Path, name: str) -> NatsProcess:
    (directory / name).mkdir()
    server = NatsProcess(directory / name, domain=name)
    server.start()
    return server
