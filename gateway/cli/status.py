"""`meridian status`."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from gateway.cli import regional_tables
from gateway.cli.loading import load_gateway
from gateway.cli.operators import OPERATORS, asked
from gateway.cli.regional import connected
from gateway.cli.terminal import MISUSED, is_terminal, stdout
from gateway.up.problems import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regions.registers.base import Registers

TIMEOUT_S: Final = 5.0
REGIONAL: Final = ("regions", "homes", "replicas", "namespaces", "tails")
"""Facts that have tables of their own."""


def status(
    operators: Annotated[
        str, typer.Option(envvar="MERIDIAN_OPERATORS", help="URL of the operators' port.")
    ] = OPERATORS,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Ask the regions of this gateway's file, instead of a gateway."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Everything, for programs; a line each time with --watch.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between, with --watch.")] = 2.0,
) -> None:
    """Show whether a gateway is ready and what it stands on, or how every region does.

    Of a gateway: exit code 0 when it is ready, 1 when it is not; worker n of several answers on the port
    plus n. With --config the logs, registers and replicas themselves are asked, so it works without any
    gateway: homes, lag and position of every namespace, and what replaced homes never shipped; exit code 0
    when every replica can be read.

    Example: meridian status --operators http://127.0.0.1:9401

    Example: meridian status --config meridian.yaml --watch
    """
    if watch:
        asyncio.run(_watch(operators, config, every_s, as_json=as_json))
    facts, is_good = asyncio.run(_ask(operators, config))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _show(facts)
    raise typer.Exit(0 if is_good else 1)


async def _ask(operators: str, config: Path | None) -> tuple[Mapping[str, Any], bool]:
    """What there is to show, and whether all is well. Raises: ConfigError, CommandFailed."""
    if config is not None:
        facts = await _ask_regions(config)
        return facts, all_readable(facts)
    facts = await asyncio.to_thread(_readyz, operators)
    return facts, bool(facts.get("ready"))


async def _watch(operators: str, config: Path | None, every_s: float, *, as_json: bool) -> NoReturn:
    """Look again and again. Whoever does not answer is what people watch for, so it ends nothing.

    Raises: CommandFailed: the command line is wrong. ConfigError.
    """
    while True:
        try:
            found, is_good = await _ask(operators, config)
        except CommandFailed as error:
            if error.code == MISUSED:
                raise
            found, is_good = {"problem": error.problem}, False
        facts = {"at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "good": is_good, **found}
        if as_json:
            typer.echo(json.dumps(facts))
        else:
            if is_terminal():
                stdout().clear()
            _show(facts)
        await asyncio.sleep(every_s)


def _show(facts: Mapping[str, Any]) -> None:
    if others := {name: value for name, value in facts.items() if name not in REGIONAL}:
        _print_table(others)
    regional_tables.show(facts)


async def _ask_regions(path: Path) -> Mapping[str, Any]:
    """What every region tells of itself, without a gateway. Raises: ConfigError, CommandFailed."""
    from regions import status as told
    from regions.errors import ReplicaError
    from regions.verify import namespaces

    loaded = load_gateway(path)
    async with connected(loaded, path) as regions:
        await regions.live.refresh_canaries()
        facts: dict[str, Any] = {"namespaces": {}}
        for index, replicas in regions.replicas.items():
            try:
                found = await namespaces(index, replicas)
            except ReplicaError:
                found = []  # the table of replicas says who does not answer
            now_s, topology = asyncio.get_running_loop().time(), regions.live.topology
            facts["namespaces"][index] = {
                each.stored: told.namespace_lines(topology, each, now_s) for each in found
            }
        up = regions.live.topology.logs_s  # the table of regions says who does not answer
        facts["tails"] = await _tails([each for r, each in regions.live.registers.items() if r in up])
        return told.summary(regions.live.topology, asyncio.get_running_loop().time()) | facts


async def _tails(registers: "Sequence[Registers]") -> list[Mapping[str, Any]]:
    """What became of every tail that is known of: of one that was empty there is nothing to tell."""
    import msgspec

    from regions import tails
    from regions.errors import LogUnavailable

    found: list[Mapping[str, Any]] = []
    for each in registers:
        with suppress(LogUnavailable):
            notes = await each.scan(tails.TAILS_PREFIX, timeout_s=TIMEOUT_S)
            saved = [tails.decode_saved(note.value) for note in notes]
            found += [msgspec.structs.asdict(tail) for tail in saved if not tail.is_empty]
    return found


def all_readable(facts: Mapping[str, Any]) -> bool:
    """Whether every log answers and every replica can be read, with nothing parked."""
    replicas = [each for index in facts["replicas"].values() for each in index.values()]
    return all(place["log"] == "up" for place in facts["regions"].values()) and all(
        each["state"] == "readable" and not each["parked"] for each in replicas
    )


def _readyz(operators: str) -> Mapping[str, Any]:
    """What /readyz says, ready or not (503, and the body says why). Raises: CommandFailed."""
    _, facts = asked(operators, "/readyz", timeout_s=TIMEOUT_S)
    return facts


def _print_table(facts: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for path, value in _flat("", facts):
        table.add_row(path, str(value))
    stdout().print(table)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Each plain value with its dotted path."""
    match value:
        case dict() if value:
            for key, inner in value.items():
                yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
        case list() if value:
            for number, inner in enumerate(value):
                yield from _flat(f"{prefix}.{number}", inner)
        case _:
            yield prefix, value
