"""`meridian models`."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.loading import load_gateway
from gateway.cli.terminal import FAILED, is_terminal, stderr, stdout

if TYPE_CHECKING:
    from gateway.catalogue import ModelCard
    from gateway.config import GatewayConfig
    from gateway.imports import Imported

PIPED_WIDTH = 240
"""Of what no terminal shows: names are not to be cut there."""


def models(
    config: Annotated[Path, typer.Option("--config", "-c", help="A gateway's YAML file.")] = Path(
        "meridian.yaml"
    ),
    left_out: Annotated[
        bool, typer.Option("--left-out", help="Also the models that providers list and that are not offered.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
) -> None:
    """List the models that tenants may name: upstreams, prices, windows, capabilities.

    Prices are USD per million tokens. Providers with import_models are asked for their lists, as at a
    gateway's start. Exit code 1: one of them did not answer.

    Example: meridian models --config meridian.yaml --left-out
    """
    loaded = load_gateway(config)
    imported = asyncio.run(_ask(loaded, config.parent))
    rows = list(_rows(loaded, imported))
    missing = [{"provider": e.provider, "model": e.model, "why": e.why} for e in imported.left_out]
    if as_json:
        shown = {"models": rows, "left_out": missing, "problems": dict(imported.problems)}
        typer.echo(json.dumps(shown, indent=2))
    else:
        _print(rows)
        if left_out:
            for each in missing:
                stdout().print(f"left out: {each['provider']} {each['model']}: {each['why']}", markup=False)
        elif missing:
            for provider, count in Counter(each["provider"] for each in missing).items():
                stderr().print(
                    f"{provider}: {count} models are not offered; --left-out says why", markup=False
                )
    for provider, problem in imported.problems.items():
        stderr().print(f"{provider}: its models are not known: {problem}", markup=False)
    raise typer.Exit(FAILED if imported.problems else 0)


async def _ask(config: "GatewayConfig", directory: Path) -> "Imported":
    from gateway.imports import Imports
    from gateway.logs import make_logger
    from regions.runtime.config_file import resolve_secret

    log = make_logger("error", "auto", region=config.region, worker=0)
    imports = Imports(config, lambda ref: resolve_secret(ref, directory, os.environ), log)
    await imports.look()
    return imports.imported


def _rows(config: "GatewayConfig", imported: "Imported") -> Iterator[dict[str, Any]]:
    whole = imported.into(config)
    cards = whole.cards()
    for alias, model in whole.models.items():
        for number, upstream in enumerate(model.upstreams):
            name = whole.card_name(alias, upstream)
            card = cards[name]
            yield {
                "alias": alias,
                "upstream": f"{alias}/{number}",
                "tier": upstream.tier.value,
                "model": upstream.model,
                "at": str(upstream.own().get("base_url", upstream.kind)),
                "input_usd": card.input_usd,
                "cached_input_usd": card.input_usd
                if card.cached_input_usd is None
                else card.cached_input_usd,
                "output_usd": card.output_usd,
                "window_tokens": card.window_tokens,
                "capabilities": [each.value for each in card.capabilities],
                "price_from": _source(config, name, card),
            }


def _source(config: "GatewayConfig", name: str, card: "ModelCard") -> str:
    """Who said what it costs."""
    from gateway.catalogue import SEED_MODELS

    if card in config.catalogue.values():
        return "catalogue"
    return "built in" if card in SEED_MODELS.values() else name.partition(":")[0]


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        stdout().print("no models: every answer is an excerpt; see models and providers in the configuration")
        return
    table = Table(box=None)
    for head in ("alias", "upstream", "model"):
        table.add_column(head, no_wrap=True)
    for head in ("input", "cached", "output", "window"):
        table.add_column(head, justify="right")
    for head in ("can", "price from"):
        table.add_column(head)
    for row in rows:
        table.add_row(*map(escape, _cells(row)))
    stdout().print(table, width=None if is_terminal() else PIPED_WIDTH)


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield row["alias"]
    yield f"{row['upstream'].rpartition('/')[2]} {row['tier']}"
    yield row["model"]
    for price in ("input_usd", "cached_input_usd", "output_usd"):
        yield f"{row[price]:g}"
    yield f"{row['window_tokens']:,}"
    yield " ".join(row["capabilities"])
    yield row["price_from"]
