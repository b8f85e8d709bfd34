"""`meridian ingest` against a running gateway: nothing twice, nothing lost, nothing of others removed."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.ingest.gateway_client import GatewayClient, GatewayFailed
from gateway.ingest.run import IngestOptions, Tally, run_ingest
from tests.compat.servers import INDEX, KEY, Servers

pytestmark = pytest.mark.compat


@pytest.fixture
async def client(servers: Servers, namespace: str) -> AsyncIterator[GatewayClient]:
    async with GatewayClient(servers.gateway_url, KEY, index=INDEX, namespace=namespace) as made:
        yield made


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    write_guide(folder, "Install", "Use", "Remove")
    (folder / "notes.txt").write_text("Plain notes about canals.")
    write_rows(folder, "a", "b", "c")
    return folder


def write_guide(folder: Path, *headings: str) -> None:
    parts = [f"## {heading}\n\nHow to {heading.lower()} it.\n" for heading in headings]
    (folder / "guide.md").write_text("# Guide\n\n" + "\n".join(parts))


def write_rows(folder: Path, *ids: str) -> None:
    rows = [json.dumps({"id": id_, "text": f"Row {id_}", "lang": "en"}) for id_ in ids]
    (folder / "faq.jsonl").write_text("\n".join(rows) + "\n")


async def ingest(client: GatewayClient, *paths: Path, **options: Any) -> Tally:
    return await run_ingest(client, IngestOptions(paths, **options), lambda tally: None)


async def ids_of(client: GatewayClient) -> set[str]:
    return {id_ async for id_ in client.list_ids("")}


ALL = {"docs/guide.md#0", "docs/guide.md#1", "docs/guide.md#2", "docs/notes.txt#0", "a", "b", "c"}


async def test_a_second_run_changes_nothing(client: GatewayClient, docs: Path) -> None:
    heard: list[int] = []
    first = await run_ingest(client, IngestOptions([docs]), lambda tally: heard.append(tally.records))
    assert (first.sources, first.written, first.unchanged, first.refused) == (3, 7, 0, [])
    assert heard[-1] == 7
    assert await ids_of(client) == ALL
    second = await ingest(client, docs)
    assert (second.written, second.unchanged, second.removed) == (0, 7, 0)


async def test_only_what_changed_is_written(client: GatewayClient, docs: Path) -> None:
    await ingest(client, docs)
    write_guide(docs, "Install", "Configure", "Remove")
    tally = await ingest(client, docs)
    assert (tally.written, tally.unchanged) == (1, 6)


async def test_a_run_that_ended_early_is_continued(client: GatewayClient, docs: Path) -> None:
    class Killed(Exception):
        pass

    def kill(tally: Tally) -> None:
        raise Killed

    with pytest.raises(ExceptionGroup) as ended:
        await run_ingest(client, IngestOptions([docs], in_flight=1, batch_records=3), kill)
    assert ended.group_contains(Killed)
    there = len(await ids_of(client))
    assert 0 < there < 7
    tally = await ingest(client, docs)
    assert (tally.written, tally.unchanged) == (7 - there, there)


async def test_a_document_that_shrank_loses_its_stale_pieces(client: GatewayClient, docs: Path) -> None:
    await ingest(client, docs)
    write_guide(docs, "Install")
    tally = await ingest(client, docs)
    assert tally.removed == 2
    assert await ids_of(client) == ALL - {"docs/guide.md#1", "docs/guide.md#2"}


async def test_deleted_sources_stay_without_sync_and_go_with_it(client: GatewayClient, docs: Path) -> None:
    await ingest(client, docs)
    (docs / "notes.txt").unlink()
    write_rows(docs, "a")
    assert (await ingest(client, docs)).removed == 0
    assert await ids_of(client) == ALL
    assert (await ingest(client, docs, sync=True)).removed == 3
    assert await ids_of(client) == ALL - {"docs/notes.txt#0", "b", "c"}


async def test_sync_never_removes_what_ingest_did_not_write(
    client: GatewayClient, docs: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("Another source, ingested on its own.")
    await ingest(client, tmp_path / "other.txt")
    mine = [{"_id": "docs/gone.md#0", "text": "By hand"}, {"_id": "x", "text": "By hand", "source": "docs/x"}]
    await client.upsert([json.dumps(record).encode() + b"\n" for record in mine])
    await ingest(client, docs, sync=True)
    assert await ids_of(client) == ALL | {"docs/gone.md#0", "x", "other.txt#0"}


async def test_a_source_with_a_refusal_keeps_what_it_had(client: GatewayClient, docs: Path) -> None:
    await ingest(client, docs)
    (docs / "faq.jsonl").write_text('{"id":"a","text":"Row a","lang":"en"}\n{broken\n')
    tally = await ingest(client, docs, sync=True)
    assert [(refusal.source, refusal.line) for refusal in tally.refused] == [("docs/faq.jsonl", 2)]
    assert await ids_of(client) == ALL


async def test_one_id_in_two_places_is_refused_the_second_time(client: GatewayClient, docs: Path) -> None:
    (docs / "more.jsonl").write_text('{"id":"a","text":"Another row"}\n')
    tally = await ingest(client, docs)
    assert [str(refusal) for refusal in tally.refused] == [
        "docs/more.jsonl:1: its id 'a' stands in docs/faq.jsonl already"
    ]


@pytest.mark.parametrize("key", ["wrong", "key-of-nobody-special"])
async def test_a_key_without_rights_ends_the_run(servers: Servers, docs: Path, key: str) -> None:
    async with GatewayClient(servers.gateway_url, key, index=INDEX, namespace="n") as client:
        with pytest.raises(GatewayFailed):
            await ingest(client, docs)
