"""A provider's list becomes models: from its endpoint to an answer that is billed by it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway import imports
from gateway.config import GatewayConfig
from gateway.imports import derive
from gateway.wire.model_list import Listed, decode_models
from tests.fakes.provider import ScriptedProvider
from tests.gateway.billed import meridian
from tests.gateway.running import Running, running_gateway, tenants_file

LIST: dict[str, Any] = {
    "data": [
        *(
            {
                "id": f"maker/model-{n}",
                "context_length": 32_000,
                "pricing": {"prompt": "0.000001", "completion": "0.000002"},
            }
            for n in range(184)
        ),
        {"id": "maker/unpriced", "context_length": 32_000},
        {"id": "gpt-4o"},
    ]
}


class Lister:
    """A provider with a list; `is_up` says whether it can be had."""

    def __init__(self) -> None:
        self.chat, self.is_up, self.keys = ScriptedProvider(), True, list[str | None]()

    def application(self) -> web.Application:
        app = self.chat.application()
        app.router.add_get("/v1/models", self._on_models)
        return app

    async def _on_models(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        return web.json_response(LIST) if self.is_up else web.Response(status=503)


@pytest.fixture
def lister() -> Lister:
    return Lister()


@asynccontextmanager
async def importing(directory: Path, lister: Lister, **own: Any) -> AsyncIterator[Running]:
    tenants_file(directory)
    (directory / "key").write_text("sk-list")
    async with TestServer(lister.application()) as server:
        section = {"kind": "openai", "base_url": str(server.make_url("/v1")), "api_key": "file:key", **own}
        path = directory / "meridian.yaml"
        async with running_gateway(directory, {"providers": {"global": section}}, path) as running:
            yield running


async def offered(gateway: Running) -> set[str]:
    async with gateway.session.get(f"{gateway.url}/v1/models") as response:
        return {model["id"] for model in (await response.json())["data"]}


async def test_184_models_need_no_typing_and_are_billed_at_their_own_price(
    tmp_path: Path, lister: Lister, capsys: pytest.CaptureFixture[str]
) -> None:
    async with importing(tmp_path, lister) as gateway:
        names = await offered(gateway)
        assert {f"maker/model-{n}" for n in range(184)} <= names
        assert "gpt-4o" in names, "priced by the built-in catalogue"
        assert "maker/unpriced" not in names
        body = {"model": "maker/model-7", "messages": [{"role": "user", "content": "Who?"}]}
        async with gateway.session.post(f"{gateway.url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
            assert float(response.headers["x-meridian-cost-usd"]) == pytest.approx(100e-6 + 20e-6)
        assert lister.keys == ["Bearer sk-list"]
        code, out, err = await meridian(capsys, tmp_path / "meridian.yaml", command="models")
        assert (code, out.count("maker/model-")) == (0, 2 * 184)
        assert "global: 1 models are not offered" in err


async def test_a_provider_that_is_down_holds_up_nothing_and_is_asked_again(
    tmp_path: Path, lister: Lister, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "AGAIN_S", 0.01)
    lister.is_up = False
    async with importing(tmp_path, lister, only=["maker/model-1*"], prefix="g/") as gateway:
        assert await offered(gateway) == {"snippets"}
        lister.is_up = True
        async with asyncio.timeout(10):
            while len(await offered(gateway)) == 1:
                pass
        assert "g/maker/model-1" in await offered(gateway)
        assert "g/maker/model-2" not in await offered(gateway)


def config(**sections: Any) -> GatewayConfig:
    provider = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}
    whole = {
        "region": "us-east",
        "tenants": {"pepper": "env:P"},
        "providers": {"one": provider, "other": provider},
        **sections,
    }
    return GatewayConfig.model_validate(yaml.safe_load(yaml.safe_dump(whole)))


def listed() -> list[Listed]:
    body = (
        b'[{"id": "m", "context_length": 8000, "pricing": {"prompt": "0.000001", "completion": "0.000001"}}]'
    )
    return decode_models(body)


def test_what_the_configuration_says_goes_before_what_a_provider_says() -> None:
    card = {"input_usd": 9, "output_usd": 9, "window_tokens": 1_000}
    ours = config(catalogue={"m": card, "unpriced": card})
    found = derive(ours, {"one": [*listed(), Listed("unpriced", why="no price is told")]}, {})
    assert {name: each.input_usd for name, each in found.cards.items()} == {"one:m": 9, "one:unpriced": 9}
    own = config(models={"m": {"upstreams": []}})
    found = derive(own, {"one": listed()}, {})
    assert (found.models, [each.model for each in found.left_out]) == ({}, ["m"])
    assert found.into(own).models == own.models


def test_of_two_providers_with_one_name_the_first_has_it_and_the_other_is_told_how() -> None:
    found = derive(config(), {"one": listed(), "other": listed()}, {})
    assert list(found.cards) == ["one:m"]
    assert [(each.provider, each.why) for each in found.left_out] == [
        ("other", "another model has its name; set a prefix")
    ]
