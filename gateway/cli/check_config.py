"""`meridian check-config`."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.loading import load_gateway
from gateway.cli.terminal import stdout


def check_config(
    config: Annotated[Path, typer.Option("--config", "-c", help="The gateway's YAML file.")],
) -> None:
    """Name every problem of a configuration.

    All of them at once, each with its path and a hint; MERIDIAN__… variables are applied first.

    Example: meridian check-config --config meridian.yaml
    """
    loaded = load_gateway(config)
    stdout().print(
        f"{config}: good. Region {loaded.region}, {len(loaded.indexes)} index(es), "
        f"{len(loaded.models)} model(s), port {loaded.server.port}."
    )
