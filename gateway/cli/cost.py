"""`meridian cost`."""

import asyncio
import csv
import json
import os
import re
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.loading import load_gateway
from gateway.cli.terminal import FAILED, MISUSED, stderr, stdout
from gateway.up.problems import CommandFailed

if TYPE_CHECKING:
    from gateway.config import RegionsConfig
    from gateway.ledger_view import Followed
    from regions.journals.base import Journal

FILE: Final = "view.sqlite"
_DAYS: Final = re.compile(r"(\d{1,4})d")
NANO: Final = 10**9


def cost(
    by: Annotated[
        str, typer.Option(help="Any of tenant,model,day,month,region,outcome,upstream,served; '' for a sum.")
    ] = "tenant,model",
    since: Annotated[
        str | None,
        typer.Option(help="First day (UTC): 2026-11-01, 7d (ago), today. By default this month's first."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Last day, included; by default today.")] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant's id; may be repeated.")] = None,
    config: Annotated[
        Path, typer.Option("--config", "-c", help="A gateway's file, with a regions section.")
    ] = Path("meridian.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A line a row, for spreadsheets.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make the view anew from the journals of all regions.")
    ] = False,
) -> None:
    """Show what models cost: every attempt of every region, answered, failed or left by its caller.

    Reads what is new in the ledgers of all regions that answer into a view (a file that may be deleted at
    any time) and reports from it. Exit code 1: some region did not answer, so its newest bills are missing;
    which, is said.

    Example: meridian cost --by tenant,model,day --since 2026-11-01 --until 2026-11-30

    Example: meridian cost --by tenant --since 7d --csv > week.csv
    """
    if as_json and as_csv:
        raise CommandFailed("--json and --csv exclude each other", code=MISUSED)
    loaded = load_gateway(config)
    if loaded.regions is None:
        raise CommandFailed(
            f"{config} keeps no ledger: it describes no regions",
            "the ledger is a stream in a region's log; see the regions section of `meridian config example`",
            code=MISUSED,
        )
    today = datetime.now(UTC).date()
    days = (
        today.replace(day=1) if since is None else _day(since, today, "--since"),
        today if until is None else _day(until, today, "--until"),
    )
    if days[0] > days[1]:
        raise CommandFailed(f"--since {days[0]} is after --until {days[1]}", code=MISUSED)
    keys = _keys(by)
    file = config.parent / loaded.regions.ledger.dir / FILE
    followed, rows = asyncio.run(
        _read(loaded.regions, config.parent, file, keys, days, tenant or (), rebuild=rebuild)
    )
    if as_json:
        _print_json(keys, days, rows, followed)
    elif as_csv:
        _print_csv(keys, rows)
    else:
        _print_table(keys, days, rows)
    raise typer.Exit(_tell(followed, rebuild=rebuild))


def _keys(by: str) -> list[str]:
    """Raises: CommandFailed: not what a report can be by."""
    from gateway.ledger_view import BY

    keys = [key.strip() for key in by.split(",") if key.strip()]
    wrong = [key for key in keys if key not in BY]
    if wrong or len(set(keys)) < len(keys):
        what = f"{wrong[0]!r} is nothing to report by" if wrong else "a key is named twice"
        raise CommandFailed(f"--by {by}: {what}", f"there are: {', '.join(BY)}", code=MISUSED)
    return keys


def _day(text: str, today: date, option: str) -> date:
    """Raises: CommandFailed: no day."""
    if text == "today":
        return today
    if (ago := _DAYS.fullmatch(text)) is not None:
        return today - timedelta(days=int(ago[1]))
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise CommandFailed(
            f"{option} {text}: no day", "as in 2026-11-01, 7d (seven days ago) or today", code=MISUSED
        ) from None


