"""`meridian receipt`."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from gateway.cli.operators import OPERATORS, asked
from gateway.cli.terminal import stdout
from gateway.up.keys import admin_key as key_of_up
from gateway.up.problems import CommandFailed

if TYPE_CHECKING:
    from rich.table import Table

BAR: Final = 40
"""Characters that stand for the whole of a request's time."""


def receipt(
    request_id: Annotated[
        str | None, typer.Argument(help="An answer's x-request-id. Without one: the last requests.")
    ] = None,
    operators: Annotated[
        list[str],
        typer.Option(
            envvar="MERIDIAN_OPERATORS", help="URL of an operators' port; may be given several times."
        ),
    ] = [OPERATORS],  # noqa: B006 - typer's way of a default
    admin_key: Annotated[
        str | None,
        typer.Option(
            envvar="MERIDIAN_ADMIN_KEY",
            help="By default the one that `meridian up` made here.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many of the last requests.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
) -> None:
    """Show what became of a request: what was tried, where, how long, how stale, what it cost, and why.

    Every gateway process keeps the receipts of its last 2,000 requests in memory. Of several (regions, or
    the workers of one, whose operators' ports follow each other), name each: the first that has it answers.
    Exit code 1: none has it.

    Example: meridian receipt 4f1c… --operators http://127.0.0.1:9401 --operators http://127.0.0.1:9402
    """
    key = admin_key or key_of_up(os.environ)
    if not key:
        raise CommandFailed(
            "no admin key",
            "give the one of server.admin_key with --admin-key, or set MERIDIAN_ADMIN_KEY",
            code=2,
        )
    if request_id is None:
        found = [
            each for url in operators for each in _get(url, f"/admin/receipts?limit={limit}", key)["receipts"]
        ]
        found = sorted(found, key=lambda each: each["ended_s"], reverse=True)[:limit]
        if as_json:
            typer.echo(json.dumps(found, indent=2))
        else:
            stdout().print(_summary(found))
        return
    one = _find(operators, request_id, key)
    if as_json:
        typer.echo(json.dumps(one, indent=2))
    else:
        _print(one)


def _find(operators: Sequence[str], request_id: str, key: str) -> Mapping[str, Any]:
    for url in operators:
        found = _get(url, f"/admin/receipts/{quote(request_id, safe='')}", key, may_lack=True)
        if found:
            return found
    raise CommandFailed(
        f"no receipt of {request_id!r} at {', '.join(operators)}",
        "a process keeps the last 2,000 of its own; name other regions' and workers' ports with --operators",
    )


def _get(url: str, path: str, key: str, *, may_lack: bool = False) -> Mapping[str, Any]:
    """What is there; {} when it may lack and does. Raises: CommandFailed: refused."""
    status, found = asked(url, path, key=key)
    if status == 200:
        return found
    if may_lack and status == 404:
        return {}
    raise CommandFailed(f"{url}{path.partition('?')[0]} answered {status}", str(found.get("error", "")))


def _summary(receipts: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "request", "tenant", "call", "outcome", "ms", "model", "replica", "USD", "degraded", box=None
    )
    for each in receipts:
        answer = each["answer"]
        table.add_row(
            escape(each["request_id"]),
            each["tenant"],
            each["call"],
            each["outcome"],
            f"{each['total_ms']:.0f}",
            escape(answer.get("model") or ""),
            answer.get("replica") or "",
            f"{answer['cost_usd']:.6f}" if answer else "",
            answer.get("degraded", ""),
        )
    return table


def _print(receipt: Mapping[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = stdout()
    console.print(_summary([receipt]))
    for problem in filter(None, (receipt["error"], receipt["detail"])):
        console.print(f"  {problem}", markup=False, style="red")
    total_ms = max(receipt["total_ms"], 0.01)
    stages = Table("stage", "ms", "", box=None)
    for name, ms in receipt["stages_ms"].items():
        stages.add_row(name, f"{ms:.1f}", "█" * min(BAR, round(BAR * ms / total_ms)))
    steps = Table("at ms", "step", "", box=None)
    for step in receipt["steps"]:
        details = "  ".join(f"{name}={value}" for name, value in step["details"].items())
        steps.add_row(f"{step['at_ms']:.1f}", step["name"], escape(details))
    for table in (stages, steps):
        if table.row_count:
            console.print()
            console.print(table)
