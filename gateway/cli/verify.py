"""`meridian verify`."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.loading import load_gateway
from gateway.cli.regional import Regions, connected, known_index
from gateway.cli.terminal import stderr, stdout
from regions.names import IndexName, NamespaceRef

if TYPE_CHECKING:
    from gateway.config import GatewayConfig
    from regions.verify import Compared

SHOWN = 10
"""Differing records that are named; the others are counted."""


def verify(
    config: Annotated[Path, typer.Option("--config", "-c", help="Any gateway's YAML file.")],
    index: Annotated[str, typer.Option(help="The index whose replicas are compared.")],
    namespace: Annotated[
        str | None, typer.Option(help="Only this one, as it is stored. [default: all there are]")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Send what most replicas hold through the log to all of them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object for each namespace.")] = False,
) -> None:
    """Compare every record of every replica, at one position of the log.

    Exit code 0 when all are equal (or were repaired), 1 when they are not.

    Example: meridian verify --config meridian.yaml --index docs --repair
    """
    loaded = load_gateway(config)
    name = known_index(loaded, index, config)
    is_good = asyncio.run(_verify(loaded, config, name, namespace, repair=repair, as_json=as_json))
    raise typer.Exit(0 if is_good else 1)


async def _verify(
    config: "GatewayConfig", path: Path, index: IndexName, stored: str | None, *, repair: bool, as_json: bool
) -> bool:
    from regions import verify

    async with connected(config, path) as regions:
        replicas = regions.replicas[index]
        wanted = [NamespaceRef(index, stored)] if stored else await verify.namespaces(index, replicas)
        is_good = True
        for namespace in wanted:
            compared = await verify.compare(regions.live, namespace, replicas)
            _print(compared, as_json=as_json)
            if repair and compared.differences:
                compared = await _repaired(regions, compared)
                _print(compared, as_json=as_json)
            is_good = is_good and compared.is_equal
        stderr().print(f"{len(wanted)} namespace(s) compared", markup=False)
        return is_good


async def _repaired(regions: Regions, compared: "Compared") -> "Compared":
    """What is left after a repair."""
    from regions import verify
    from regions.fences import Fences

    replicas = regions.replicas[compared.namespace.index]
    fences = Fences(regions.live.logs, lambda: regions.live.topology)
    lsn = await verify.repair(regions.live, fences, compared, replicas)
    stderr().print(f"{compared.namespace.stored}: repaired at {lsn}; comparing again", markup=False)
    return await verify.compare(regions.live, compared.namespace, replicas)


def _print(compared: "Compared", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts(compared)))
        return
    verdict = "equal" if compared.is_equal else f"{len(compared.differences)} record(s) differ"
    out = stdout()
    out.print(f"{compared.namespace.stored}  {verdict}  at {compared.position}", markup=False)
    if not compared.is_settled:
        out.print("  it was changed during every comparison: this is no verdict", markup=False)
    for region, digest in sorted(compared.digests.items()):
        out.print(f"  {region}: {digest}", markup=False)
    for region, why in sorted(compared.absent.items()):
        out.print(f"  {region}: not compared, {why}", markup=False)
    for id_, holds in list(compared.differences.items())[:SHOWN]:
        lacking = sorted(region for region, version in holds.items() if version is None)
        out.print(f"  {id_}: " + (f"missing in {', '.join(lacking)}" if lacking else "differs"), markup=False)
    if len(compared.differences) > SHOWN:
        out.print(f"  … and {len(compared.differences) - SHOWN} more", markup=False)


def facts(compared: "Compared") -> dict[str, Any]:
    """The comparison as JSON says it."""
    return {
        "index": compared.namespace.index,
        "namespace": compared.namespace.stored,
        "position": compared.position,
        "equal": compared.is_equal,
        "settled": compared.is_settled,
        "digests": {region: str(digest) for region, digest in compared.digests.items()},
        "absent": dict(compared.absent),
        "differences": {
            id_: {region: None if each is None else f"{each:032x}" for region, each in holds.items()}
            for id_, holds in compared.differences.items()
        },
    }
