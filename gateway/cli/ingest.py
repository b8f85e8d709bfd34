"""`meridian ingest`."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.terminal import stderr, stdout
from gateway.up.keys import demo_key
from gateway.up.problems import CommandFailed

if TYPE_CHECKING:
    from gateway.ingest.run import IngestOptions, Tally

GATEWAY: Final = "http://127.0.0.1:8401"
SHOWN_REFUSALS: Final = 50
LINE_EVERY_S: Final = 5.0


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders: .jsonl .md .txt .html")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where the records go.")],
    index: Annotated[str | None, typer.Option(help="By default the tenant's.")] = None,
    gateway: Annotated[str, typer.Option(envvar="MERIDIAN_GATEWAY", help="The gateway's URL.")] = GATEWAY,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="MERIDIAN_API_KEY", help="By default the demo's, which `meridian up` made here."),
    ] = None,
    sync: Annotated[
        bool, typer.Option("--sync", help="Remove what earlier runs put there and the paths no longer hold.")
    ] = False,
    text_field: Annotated[
        str, typer.Option(help="The index's text field; .jsonl rows hold their text under it.")
    ] = "text",
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Batches under way at once.")] = 4,
) -> None:
    """Put files into a namespace.

    A .jsonl row is a record: `id`, `text`, and flat fields that become its metadata. Other files are cut
    into pieces, `<path>#<n>`, under their headings. What is unchanged is skipped, so after an
    interruption run the same command again. Records that ingest did not write are never removed.

    Exit code 1: something was refused; the summary says what and why.

    Example: meridian ingest docs faq.jsonl --namespace help --sync
    """
    from gateway.ingest.run import IngestOptions

    key = api_key or demo_key(os.environ)
    if not key:
        raise CommandFailed("no API key", "give one with --api-key, or set MERIDIAN_API_KEY", code=2)
    options = IngestOptions(paths, text_field, sync, in_flight)
    tally = asyncio.run(_ingest(options, gateway, key, index, namespace))
    _summary(tally)
    if tally.refused:
        raise typer.Exit(1)


async def _ingest(
    options: "IngestOptions", gateway: str, key: str, index: str | None, namespace: str
) -> "Tally":
    from gateway.ingest.gateway_client import GatewayClient, GatewayFailed
    from gateway.ingest.run import run_ingest

    try:
        async with GatewayClient(gateway, key, index=index, namespace=namespace) as client:
            with _progress() as on_progress:
                return await run_ingest(client, options, on_progress)
    except GatewayFailed as error:
        raise CommandFailed(str(error), "what was sent stays; run it again to go on") from error


@contextlib.contextmanager
def _progress() -> Iterator[Callable[["Tally"], None]]:
    """A bar on a terminal, elsewhere a line every few seconds."""
    console = stderr()
    if not console.is_terminal:
        yield _line_printer(console.print)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def show(tally: "Tally") -> None:
            progress.update(
                task,
                description=_brief(tally),
                total=max(1, tally.bytes_total),
                completed=tally.bytes_done,
            )

        yield show


def _line_printer(say: Callable[[str], None]) -> Callable[["Tally"], None]:
    said_s = 0.0

    def show(tally: "Tally") -> None:
        nonlocal said_s
        if tally.elapsed_s - said_s >= LINE_EVERY_S:
            said_s = tally.elapsed_s
            percent = 100 * tally.bytes_done / max(1, tally.bytes_total)
            say(f"{percent:3.0f}%  {_brief(tally)}")

    return show


def _brief(tally: "Tally") -> str:
    return f"{tally.records} records, {tally.records_per_s:.0f}/s"


def _summary(tally: "Tally") -> None:
    console = stdout()
    mib = tally.bytes_done / (1 << 20)
    console.print(
        f"{tally.sources} files: {tally.written} records written, {tally.unchanged} unchanged,"
        f" {tally.removed} removed, {len(tally.refused)} refused"
    )
    console.print(
        f"{tally.elapsed_s:.1f} s, {tally.records_per_s:.1f} records/s,"
        f" {mib / tally.elapsed_s if tally.elapsed_s else 0:.2f} MiB/s"
    )
    for refusal in tally.refused[:SHOWN_REFUSALS]:
        console.print(f"refused  {refusal}", markup=False)
    if len(tally.refused) > SHOWN_REFUSALS:
        console.print(f"refused  … and {len(tally.refused) - SHOWN_REFUSALS} more")
