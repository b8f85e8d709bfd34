"""Regions on loopback: their processes, then the demo, then until they are stopped."""

import asyncio
import importlib
import shutil
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from gateway.up import indexes, keys, plan
from gateway.up.llm import Llm, LlmWish, choose
from gateway.up.plan import HOST, Place, Plan
from gateway.up.problems import CommandFailed
from gateway.up.processes import Processes, accepts, answers_200
from gateway.up.report import Report
from regions.runtime import OVERRIDE_PREFIX, lifecycle
from regions.runtime.children import ChildSpec, python_module
from regions.runtime.nats_server import server_child
from regions.runtime.strict_yaml import to_yaml

START_TIMEOUT_S: Final = 60.0
"""The slowest start seen, on a machine whose disk was cold and whose two cores were busy, took 20 s."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    plan: Plan
    llm: LlmWish
    question: str
    is_fresh: bool
    is_demo_only: bool


async def up(options: Options, env: Mapping[str, str], report: Report, stop: asyncio.Event) -> None:
    """Run the regions until `stop`, or until the question is answered when only that was asked for.

    Raises: CommandFailed, PortTaken, ConfigError: they cannot start; everything started is gone then.
    """
    with keys.alone_in(options.plan.home):
        if options.is_fresh:
            for place in options.plan.places:
                shutil.rmtree(place.folder, ignore_errors=True)
        for port in options.plan.ports():
            lifecycle.check_port(HOST, port)
        llm = choose(options.llm, env, options.plan.model_port)
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            processes = Processes(tasks, ending, report.child)
            try:
                await _until(stop, _run(options, llm, env, processes, report))
                if not options.is_demo_only:
                    await stop.wait()
            finally:
                report.ending()
                ending.set()


async def _until(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Do the work, unless `stop` comes first; then it is cancelled."""
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(_awaited(work))
        stopped = tasks.create_task(stop.wait())
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        stopped.cancel()


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _run(
    options: Options, llm: Llm, env: Mapping[str, str], processes: Processes, report: Report
) -> None:
    """Start the processes, then import what the demo needs while they start: that takes as long again."""
    regions = options.plan
    report.line(f"meridian up · {', '.join(regions.regions)} · {regions.home}")
    report.line(f"  model: {llm.said}")
    key = await start(regions, llm, env, processes)
    async with asyncio.TaskGroup() as tasks:
        for module in ("pinecone", "gateway.up.demo"):
            tasks.create_task(asyncio.to_thread(importlib.import_module, module))
        with report.phase(f"index {plan.INDEX!r} ready in every region, dense + sparse"):
            await indexes_ready(regions, processes)
        with report.phase(f"gateways ready at {', '.join(place.gateway_url for place in regions.places)}"):
            await gateways_ready(regions, processes)
        if llm.is_local:
            with report.phase("local model loaded"):
                await _ready_at("model", f"http://{HOST}:{regions.model_port}/health", processes)
    from gateway.up.demo import Demo

    demo = Demo(regions, key, processes, report)
    await demo.run(options.question, is_demo_only=options.is_demo_only)


async def start(regions: Plan, llm: Llm, env: Mapping[str, str], processes: Processes) -> str:
    """Write the files and start every process; gives the demo's key. None of them is ready yet."""
    for place in regions.places:
        await processes.start(_log(place))
        await processes.start(_node(place, env))
    key = _write_files(regions, llm)
    if regions.has_relay:
        await processes.start(_relay(regions, env))
    for place in regions.places:
        await processes.start(_gateway(place, env))
        await processes.start(_replicator(place, env))
    if llm.is_local:
        await processes.start(_model(regions, env))
    return key


async def indexes_ready(regions: Plan, processes: Processes) -> None:
    """Every region's node has every index. Raises: CommandFailed."""
    async with asyncio.TaskGroup() as tasks:
        for place in regions.places:
            tasks.create_task(_index(place, regions.indexes, processes))


