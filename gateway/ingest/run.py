"""Ingestion: read sources, send their records in batches, then remove what is no longer there.

It keeps no state of its own: the gateway knows each record's content hash and skips what is unchanged,
so a run that was killed is continued by running it again, from any machine, and cannot disagree with
what the index holds.

What is removed, and only after everything was sent: pieces beyond a document's new end, always; with
`sync`, pieces of documents and rows of .jsonl files that are no longer under the given paths. Records
without ingestion's own marks, and sources of which something was refused, are left alone.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.ingest.gateway_client import GatewayClient, GatewayFailed, Refused
from gateway.ingest.read import FROM_FIELD, PART_FIELD, CountTokens, TextItem, encode_item, read_source
from gateway.ingest.sources import Found, Refusal, find_sources

MAX_RECORDS: Final = 96  # Pinecone's limit for text records
MAX_BATCH_BYTES: Final = 1_900_000  # below its limit of 2 MB
ROWS: Final = {"$and": [{FROM_FIELD: {"$exists": True}}, {PART_FIELD: {"$exists": False}}]}


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What to ingest, and how hard to push."""

    paths: Sequence[Path]
    text_field: str = "text"
    sync: bool = False
    in_flight: int = 4
    batch_records: int = MAX_RECORDS


@dataclass(slots=True)
class Tally:
    """What has been done so far; the same object grows during a run."""

    bytes_total: int = 0
    bytes_done: int = 0
    sources: int = 0
    written: int = 0
    unchanged: int = 0
    removed: int = 0
    refused: list[Refusal] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def records(self) -> int:
        """Records that the index holds because of this run, or held already."""
        return self.written + self.unchanged

    @property
    def records_per_s(self) -> float:
        return self.records / self.elapsed_s if self.elapsed_s > 0 else 0.0


async def run_ingest(
    client: GatewayClient,
    options: IngestOptions,
    on_progress: Callable[[Tally], None],
    count_tokens: CountTokens | None = None,
) -> Tally:
    """Everything done, refusals listed; `on_progress` hears of each batch.

    Raises: GatewayFailed: the gateway cannot be used; what was sent until then stays.
    """
    found = await asyncio.to_thread(find_sources, options.paths)
    run = _Run(client, options, found, on_progress, count_tokens or token_counter())
    failed: BaseExceptionGroup[GatewayFailed] | None = None
    try:
        await run.send_all()
        await run.remove_stale()
    except* GatewayFailed as group:
        failed = group  # raised in here, it would leave as a group again
    if failed is not None:
        raise GatewayFailed(str(_first(failed))) from failed
    return run.tally


