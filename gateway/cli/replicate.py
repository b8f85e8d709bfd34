"""`meridian replicate`."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.loading import load_gateway
from regions.runtime import lifecycle


def replicate(
    config: Annotated[Path, typer.Option("--config", "-c", help="The region's gateway YAML file.")],
) -> None:
    """Apply the changes of every region's log to this region's indexes.

    Run one or more a region, with the file that its gateways have: one of them works, the others stand by.

    Example: meridian replicate --config meridian.yaml
    """
    from gateway.replication import run_replicator

    loaded = load_gateway(config)
    lifecycle.run(lambda stop: run_replicator(loaded, config_dir=config.parent, stop=stop))
