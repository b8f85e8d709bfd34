"""`meridian status`."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import typer

from gateway.cli.terminal import stdout
from gateway.up.problems import CommandFailed

OPERATORS: Final = "http://127.0.0.1:9401"
TIMEOUT_S: Final = 5.0


def status(
    operators: Annotated[
        str, typer.Option(envvar="MERIDIAN_OPERATORS", help="URL of the operators' port.")
    ] = OPERATORS,
    as_json: Annotated[bool, typer.Option("--json", help="As the gateway said it.")] = False,
) -> None:
    """Show whether a gateway is ready, and what it stands on.

    Exit code 0 when it is ready, 1 when it is not. Worker n of several answers on the port plus n.

    Example: meridian status --operators http://127.0.0.1:9401
    """
    facts = _readyz(operators.rstrip("/"))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print_table(facts)
    raise typer.Exit(0 if facts.get("ready") else 1)


def _readyz(operators: str) -> Mapping[str, Any]:
    """What /readyz says, ready or not. Raises: CommandFailed: nobody answers, or somebody else does."""
    if not operators.startswith(("http://", "https://")):
        raise CommandFailed(f"{operators!r} is no URL", "write it like http://127.0.0.1:9401", code=2)
    try:
        with urllib.request.urlopen(f"{operators}/readyz", timeout=TIMEOUT_S) as answer:  # noqa: S310 - checked above
            body = answer.read()
    except urllib.error.HTTPError as error:  # 503: not ready, and the body says why
        body = error.read()
    except OSError as error:
        raise CommandFailed(
            f"nobody answers at {operators}: {getattr(error, 'reason', error)}",
            "is the gateway running? --operators names another port",
        ) from error
    try:
        facts = json.loads(body)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise CommandFailed(
            f"{operators}/readyz is not a gateway's", "this is the operators' port, not the tenants'"
        )
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
