"""A configuration file that changes while the gateway runs."""

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
import yaml
from aiohttp.test_utils import BaseTestServer, TestServer
from structlog.testing import CapturingLogger

from gateway.config import GatewayConfig
from gateway.config_checks import cross_check
from gateway.reload import Reloader, watch
from regions.errors import ConfigError, ConfigProblem
from regions.runtime import config_file
from tests.fakes.provider import DONE, ScriptedProvider, Step, answer
from tests.gateway.running import Running, running_gateway, tenants_file

FIRST: dict[str, Any] = {
    "region": "us-east",
    "tenants": {"pepper": "file:pepper"},
    "models": {"small": {"upstreams": [{"kind": "openai", "model": "gpt-4o", "base_url": "http://a/v1"}]}},
}


class Rig:
    """A file, and the reloader that keeps `applied` equal to it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "meridian.yaml"
        self.logger = CapturingLogger()
        self.applied: list[GatewayConfig] = []
        self.was_applied = asyncio.Event()
        self.refuses = False
        self.write(FIRST)
        log = structlog.wrap_logger(self.logger, processors=[])
        self.reloader = Reloader(self.load(), self.load, self._apply, log)

    def write(self, config: dict[str, Any], **changed: Any) -> None:
        """Replace the file in one go, as editors and Kubernetes do."""
        new = self.path.with_suffix(".new")
        new.write_text(yaml.safe_dump({**config, **changed}))
        new.rename(self.path)

    def load(self) -> GatewayConfig:
        return config_file.load(self.path, GatewayConfig, {}, cross_check)

    async def _apply(self, config: GatewayConfig) -> None:
        if self.refuses:
            raise ConfigError("secrets", [ConfigProblem("models.small", "its key is not there")])
        self.applied.append(config)
        self.was_applied.set()

    @property
    def said(self) -> list[str]:
        return [call.kwargs.get("event", call.args[0] if call.args else "") for call in self.logger.calls]


OTHER_MODELS = {
    "large": {"upstreams": [{"kind": "openai", "model": "deepseek-v4-pro", "base_url": "http://b/v1"}]}
}


async def test_changed_models_are_taken_over(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert not await rig.reloader.look()
    rig.write(FIRST, models=OTHER_MODELS)
    assert await rig.reloader.look()
    assert list(rig.applied[-1].models) == ["large"]
    assert not await rig.reloader.look()


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": {"small": {"upstreams": [{"kind": "openai", "model": "nobody-prices-this"}]}}},
        {"models": "none"},
        {"a_name_that_does_not_exist": 1},
    ],
)
async def test_a_wrong_file_is_refused_whole_and_what_runs_goes_on(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    rig = Rig(tmp_path)
    before = rig.reloader.current
    rig.write(FIRST, **wrong)
    assert not await rig.reloader.look()
    assert rig.reloader.current is before
    assert rig.said == ["config_refused"]
    rig.write(FIRST, models=OTHER_MODELS)
    assert await rig.reloader.look()


async def test_models_that_cannot_be_built_are_refused_and_tried_again_at_the_next_look(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    rig.refuses = True
    rig.write(FIRST, models=OTHER_MODELS)
    assert not await rig.reloader.look()
    rig.refuses = False
    assert await rig.reloader.look()
    assert rig.said == ["config_refused", "config_reloaded"]


async def test_what_needs_a_restart_is_said_once_and_not_taken_over(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write(FIRST, server={"max_in_flight": 7}, models=OTHER_MODELS)
    assert await rig.reloader.look()
    assert not await rig.reloader.look()
    assert rig.applied[-1].server.max_in_flight == 1024
    assert rig.said == ["config_needs_restart", "config_reloaded"]


async def test_a_replaced_file_and_a_swapped_mount_are_noticed(tmp_path: Path) -> None:
    mounted = tmp_path / "mount"
    for name, models in (("one", FIRST["models"]), ("two", OTHER_MODELS)):
        (mounted / name).mkdir(parents=True)
        (mounted / name / "meridian.yaml").write_text(yaml.safe_dump({**FIRST, "models": models}))
    (mounted / "..data").symlink_to("one")
    rig = Rig(tmp_path)
    rig.path = mounted / "meridian.yaml"
    rig.path.symlink_to("..data/meridian.yaml")
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch([mounted], [rig.reloader.look]))
        while not rig.applied:  # the watcher needs a moment to begin
            for name in ("one", "two"):
                (mounted / "..new").symlink_to(name)
                (mounted / "..new").rename(mounted / "..data")
                await asyncio.sleep(0.2)
        watching.cancel()
    assert list(rig.applied[0].models) == ["large"]


async def test_a_stream_that_began_before_the_models_changed_is_finished_as_it_began(tmp_path: Path) -> None:
    tenants_file(tmp_path)
    path = tmp_path / "meridian.yaml"
    slow = ScriptedProvider([Step(answer("one", " two"), gap_s=1.0)])
    other = ScriptedProvider()
    async with (
        TestServer(slow.application(), handler_cancellation=True) as first,
        TestServer(other.application()) as second,
        running_gateway(tmp_path, served_by(first), path) as gateway,
    ):
        begun = await post(gateway)  # its first content is there
        await replaced(gateway, path, served_by(second))
        assert (await (await post(gateway)).read()).count(b"Answered") == 1
        whole = await begun.read()
        assert b"one" in whole
        assert b" two" in whole
        assert whole.endswith(DONE)
        assert (len(slow.seen), len(other.seen)) == (1, 1)


def served_by(provider: BaseTestServer) -> dict[str, Any]:
    upstream = {"kind": "openai", "base_url": str(provider.make_url("/v1")), "model": "gpt-4o"}
    return {"models": {f"by-{provider.port}": {"upstreams": [upstream]}}}


async def replaced(gateway: Running, path: Path, changed: dict[str, Any]) -> None:
    """Write the file anew and return once its models are those that are offered."""
    change_file(path, changed)
    async with asyncio.timeout(10):
        while True:
            if await models(gateway) == [*changed["models"], "snippets"]:
                return
            await asyncio.sleep(0.02)


def change_file(path: Path, changed: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changed}))


async def models(gateway: Running) -> list[str]:
    async with gateway.session.get(f"{gateway.url}/v1/models") as response:
        return [model["id"] for model in (await response.json())["data"]]


async def post(gateway: Running) -> aiohttp.ClientResponse:
    """A streamed answer of the model that is offered."""
    body = {
        "model": (await models(gateway))[0],
        "messages": [{"role": "user", "content": "Who won?"}],
        "stream": True,
    }
    return await gateway.session.post(f"{gateway.url}/v1/chat/completions", json=body)


async def test_tenants_follow_their_file_and_a_wrong_one_changes_nothing(tmp_path: Path) -> None:
    tenants_file(tmp_path)
    path = tmp_path / "tenants.yaml"
    file = yaml.safe_load(path.read_text())

    async def status(gateway: Running) -> int:
        async with gateway.session.get(f"{gateway.url}/v1/models") as response:
            return response.status

    def write(text: str) -> None:
        new = path.with_suffix(".new")
        new.write_text(text)
        new.rename(path)

    async with asyncio.timeout(30), running_gateway(tmp_path, {}, tmp_path / "meridian.yaml") as gateway:
        assert await status(gateway) == 200
        wrong = {"tenants": [*file["tenants"], {"id": "short", "name": "x"}]}
        write(yaml.safe_dump(wrong))
        await until(gateway, "refused", path)
        assert await status(gateway) == 200
        file["tenants"][0]["keys"] = []
        write(yaml.safe_dump(file))
        await until(gateway, "taken", path)
        assert await status(gateway) == 401


async def until(gateway: Running, outcome: str, path: Path) -> None:
    """Return once the changed tenants file has come to that."""
    line = re.compile(rf'meridian_reloads_total\{{file="tenants",outcome="{outcome}"\}} [1-9]')
    while True:
        async with gateway.session.get(f"{gateway.operators_url}/metrics") as response:
            if line.search(await response.text()):
                return
        await asyncio.to_thread(path.touch)  # the watcher needs a moment to begin
        await asyncio.sleep(0.1)
