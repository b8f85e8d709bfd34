"""`meridian index create`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.loading import load_gateway
from gateway.cli.terminal import stdout
from gateway.up import indexes
from gateway.up.problems import CommandFailed
from regions.runtime.config_file import SecretRef, resolve_secret

if TYPE_CHECKING:
    from gateway.config import GatewayConfig, ReplicaConfig

index = typer.Typer(no_args_is_help=True)


@index.callback()
def _group() -> None:
    """Create indexes in every region of a configuration."""


@index.command()
def create(
    name: Annotated[str, typer.Argument(help="As the configuration names it.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="The gateway's YAML file.")],
    cloud: Annotated[str, typer.Option(help="On Pinecone: whose cloud.")] = "aws",
    cloud_region: Annotated[
        list[str] | None,
        typer.Option(help="On Pinecone: REGION=CLOUD-REGION. [default: the region's name and -1]"),
    ] = None,
) -> None:
    """Create an index in every region of the configuration.

    Dense and sparse together, in the configured dimension and metric, so that hybrid retrieval never
    needs a re-ingestion. An index that is there already in the same shape is left alone; another shape
    is an error.

    Example: meridian index create docs --config meridian.yaml
    """
    loaded = load_gateway(config)
    if name not in loaded.indexes:
        known = ", ".join(sorted(loaded.indexes)) or "none"
        raise CommandFailed(f"{config} has no index {name!r}", f"there are: {known}", code=2)
    places = dict(_place(text) for text in cloud_region or [])
    for replica in loaded.indexes[name].replicas:
        _create(loaded, name, replica, config.parent, cloud, places)


def _place(text: str) -> tuple[str, str]:
    region, equals, place = text.partition("=")
    if not equals or not place:
        raise CommandFailed(f"{text!r} is no cloud region", "write it like us-east=us-east-1", code=2)
    return region, place


def _create(
    config: "GatewayConfig",
    name: str,
    replica: "ReplicaConfig",
    config_dir: Path,
    cloud: str,
    places: dict[str, str],
) -> None:
    own = replica.own()
    if replica.kind != "pinecone":
        raise CommandFailed(f"a replica of kind {replica.kind!r} has no control plane", code=2)
    wanted = config.indexes[name]
    shape = indexes.Shape(wanted.dimension, wanted.metric, wanted.sparse)
    deployment = indexes.Deployment(cloud, places.get(replica.region, f"{replica.region}-1"))
    secret = own.get("api_key")
    key = resolve_secret(SecretRef(secret), config_dir, os.environ) if secret else "none"
    made = indexes.create(indexes.control_url(own["url"]), key, name, shape, deployment)
    done = "created" if made.created else "was there"
    console = stdout()
    console.print(f"{replica.region}: {done} at {made.host}", markup=False)
    if indexes.bare(made.host) != indexes.bare(own["url"]):
        console.print(
            f"  its replica in the configuration has another url: {own['url']}", style="yellow", markup=False
        )