class _Run:
    """One ingestion under way."""

    def __init__(
        self,
        client: GatewayClient,
        options: IngestOptions,
        found: Found,
        on_progress: Callable[[Tally], None],
        count_tokens: CountTokens,
    ) -> None:
        self._client, self._options, self._found = client, options, found
        self._on_progress, self._count_tokens = on_progress, count_tokens
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()
        self._source_of: dict[str, str] = {}  # every id seen, so that none is sent twice
        self._parts: dict[str, int] = {}  # documents read to their end, and their pieces
        self.tally = Tally(
            bytes_total=sum(source.size_bytes for source in found.sources),
            sources=len(found.sources),
            refused=list(found.refused),
        )

    async def send_all(self) -> None:
        batches: asyncio.Queue[list[TextItem] | None] = asyncio.Queue(self._options.in_flight)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._options.in_flight):
                tasks.create_task(self._send_from(batches))
            reading = self._batches()
            # Parsing and chunking take their time: not on the loop, which keeps the senders busy.
            while batch := await asyncio.to_thread(next, reading, None):
                await batches.put(batch)
            for _ in range(self._options.in_flight):
                await batches.put(None)

    async def _send_from(self, batches: "asyncio.Queue[list[TextItem] | None]") -> None:
        while batch := await batches.get():
            await self._send(batch)

    async def _send(self, batch: list[TextItem]) -> None:
        """Send a batch; when it is refused, halve it until the refused records stand alone."""
        try:
            unchanged = await self._client.upsert([encode_item(i, self._options.text_field) for i in batch])
        except Refused as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._send(batch[:middle])
                await self._send(batch[middle:])
                return
            item, unchanged = batch[0], 0
            self._refuse(Refusal(item.source.name, item.line, error.message))
        else:
            self.tally.unchanged += unchanged
            self.tally.written += len(batch) - unchanged
        self.tally.bytes_done += sum(item.size_bytes for item in batch)
        self._report()

    def _batches(self) -> Iterator[list[TextItem]]:
        items = self._items()
        while first := next(items, None):
            batch, room = [first], MAX_BATCH_BYTES - _size(first)
            for item in itertools.islice(items, self._options.batch_records - 1):
                room -= _size(item)
                if room < 0:
                    items = itertools.chain([item], items)
                    break
                batch.append(item)
            yield batch

    def _items(self) -> Iterator[TextItem]:
        for source in self._found.sources:
            pieces = 0
            for item in read_source(source, self._options.text_field, self._count_tokens):
                if isinstance(item, Refusal):
                    self._refuse(item)
                elif item.id in self._source_of:
                    where = self._source_of[item.id]
                    self._refuse(
                        Refusal(source.name, item.line, f"its id {item.id!r} stands in {where} already")
                    )
                else:
                    self._source_of[item.id] = source.name
                    pieces += 1
                    yield item
            if not source.has_rows:
                self._parts[source.name] = pieces

    def _refuse(self, refusal: Refusal) -> None:
        self.tally.refused.append(refusal)

    def _report(self) -> None:
        self.tally.elapsed_s = self._clock() - self._started
        self._on_progress(self.tally)

    async def remove_stale(self) -> None:
        """See the module: what ingestion wrote earlier and the sources no longer hold."""
        untouchable = {refusal.source for refusal in self.tally.refused}
        for name, parts in sorted((await self._stored_documents()).items()):
            if name in untouchable:
                continue
            keep = self._parts.get(name, 0)
            stale = sum(part >= keep for part in parts)
            if stale and (name in self._parts or (self._options.sync and self._found.covers(name))):
                # By mark as well as by name: an id of that shape may be somebody else's.
                mine = [{FROM_FIELD: {"$eq": name}}, {PART_FIELD: {"$gte": keep}}]
                await self._client.delete({"$and": mine})
                self._removed(stale)
        if self._options.sync:
            stale_rows = [
                id_
                async for id_, metadata in self._client.find(ROWS)
                if id_ not in self._source_of
                and self._found.covers(str(metadata[FROM_FIELD]))
                and metadata[FROM_FIELD] not in untouchable
            ]
            await self._client.delete_ids(stale_rows)
            self._removed(len(stale_rows))
        self._report()

    async def _stored_documents(self) -> dict[str, list[int]]:
        """Documents under the given paths of which the index holds pieces, and the pieces' numbers."""
        stored: dict[str, list[int]] = {}
        for scope in self._found.scopes:
            if scope.endswith(".jsonl"):
                continue
            async for id_ in self._client.list_ids(scope if scope.endswith("/") else f"{scope}#"):
                name, _, part = id_.rpartition("#")
                if name and part.isdecimal():
                    stored.setdefault(name, []).append(int(part))
        return stored

    def _removed(self, count: int) -> None:
        self.tally.removed += count


def token_counter() -> CountTokens:
    """Counts the embedded model's tokens of a text: what decides how long a piece may be."""
    from tokenizers import Tokenizer

    from gateway.data import tokenizer_path

    tokenizer = Tokenizer.from_file(str(tokenizer_path()))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _size(item: TextItem) -> int:
    """Bytes of its line, give or take the text field's name."""
    return len(encode_item(item, "text"))


def _first(group: BaseExceptionGroup[GatewayFailed]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
