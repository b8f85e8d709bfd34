"""The embeddings endpoint adapter, against a scripted endpoint on a real socket."""

import asyncio
import base64
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import uvloop
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.embedders.openai import Config, OpenAIEmbedder, build
from gateway.errors import (
    BadRequest,
    Fault,
    GatewayError,
    UpstreamProtocolError,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from regions.runtime.config_file import SecretRef
from tests.gateway.providers.endless import HEAD, chunked, endless

Serve = Callable[[web.Application], Awaitable[TestServer]]


@dataclass
class Endpoint:
    """Answers (length of text, 1, 0) for each text, unless it has an answer of its own to give."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    answer: Callable[[dict[str, Any]], web.Response] | None = None

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("Authorization"))
        return self.answer(body) if self.answer else answer(body)


def answer(body: dict[str, Any], *, as_numbers: bool = False, dimension: int = 3) -> web.Response:
    data = []
    for index, text in enumerate(body["input"]):
        vector = [float(len(text)), 1.0, 0.0][:dimension]
        packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector if as_numbers else packed})
    data.reverse()  # an index is an index: their order in the answer says nothing
    return web.json_response({"data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}})


def made(config: Config, **secrets: str) -> OpenAIEmbedder:
    return build(config, "test", lambda ref: secrets[str(ref).removeprefix("file:")])


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
async def embedder(endpoint: Endpoint, aiohttp_server: Serve) -> Any:
    app = web.Application()
    app.router.add_post("/v1/embeddings", endpoint.handle)
    server = await aiohttp_server(app)
    config = Config(
        base_url=f"{server.make_url('/v1')}",
        model="m",
        dimension=3,
        api_key=SecretRef("env:KEY"),
        ask_dimension=True,
        batch_size=2,
    )
    made = build(config, "test", lambda ref: f"secret of {ref}")
    await made.start()
    yield made
    await made.close()


@pytest.mark.parametrize("as_numbers", [False, True])
async def test_rows_are_unit_vectors_in_the_order_asked(
    embedder: OpenAIEmbedder, endpoint: Endpoint, as_numbers: bool
) -> None:
    endpoint.answer = lambda body: answer(body, as_numbers=as_numbers)
    embedded = await embedder.embed(["a", "bbb", "cc"], kind="passage", timeout_s=5)
    lengths = [1.0, 3.0, 2.0]
    assert embedded.vectors[:, 0] == pytest.approx([n / (n * n + 1) ** 0.5 for n in lengths], abs=1e-6)
    assert embedded.tokens == 14
    assert [body["input"] for body in endpoint.asked] == [["a", "bbb"], ["cc"]]
    assert endpoint.asked[0] | {"input": []} == {
        "model": "m",
        "input": [],
        "encoding_format": "base64",
        "dimensions": 3,
    }
    assert endpoint.keys[0] == "Bearer secret of env:KEY"


def _status(status: int, **headers: str) -> Callable[[dict[str, Any]], web.Response]:
    return lambda _: web.json_response({"error": {"message": "no"}}, status=status, headers=headers)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_endpoint_is_unavailable_and_says_for_how_long(
    embedder: OpenAIEmbedder, endpoint: Endpoint, status: int
) -> None:
    endpoint.answer = _status(status, **{"Retry-After": "3"})
    with pytest.raises(UpstreamUnavailable) as failed:
        await embedder.embed(["a"], kind="query", timeout_s=5)
    assert failed.value.retry_after_s == 3


@pytest.mark.parametrize(("status", "is_callers"), [(400, True), (401, False)])
async def test_a_refusal_keeps_its_status(
    embedder: OpenAIEmbedder, endpoint: Endpoint, status: int, is_callers: bool
) -> None:
    endpoint.answer = _status(status)
    with pytest.raises(UpstreamRejected) as failed:
        await embedder.embed(["a"], kind="query", timeout_s=5)
    assert (failed.value.status, failed.value.is_callers) == (status, is_callers)


@pytest.mark.parametrize(
    ("status", "body", "error", "is_retryable"),
    [
        (429, {"code": "rate_limit_exceeded"}, UpstreamThrottled, True),
        (429, {"code": "insufficient_quota"}, UpstreamRejected, False),
        (404, {"code": "model_not_found"}, UpstreamRejected, False),
        (408, {}, UpstreamUnavailable, True),
        (200, {"code": "rate_limit_exceeded"}, UpstreamThrottled, True),
        (200, {"type": "server_error"}, UpstreamUnavailable, True),
        (200, {"code": "invalid_api_key"}, UpstreamRejected, False),
    ],
)
async def test_an_error_means_what_it_means_of_an_llms_endpoint_also_inside_a_200(
    embedder: OpenAIEmbedder,
    endpoint: Endpoint,
    status: int,
    body: dict[str, str],
    error: type[GatewayError],
    is_retryable: bool,
) -> None:
    told = {"error": {"message": "no, account 4711", **body}}
    endpoint.answer = lambda _: web.json_response(told, status=status)
    with pytest.raises(error) as failed:
        await embedder.embed(["a"], kind="query", timeout_s=5)
    assert failed.value.retryable == is_retryable
    assert failed.value.fault is Fault.UPSTREAM
    assert "4711" not in failed.value.message  # the endpoint's own words are for operators


async def test_a_large_answer_is_decoded_off_the_loop_and_in_order(aiohttp_server: Serve) -> None:
    dimension, texts = 1024, [str(number) for number in range(40)]
    vectors = np.random.default_rng(1).normal(size=(40, dimension)).astype("<f4")

    async def handle(_: web.Request) -> web.Response:
        return _data(*((at, base64.b64encode(row.tobytes()).decode()) for at, row in enumerate(vectors)))

    app = web.Application()
    app.router.add_post("/v1/embeddings", handle)
    server = await aiohttp_server(app)
    embedder = made(Config(base_url=str(server.make_url("/v1")), model="m", dimension=dimension))
    await embedder.start()
    embedded = await embedder.embed(texts, kind="passage", timeout_s=5)
    await embedder.close()
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(embedded.vectors, vectors / lengths, atol=1e-6)


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
@pytest.mark.parametrize("first", [(), (HEAD, chunked(b'{"data":['))], ids=["before the head", "inside it"])
def test_an_endpoint_sees_at_once_that_a_call_was_given_up(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop], first: tuple[bytes, ...]
) -> None:
    piece = chunked(b" " * 4000) if first else b""

    async def ask() -> None:
        config = Config(base_url=server.url, model="m", dimension=3, ca_file=SecretRef("file:ca"))
        embedder = made(config, ca=server.certificate)
        await embedder.start()
        asking = asyncio.get_running_loop().create_task(
            embedder.embed(["a"], kind="query", timeout_s=30), name="asking"
        )
        await asyncio.to_thread(server.asked.wait)
        asking.cancel()
        left_s = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await asyncio.to_thread(server.until_left_s, left_s) < 1.0
        await embedder.close()

    with endless(tmp_path, first, piece) as server, asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ask())


def _data(*data: tuple[int, Any]) -> web.Response:
    rows = [{"index": index, "embedding": embedding} for index, embedding in data]
    return web.Response(body=msgspec.json.encode({"data": rows}), content_type="application/json")


@pytest.mark.parametrize(
    "give",
    [
        lambda body: answer(body, dimension=2),
        lambda body: web.Response(text="<html>hello</html>", content_type="text/html"),
        lambda body: _data((0, [1.0, 0.0, 0.0])),
        lambda body: _data((0, [1.0, 0.0, 0.0]), (0, [1.0, 0.0, 0.0])),
        lambda body: _data((0, "not base64!"), (1, "AAAA")),
        lambda body: _data(
            (0, base64.b64encode(struct.pack("<3f", 1, float("nan"), 0)).decode()), (1, [1, 0, 0])
        ),
    ],
    ids=["dimension", "html", "too few", "an index twice", "no base64", "not a number"],
)
async def test_what_is_no_embeddings_answer_never_becomes_a_vector(
    embedder: OpenAIEmbedder, endpoint: Endpoint, give: Callable[[dict[str, Any]], web.Response]
) -> None:
    endpoint.answer = give
    with pytest.raises(UpstreamProtocolError):
        await embedder.embed(["a", "b"], kind="query", timeout_s=5)


async def test_a_silent_endpoint_runs_into_the_callers_time(aiohttp_server: Serve) -> None:
    let_go = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await let_go.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/embeddings", silent)
    server = await aiohttp_server(app)
    embedder = made(Config(base_url=str(server.make_url("/v1")), model="m", dimension=3))
    await embedder.start()
    with pytest.raises(UpstreamTimeout):
        await embedder.embed(["a"], kind="query", timeout_s=0.05)
    let_go.set()
    await embedder.close()


async def test_a_dead_endpoint_is_unavailable_and_does_not_stop_a_start() -> None:
    embedder = made(Config(base_url="http://127.0.0.1:9/v1", model="m", dimension=3))
    await embedder.start()
    with pytest.raises(UpstreamUnavailable):
        await embedder.embed(["a"], kind="query", timeout_s=5)
    await embedder.close()


async def test_nothing_to_embed_is_the_callers_mistake(embedder: OpenAIEmbedder) -> None:
    with pytest.raises(BadRequest):
        await embedder.embed([""], kind="query", timeout_s=5)


def test_the_version_names_what_makes_vectors_comparable() -> None:
    config = Config(base_url="http://h/v1", model="text-embedding-3-small", dimension=512)
    assert made(config).version == "text-embedding-3-small@512"
