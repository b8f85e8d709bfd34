"""`meridian promote`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.loading import load_gateway
from gateway.cli.regional import connected, known_index, known_region
from gateway.cli.terminal import stderr, stdout
from regions.names import IndexName, RegionId

if TYPE_CHECKING:
    from gateway.config import GatewayConfig
    from regions.promotion import Outcome


def promote(
    config: Annotated[Path, typer.Option("--config", "-c", help="Any gateway's YAML file.")],
    index: Annotated[str, typer.Option(help="The index to move.")],
    to: Annotated[str, typer.Option(help="The region that is to take its writes.")],
    forced: Annotated[
        bool, typer.Option("--forced", help="Do not ask the old home: it is gone. May lose its last writes.")
    ] = False,
    drain_s: Annotated[
        float, typer.Option(min=0.1, help="How long the new home may take to catch up.")
    ] = 30.0,
) -> None:
    """Move the home of an index to another region.

    Planned, nothing is lost: writes wait from the fence until the new home holds everything. Broken off,
    run it again, to any region. Forced, what the old home took and never shipped is no part of the history
    any more; `meridian replica tail` writes it to a file when the old home is back.

    Example: meridian promote --config meridian.yaml --index docs --to eu-west
    """
    loaded = load_gateway(config)
    name = known_index(loaded, index, config)
    region = known_region(loaded, name, to)
    outcome = asyncio.run(_promote(loaded, config, name, region, forced, drain_s))
    home = outcome.home
    stdout().print(f"{name}: home is {home.region}, epoch {home.epoch}", markup=False)
    for line in outcome.lost:
        stderr().print(f"  not in the new home: {line}", markup=False)
    if len(home.terms) > 1 and home.terms[-2].is_forced:
        old = home.terms[-2].region
        stderr().print(
            f"  what {old} took and never shipped, when it is back: meridian replica tail "
            f"--config {config} --index {name} --out {name}-tail.jsonl",
            markup=False,
        )


async def _promote(
    config: "GatewayConfig", path: Path, index: IndexName, to: RegionId, forced: bool, drain_s: float
) -> "Outcome":
    from regions import promotion

    def say(line: str) -> None:
        stderr().print(line, markup=False)

    act = promotion.force if forced else promotion.promote
    async with connected(config, path) as regions:
        return await act(regions.places, index, to, drain_s=drain_s, say=say)
