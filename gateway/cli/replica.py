"""`meridian replica unpark|resync|tail`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.loading import load_gateway
from gateway.cli.regional import connected, known_index, known_region
from gateway.cli.terminal import stderr, stdout
from gateway.up.problems import CommandFailed
from regions.names import IndexName, NamespaceRef, RegionId
from regions.orders import Act

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from gateway.config import GatewayConfig
    from regions.logs.base import Entry, Log
    from regions.topology import Home, Term

replica = typer.Typer(no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="Any gateway's YAML file.")]
Index = Annotated[str, typer.Option(help="The index.")]
Region = Annotated[str, typer.Option(help="Whose replica.")]
Namespace = Annotated[str, typer.Option(help="As it is stored: the tenant's id, a dot, its name.")]

CALL_S = 5.0


@replica.callback()
def _group() -> None:
    """Tell a region's replicator what to do with a namespace."""


@replica.command()
def unpark(config: ConfigFile, index: Index, region: Region, namespace: Namespace) -> None:
    """Have a parked namespace try its refused change again, once what made it refuse is put right.

    Example: meridian replica unpark -c m.yaml --index docs --region eu-west --namespace 0123456789abcdef.faq
    """
    _order(Act.UNPARK, config, index, region, namespace)


@replica.command()
def resync(config: ConfigFile, index: Index, region: Region, namespace: Namespace) -> None:
    """Have a namespace copied anew from the most advanced other replica; it is not read meanwhile.

    Example: meridian replica resync -c m.yaml --index docs --region eu-west --namespace 0123456789abcdef.faq
    """
    _order(Act.RESYNC, config, index, region, namespace)


@replica.command()
def tail(
    config: ConfigFile,
    index: Index,
    out: Annotated[Path, typer.Option(help="The file; it must not be there yet.")],
) -> None:
    """Write what an old home took and never shipped to a file, a JSON object a line.

    The old home's replicator does this by itself, into regions.replicator.tails_dir: meridian status says
    where. This is for another place, or without a replicator. Nothing of a tail is applied anywhere: whoever
    knows the data decides what of it to send again.

    Example: meridian replica tail --config meridian.yaml --index docs --out docs-tail.jsonl
    """
    loaded = load_gateway(config)
    name = known_index(loaded, index, config)
    if out.exists():
        raise CommandFailed(f"{out} is there already", "name another file", code=2)
    count = asyncio.run(_tail(loaded, config, name, out))
    told = f"{count} change(s) in {out}" if count else "it had shipped everything: there is no file"
    stdout().print(told, markup=False)


def _order(act: Act, config: Path, index: str, region: str, namespace: str) -> None:
    loaded = load_gateway(config)
    name = known_index(loaded, index, config)
    where = known_region(loaded, name, region)
    asyncio.run(_give(loaded, config, act, NamespaceRef(name, namespace), where))
    stdout().print(
        f"{where}: told to {act} {namespace}; meridian status shows what becomes of it", markup=False
    )


async def _give(
    config: "GatewayConfig", path: Path, act: Act, namespace: NamespaceRef, region: RegionId
) -> None:
    from regions.orders import Order, encode_order
    from regions.status import parking
    from regions.topology import shard_of

    async with connected(config, path) as regions:
        topology = regions.live.topology
        home = topology.homes.get(namespace.index)
        if home is None:
            raise CommandFailed(f"the home of {namespace.index} is not known", "are the regions reachable?")
        shard = shard_of(namespace, topology.shards)
        parked_at = parking(topology, namespace, region) if act is Act.UNPARK else ()
        for each in parked_at or [home.region]:
            order = Order(act, each, shard, namespace.index, namespace.stored)
            await regions.live.registers[region].put(order.key, encode_order(order), timeout_s=CALL_S)


async def _tail(config: "GatewayConfig", path: Path, index: IndexName, out: Path) -> int:
    from regions.tails import write_tail

    async with connected(config, path) as regions:
        await regions.live.refresh(index)  # what was heard first may be what the old home still believes
        home = regions.live.topology.homes.get(index)
        forced = [term for term in home.terms if term.is_forced] if home else []
        if home is None or not forced:
            raise CommandFailed(
                f"no home of {index} was ever replaced by force", "there is nothing to export"
            )
        return await write_tail(out, _unshipped(regions.live.logs, home, forced))


async def _unshipped(
    logs: "Mapping[RegionId, Log]", home: "Home", forced: "Sequence[Term]"
) -> "AsyncIterator[Entry]":
    from regions.promotion import export_tail, fence_off, tail_gap

    for term in forced:
        log = logs[RegionId(term.region)]
        await fence_off(log, home, RegionId(term.region))
        stderr().print(f"reading epoch {term.epoch} of {term.region}", markup=False)
        if gap := await tail_gap(log, home, term):
            stderr().print(f"the log has trimmed up to {gap} entries of it", style="red", markup=False)
        async for entry in export_tail(log, home, term):
            yield entry
