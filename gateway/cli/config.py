"""`meridian config show` and `meridian config example`."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.loading import load_gateway
from regions.runtime.config_example import example as example_of
from regions.runtime.config_example import masked
from regions.runtime.strict_yaml import to_yaml

config = typer.Typer(no_args_is_help=True)


@config.command()
def show(
    config: Annotated[Path, typer.Option("--config", "-c", help="The gateway's YAML file.")],
) -> None:
    """Print the configuration in force: file, overrides and defaults; secrets stay references.

    Example: MERIDIAN__SERVER__PORT=9000 meridian config show --config meridian.yaml
    """
    typer.echo(to_yaml(masked(load_gateway(config))), nl=False)


@config.command()
def example() -> None:
    """Print a commented configuration to start from.

    Example: meridian config example > meridian.yaml
    """
    from gateway.config import GatewayConfig

    typer.echo(example_of(GatewayConfig), nl=False)
