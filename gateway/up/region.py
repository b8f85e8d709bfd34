"""One region on loopback: a node, a gateway, perhaps a model; then the demo; then until it is stopped."""

import asyncio
import importlib
import shutil
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.up import indexes, keys, plan
from gateway.up.llm import Llm, LlmWish, choose
from gateway.up.plan import HOST, Plan, Ports
from gateway.up.problems import CommandFailed
from gateway.up.processes import Processes, accepts, answers_200
from gateway.up.report import Report
from regions.runtime import OVERRIDE_PREFIX, lifecycle
from regions.runtime.children import ChildSpec, python_module
from regions.runtime.strict_yaml import to_yaml

START_TIMEOUT_S: Final = 60.0
"""The slowest start seen, on a machine whose disk was cold and whose two cores were busy, took 20 s."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    region: str
    home: Path
    base_port: int | None
    llm: LlmWish
    question: str
    is_fresh: bool
    is_demo_only: bool


async def up(options: Options, env: Mapping[str, str], report: Report, stop: asyncio.Event) -> None:
    """Run the region until `stop`, or until its question is answered when only that was asked for.

    Raises: CommandFailed, PortTaken, ConfigError: it cannot start; everything started is gone then.
    """
    with keys.alone_in(options.home):
        if options.is_fresh:
            shutil.rmtree(options.home / options.region, ignore_errors=True)
        region = Plan(options.region, options.home, _ports(options.base_port))
        llm = choose(options.llm, env, region.ports.llm)
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            processes = Processes(tasks, ending, report.child)
            try:
                await _until(stop, _run(region, llm, options, env, processes, report))
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


def _ports(base: int | None) -> Ports:
    """The region's ports, each seen to be free. Raises: PortTaken."""
    first = base or plan.FIRST_PORT
    gateway, operators = first, first + 1000
    node = first + 100 if base else lifecycle.free_port()
    llm = first + 200 if base else lifecycle.free_port()
    for port in (gateway, operators, node, llm):
        lifecycle.check_port(HOST, port)
    return Ports(gateway, operators, node, llm)


async def _run(
    region: Plan, llm: Llm, options: Options, env: Mapping[str, str], processes: Processes, report: Report
) -> None:
    """Start the processes, then import what the demo needs while they start: that takes as long again."""
    report.line(f"meridian up · {region.region} · {region.home}")
    report.line(f"  model: {llm.said}")
    await processes.start(_node(region, env))
    key = _write_files(region, llm)
    await processes.start(_gateway(region, env))
    if llm.is_local:
        await processes.start(_llm(region, env))
    async with asyncio.TaskGroup() as tasks:
        for module in ("pinecone", "gateway.up.demo"):
            tasks.create_task(asyncio.to_thread(importlib.import_module, module))
        await _ready(region, llm, processes, report)
    from gateway.up.demo import Demo

    demo = Demo(region, key, processes, report)
    await demo.run(options.question, is_demo_only=options.is_demo_only)


async def _ready(region: Plan, llm: Llm, processes: Processes, report: Report) -> None:
    with report.phase(f"node ready at {region.node_url}"):
        await processes.ready("node", lambda: accepts(HOST, region.ports.node), START_TIMEOUT_S)
    with report.phase(f"index {plan.INDEX!r} ready, dense + sparse"):
        nowhere = indexes.Deployment("aws", "us-east-1")
        made = await asyncio.to_thread(
            indexes.create, region.node_url, "node", plan.INDEX, plan.SHAPE, nowhere
        )
        if indexes.bare(made.host) != indexes.bare(region.replica_url):
            raise CommandFailed(f"the node has its index at {made.host}, not at {region.replica_url}")
    with report.phase(f"gateway ready at {region.gateway_url}"):
        readyz = f"{region.operators_url}/readyz"
        await processes.ready("gateway", lambda: answers_200(readyz), START_TIMEOUT_S)
    if llm.is_local:
        with report.phase("local model loaded"):
            health = f"http://{HOST}:{region.ports.llm}/health"
            await processes.ready("model", lambda: answers_200(health), START_TIMEOUT_S)


def _write_files(region: Plan, llm: Llm) -> str:
    """Make the demo's secrets unless they are there, and write the configuration; gives the demo's key."""
    from gateway.tenants import digest_key  # pydantic takes its time: the node starts meanwhile

    key = keys.kept(region.home / keys.DEMO_KEY, keys.new_key())
    pepper = keys.kept(region.home / keys.PEPPER, keys.new_key())
    tenants = plan.tenants_file(digest_key(key, pepper.encode()))
    keys.write_private(region.home / "tenants.yaml", to_yaml(tenants))
    keys.write_private(region.gateway_file, to_yaml(plan.gateway_config(region, llm)))
    return key


def _node(region: Plan, env: Mapping[str, str]) -> ChildSpec:
    region.node_data.mkdir(parents=True, exist_ok=True)
    argv = python_module(
        "gateway", "node", "--port", str(region.ports.node), "--data-dir", str(region.node_data)
    )
    # The gateway's overrides are no keys of the node's configuration.
    own = {name: value for name, value in env.items() if not name.upper().startswith(OVERRIDE_PREFIX)}
    return ChildSpec("node", argv, env=own, log=region.log("node"))


def _gateway(region: Plan, env: Mapping[str, str]) -> ChildSpec:
    argv = python_module("gateway", "serve", "--config", str(region.gateway_file))
    return ChildSpec("gateway", argv, env=env, log=region.log("gateway"))


def _llm(region: Plan, env: Mapping[str, str]) -> ChildSpec:
    argv = python_module("gateway.up.local_llm", "--port", str(region.ports.llm))
    return ChildSpec("model", argv, env=env, log=region.log("model"))
