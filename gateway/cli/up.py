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

MOST_REGIONS = 5
"""More do not fit between the ports."""


def up(
    regions: Annotated[
        str, typer.Option(help="Their names, the home of the corpus first.")
    ] = "us-east,eu-west,ap-southeast",
    rtt: Annotated[
        str | None,
        typer.Option(help="Round trips in ms: 0, or us-east:eu-west=80,… [default: 80, 220 and 160]"),
    ] = None,
    base_port: Annotated[
        int | None,
        typer.Option(
            min=1024, max=64000, help="First gateway's port; operators +1000, nodes +100, logs +200."
        ),
    ] = None,
    llm: Annotated[
        LlmWish,
        typer.Option(help="auto: MERIDIAN_LLM_BASE_URL's, if set; local: a small one; none: excerpts."),
    ] = LlmWish.AUTO,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where they keep their files. [default: ~/.meridian]")
    ] = None,
    question: Annotated[str | None, typer.Option(help="What to ask once the first passages are in.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier start left.")] = False,
    exit_after_demo: Annotated[
        bool, typer.Option("--exit-after-demo", help="Stop once the question is answered.")
    ] = False,
) -> None:
    """Start three regions here, ask each a question, keep them running.

    A change log, a vector node, a replicator and a gateway each, on loopback, as far from each other as the
    real ones; with the bundled corpus. Set MERIDIAN_LLM_BASE_URL, MERIDIAN_LLM_API_KEY and MERIDIAN_LLM_MODEL
    for a model's answers; without, they are excerpts.

    Example: meridian up --question "who wrote the book the origin of species"
    """
    from gateway.up.demo import QUESTION
    from gateway.up.plan import FIRST_PORT, RTT_MS, Plan, parse_rtt
    from gateway.up.region import Options
    from gateway.up.region import up as run_up
    from gateway.up.report import Report
    from regions.runtime import lifecycle

    try:
        names = [parse_region(name.strip()) for name in regions.split(",")]
        rtt_ms = RTT_MS if rtt is None else parse_rtt(rtt, names)
    except (BadName, ValueError) as error:
        raise CommandFailed(str(error), code=2) from None
    if len(set(names)) != len(names) or len(names) > MOST_REGIONS:
        raise CommandFailed(f"expected one to {MOST_REGIONS} different regions, not {regions}", code=2)
    home = (data_dir or default_home(os.environ)).expanduser().resolve()
    plan = Plan(home, names, rtt_ms, base_port or FIRST_PORT)
    options = Options(plan, llm, question or QUESTION, fresh, exit_after_demo)
    report = Report(stdout(), time.monotonic)
    lifecycle.run(lambda stop: run_up(options, dict(os.environ), report, stop))
