"""`meridian version`."""

from importlib.metadata import version as version_of

import typer


def version() -> None:
    """Print the version.

    Example: meridian version
    """
    typer.echo(version_of("meridian-gateway"))