async def _read(
    regions: "RegionsConfig",
    directory: Path,
    file: Path,
    keys: Sequence[str],
    days: tuple[date, date],
    tenants: Sequence[str],
    *,
    rebuild: bool,
) -> "tuple[list[Followed], list[dict[str, Any]]]":
    """Raises: CommandFailed: the view cannot be used."""
    from contextlib import AsyncExitStack

    from gateway import connect, ledger_view
    from gateway.ledger import NAME
    from regions.runtime.config_file import SecretRef, resolve_secret

    def resolve(ref: SecretRef) -> str:
        return resolve_secret(ref, directory, os.environ)

    async with AsyncExitStack() as stack:
        journals: list[Journal] = []
        for region, place in regions.places.items():
            journals.append(connect.journal(place, region, NAME, resolve))
            stack.push_async_callback(journals[-1].close)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if rebuild:
                followed = await ledger_view.rebuild(file, journals)
            with ledger_view.View(file) as view:
                if not rebuild:
                    followed = await ledger_view.follow(view, journals)
                return followed, view.report(keys, *days, tenants)
        except (sqlite3.Error, OSError) as error:
            raise CommandFailed(
                f"{file}: {error}",
                "a damaged view is made anew by --rebuild; its directory is regions.ledger.dir",
            ) from error


def _total(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    from gateway.ledger_view import SUMS

    return {name: sum(row[name] for row in rows) for name in SUMS}


def _print_json(
    keys: Sequence[str],
    days: tuple[date, date],
    rows: Sequence[Mapping[str, Any]],
    followed: "Sequence[Followed]",
) -> None:
    regions = {
        each.region: {"read": each.read, "trimmed": each.trimmed, "problem": each.problem or None}
        for each in followed
    }
    shown = {
        "since": days[0].isoformat(),
        "until": days[1].isoformat(),
        "by": list(keys),
        "rows": [{**row, "usd": row["nano_usd"] / NANO} for row in rows],
        "total": {**(total := _total(rows)), "usd": total["nano_usd"] / NANO},
        "regions": regions,
    }
    typer.echo(json.dumps(shown, indent=2))


def _print_csv(keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    counts = ("attempts", "input_tokens", "cached_tokens", "output_tokens")
    out.writerow([*keys, *counts, "usd"])
    for row in rows:
        out.writerow([_cell(row[key]) for key in keys] + [row[name] for name in counts] + [exact_usd(row)])


def _cell(text: str) -> str:
    """No spreadsheet is to take a name for a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text


def exact_usd(row: Mapping[str, Any]) -> str:
    """USD with all nine places, from the integer."""
    whole, part = divmod(row["nano_usd"], NANO)
    return f"{whole}.{part:09d}"


def _print_table(keys: Sequence[str], days: tuple[date, date], rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = stdout()
    if not rows:
        out.print(f"no attempts from {days[0]} to {days[1]} (UTC)")
        return
    table = Table(box=None, show_footer=bool(keys))
    total = _total(rows)
    for place, key in enumerate(keys):
        table.add_column(key, footer="" if place else "total")
    for name, head in _COLUMNS.items():
        table.add_column(head, footer=_shown(total, name), justify="right")
    for row in rows:
        table.add_row(*(escape(row[key]) for key in keys), *(_shown(row, name) for name in _COLUMNS))
    out.print(f"{days[0]} to {days[1]} (UTC)")
    out.print(table)


_COLUMNS: Final = {
    "attempts": "attempts",
    "input_tokens": "input",
    "cached_tokens": "of it cached",
    "output_tokens": "output",
    "nano_usd": "USD",
}


def _shown(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name] / NANO:,.6f}" if name == "nano_usd" else f"{row[name]:,}"


def _tell(followed: "Sequence[Followed]", *, rebuild: bool) -> int:
    """Say on stderr what a report may lack; the exit code."""
    out = stderr()
    for each in followed:
        if each.trimmed:
            out.print(
                f"{each.region}: its {each.trimmed} oldest records are gone from the journal", markup=False
            )
        if each.unreadable:
            out.print(f"{each.region}: {each.unreadable} records are no bills", markup=False)
        if each.problem:
            out.print(f"{each.region}: its newest bills are missing: {each.problem}", markup=False)
    silent = any(each.problem for each in followed)
    if silent and rebuild:
        out.print("the view was left as it was: it is made anew only from all regions")
    return FAILED if silent else 0
