"""`meridian up`."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.terminal import stdout
from gateway.up.keys import default_home
from gateway.up.llm import LlmWish
from gateway.up.problems import CommandFailed
from regions.errors import BadName
from regions.names import parse_region


def up(
    region: Annotated[str, typer.Option(help="The region's name.")] = "us-east",
    base_port: Annotated[
        int | None,
        typer.Option(
            min=1024, max=64000, help="Gateway's port; node +100, operators +1000. By default 8401."
        ),
    ] = None,
    llm: Annotated[
        LlmWish,
        typer.Option(help="auto: MERIDIAN_LLM_BASE_URL's, if set; local: a small one; none: excerpts."),
    ] = LlmWish.AUTO,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where it keeps its files. [default: ~/.meridian]")
    ] = None,
    question: Annotated[str | None, typer.Option(help="What to ask once the first passages are in.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier start left.")] = False,
    exit_after_demo: Annotated[
        bool, typer.Option("--exit-after-demo", help="Stop once the question is answered.")
    ] = False,
) -> None:
    """Start a region here, ask it a question, keep it running.

    One vector node and one gateway on loopback, with the bundled corpus. Set MERIDIAN_LLM_BASE_URL,
    MERIDIAN_LLM_API_KEY and MERIDIAN_LLM_MODEL for a model's answers; without, they are excerpts.

    Example: meridian up --question "who wrote the book the origin of species"
    """
    from gateway.up.demo import QUESTION
    from gateway.up.region import Options
    from gateway.up.region import up as run_up
    from gateway.up.report import Report
    from regions.runtime import lifecycle

    try:
        parse_region(region)
    except BadName as error:
        raise CommandFailed(str(error), code=2) from None
    home = (data_dir or default_home(os.environ)).expanduser().resolve()
    options = Options(region, home, base_port, llm, question or QUESTION, fresh, exit_after_demo)
    report = Report(stdout(), time.monotonic)
    lifecycle.run(lambda stop: run_up(options, dict(os.environ), report, stop))
