"""`meridian ask`."""

import asyncio
import os
from typing import Annotated, Final

import typer

from gateway.cli.terminal import stdout
from gateway.up.answers import Asked, receipt
from gateway.up.answers import ask as ask_gateway
from gateway.up.keys import demo_key
from gateway.up.problems import CommandFailed

GATEWAY: Final = "http://127.0.0.1:8401"


def ask(
    question: Annotated[str, typer.Argument(help="In quotes.")],
    gateway: Annotated[str, typer.Option(envvar="MERIDIAN_GATEWAY", help="The gateway's URL.")] = GATEWAY,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="MERIDIAN_API_KEY", help="By default the demo's, which `meridian up` made here."),
    ] = None,
    model: Annotated[str, typer.Option(help="Alias of the model.")] = "meridian",
    index: Annotated[str | None, typer.Option(help="By default the tenant's.")] = None,
    namespace: Annotated[str | None, typer.Option(help="By default the tenant's.")] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Wait for the whole answer.")] = False,
) -> None:
    """Ask a question; stream the answer and its sources.

    Below the answer stand the passages it cites and its receipt: which region and replica answered,
    the time to the first token, tokens and cost.

    Example: meridian ask "who got the first nobel prize in physics"
    """
    key = api_key or demo_key(os.environ)
    if not key:
        raise CommandFailed("no API key", "give one with --api-key, or set MERIDIAN_API_KEY", code=2)
    asked = Asked(question, gateway, key, model, index, namespace, stream=not no_stream)
    console = stdout()

    def say(piece: str) -> None:
        console.print(piece, end="", markup=False)
        console.file.flush()

    answer = asyncio.run(ask_gateway(asked, say))
    console.print("\n")
    for number, source in enumerate(answer.sources, 1):
        console.print(f"[{number}] {source.title}  {source.url}", markup=False)
    console.print(" · ".join(receipt(answer)), style="dim", markup=False)
