"""How a run copes with what a gateway refuses; runs against a real one stand in tests/compat."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.ingest.gateway_client import GatewayClient
from gateway.ingest.run import MAX_BATCH_BYTES, IngestOptions, run_ingest

Serve = Callable[[web.Application], Awaitable[TestServer]]


async def test_records_that_the_gateway_refuses_are_found_and_the_rest_of_their_batch_is_written(
    aiohttp_server: Serve, tmp_path: Path
) -> None:
    written: list[bytes] = []

    async def upsert(request: web.Request) -> web.Response:
        body = await request.read()
        if b"poison" in body:
            return web.json_response({"code": 3, "message": "I do not like it"}, status=400)
        written.extend(body.splitlines())
        return web.Response(status=201)

    path = tmp_path / "rows.jsonl"
    rows = [f'{{"id":"{n}","text":"{"poison" if n in (7, 40) else "good"}"}}' for n in range(60)]
    path.write_text("\n".join(rows))
    async with await _client(aiohttp_server, upsert) as client:
        tally = await run_ingest(client, IngestOptions([path]), lambda tally: None, len)
    assert [str(refusal) for refusal in sorted(tally.refused, key=str)] == [
        "rows.jsonl:41: I do not like it",
        "rows.jsonl:8: I do not like it",
    ]
    assert tally.written == len(written) == 58
    assert tally.bytes_done == tally.bytes_total


async def test_batches_keep_to_the_limits_and_everything_is_sent_once(
    aiohttp_server: Serve, tmp_path: Path
) -> None:
    sizes: list[tuple[int, int]] = []

    async def upsert(request: web.Request) -> web.Response:
        body = await request.read()
        sizes.append((len(body), len(body.splitlines())))
        return web.Response(status=201)

    path = tmp_path / "rows.jsonl"
    text = "x" * 39_000
    path.write_text("\n".join(f'{{"id":"{n}","text":"{text if n < 80 else n}"}}' for n in range(300)))
    async with await _client(aiohttp_server, upsert) as client:
        tally = await run_ingest(client, IngestOptions([path]), lambda tally: None, len)
    assert tally.written == sum(count for _, count in sizes) == 300
    assert all(size <= MAX_BATCH_BYTES and count <= 96 for size, count in sizes)


async def _client(
    aiohttp_server: Serve, upsert: Callable[[web.Request], Awaitable[web.Response]]
) -> GatewayClient:
    app = web.Application(client_max_size=4 << 20)
    app.router.add_post("/records/namespaces/n/upsert", upsert)
    server = await aiohttp_server(app)
    return GatewayClient(str(server.make_url("/")), "key", index=None, namespace="n")