async def gateways_ready(regions: Plan, processes: Processes) -> None:
    """Every gateway takes requests. Raises: CommandFailed."""
    for place in regions.places:
        await _ready_at(f"{place.region} gateway", f"{place.operators_url}/readyz", processes)


async def _ready_at(name: str, url: str, processes: Processes) -> None:
    await processes.ready(name, lambda: answers_200(url), START_TIMEOUT_S)


async def _index(place: Place, names: Iterable[str], processes: Processes) -> None:
    """The region's node has the indexes."""
    await processes.ready(f"{place.region} node", lambda: accepts(HOST, place.node_port), START_TIMEOUT_S)
    nowhere = indexes.Deployment("aws", "us-east-1")
    for name in names:
        made = await asyncio.to_thread(indexes.create, place.node_url, "node", name, plan.SHAPE, nowhere)
        if indexes.bare(made.host) != indexes.bare(place.replica_url(name)):
            raise CommandFailed(f"the node has its index at {made.host}, not at {place.replica_url(name)}")


def _write_files(regions: Plan, llm: Llm) -> str:
    """Make the demo's secrets unless they are there, and write the configuration; gives the demo's key."""
    from gateway.tenants import digest_key  # pydantic takes its time: the nodes start meanwhile

    key = keys.kept(regions.home / keys.DEMO_KEY, keys.new_key())
    pepper = keys.kept(regions.home / keys.PEPPER, keys.new_key())
    keys.kept(regions.home / keys.ADMIN_KEY, keys.new_key())
    tenants = plan.tenants_file(digest_key(key, pepper.encode()), next(iter(regions.indexes)))
    keys.write_private(regions.home / "tenants.yaml", to_yaml(tenants))
    for place in regions.places:
        keys.write_private(place.gateway_file, to_yaml(plan.gateway_config(regions, place, llm)))
    regions.relay_file.write_bytes(msgspec.json.encode(regions.relay()))
    return key


# --- The processes ---------------------------------------------------------------------------------


def _log(place: Place) -> ChildSpec:
    child = server_child(
        f"{place.region} log",
        domain=place.region,
        directory=place.log_data,
        port=place.log_port,
        log=place.said("log"),
    )
    # It is no program of ours: it would outlive us.
    return replace(child, argv=python_module("regions.runtime.parent", *child.argv))


def _node(place: Place, env: Mapping[str, str]) -> ChildSpec:
    place.node_data.mkdir(parents=True, exist_ok=True)
    argv = python_module(
        "gateway", "node", "--port", str(place.node_port), "--data-dir", str(place.node_data)
    )
    # The gateway's overrides are no keys of the node's configuration.
    own = {name: value for name, value in env.items() if not name.upper().startswith(OVERRIDE_PREFIX)}
    return ChildSpec(f"{place.region} node", argv, env=own, log=place.said("node"))


def _gateway(place: Place, env: Mapping[str, str]) -> ChildSpec:
    argv = python_module("gateway", "serve", "--config", str(place.gateway_file))
    return ChildSpec(f"{place.region} gateway", argv, env=env, log=place.said("gateway"))


def _replicator(place: Place, env: Mapping[str, str]) -> ChildSpec:
    argv = python_module("gateway", "replicate", "--config", str(place.gateway_file))
    return ChildSpec(f"{place.region} replicator", argv, env=env, log=place.said("replicator"))


def _relay(regions: Plan, env: Mapping[str, str]) -> ChildSpec:
    argv = python_module("regions.runtime.relay", str(regions.relay_file))
    return ChildSpec("relay", argv, env=env, log=regions.home / "relay.log")


def _model(regions: Plan, env: Mapping[str, str]) -> ChildSpec:
    argv = python_module("gateway.up.local_llm", "--port", str(regions.model_port))
    return ChildSpec("model", argv, env=env, log=regions.home / "model.log")
