"""A journal on NATS JetStream: one stream in the region's own domain, beside the change log's shards.

Stream ``<prefix>-journal-<name>``, subject ``<prefix>.journal.<name>``, a message a record. What is appended
while a commit runs goes into the next one, an atomic batch: one fsync (`runtime.group_commit`). The outcome
of a batch whose answer is lost is found out as `runtime.nats_batch` says.

Unlike a shard, the stream trims by itself, by age and, oldest first, by size: nobody holds leases on it, and
an append that is refused because nobody read for a year would be worse. Only the head is ever trimmed, so
what is left has no holes.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from regions.errors import AppendUnknown, LogRecreated, LogTrimmed, LogUnavailable
from regions.journals.base import MAX_BYTES, MAX_RECORDS, JournalState, Record, check
from regions.names import RegionId
from regions.runtime import nats_batch
from regions.runtime.config_file import SecretRef
from regions.runtime.group_commit import Bounds, GroupCommit
from regions.runtime.nats_batch import Outgoing
from regions.runtime.nats_reader import Reading
from regions.runtime.nats_session import Connector, NatsError, NoAnswer, NotAsked, Refused, Session

NO_STREAM: Final = frozenset({10059})
NAME_IN_USE: Final = frozenset({10058})
CALL_S: Final = 5.0
"""For what has no timeout of its own: making the stream, opening a reading."""
WAITING_BYTES: Final = 32_000_000
"""Appends beyond this are refused at once."""
DAY_NS: Final = 86_400 * 10**9


class Config(BaseModel):
    """Where the region's NATS servers answer, and how much a journal keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    urls: list[str] = Field(
        min_length=1, description="nats://host:port of each server of the region; tls:// for encryption."
    )
    token: SecretRef | None = Field(None, description="What the servers ask for, if anything.")
    prefix: str = Field(
        "meridian",
        pattern=r"[A-Za-z0-9_-]+",
        description="What the names of its streams and subjects begin with.",
    )
    replicas: int = Field(1, ge=1, le=5, description="Copies of the stream: 3 in production.")
    keep_days: int = Field(400, ge=1, description="Older records go.")
    max_bytes: int = Field(
        1_000_000_000, ge=1_000_000, description="Beyond this the oldest go; an LLM call takes about 400."
    )


def build(
    config: Config, *, region: RegionId, name: str, resolve: Callable[[SecretRef], str]
) -> "JetStreamJournal":
    """The journal of that name in a region; it connects at `start`."""
    token = resolve(config.token) if config.token is not None else None
    return JetStreamJournal(config, region=region, name=name, token=token)


class JetStreamJournal:
    """`regions.journals.base.Journal` on the servers of one region."""

    def __init__(self, config: Config, *, region: RegionId, name: str, token: str | None) -> None:
        self._config, self._region = config, region
        self._stream = f"{config.prefix}-journal-{name}"
        self._subject = f"{config.prefix}.journal.{name}"
        self._connector = Connector(
            config.urls, name=f"meridian {name}", domain=region, token=token, prepare=self._ensure_stream
        )
        self._seen = 0
        self._commits: GroupCommit[Sequence[bytes], int] = GroupCommit(
            self._commit, Bounds(MAX_RECORDS, MAX_BYTES, WAITING_BYTES)
        )
        self._running = AsyncExitStack()
        self._task: asyncio.Task[None] | None = None

    @property
    def region(self) -> RegionId:
        return self._region

    async def start(self) -> None:
        if self._task is None:
            group = await self._running.enter_async_context(asyncio.TaskGroup())
            self._task = group.create_task(self._commits.run())
        try:
            await self._connector.session(CALL_S)
        except NatsError as error:
            raise self._unavailable(error) from error

    async def append(self, records: Sequence[bytes], *, timeout_s: float) -> int:
        check(records)
        return await self._commits.submit(
            records, count=len(records), size=sum(map(len, records)), timeout_s=timeout_s
        )

    async def state(self, *, timeout_s: float) -> JournalState:
        try:
            return await self._state(await self._connector.session(timeout_s), timeout_s)
        except NatsError as error:
            raise self._unavailable(error) from error

    async def read(self, after: int, incarnation: str) -> AsyncGenerator[Record, None]:
        session: Session | None = None
        try:
            await self._connector.session(CALL_S)  # makes the stream
            session = await self._connector.open()
            reading = await Reading.open(session, self._stream, after=after, timeout_s=CALL_S)
            state = await self._state(session, CALL_S)
            if state.incarnation != incarnation or after > state.last:
                raise LogRecreated(f"the journal of {self._region} is another one, or ends before {after}")
            for _ in range(reading.pending):
                message = await reading.next()
                if message.sequence != after + 1:
                    raise LogTrimmed(0, after, message.sequence)
                after = message.sequence
                yield Record(message.sequence, message.stored_s, message.data)
            if after + 1 < state.first:
                raise LogTrimmed(0, after, state.first)  # nothing is left at all
        except NatsError as error:
            raise self._unavailable(error) from error
        finally:
            if session is not None:
                await session.close()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await self._running.aclose()
        await self._connector.close()

    async def _ensure_stream(self, session: Session) -> None:
        wanted = self._wanted()
        try:
            info = await session.api(f"STREAM.INFO.{self._stream}", timeout_s=CALL_S)
        except Refused as error:
            if error.code not in NO_STREAM:
                raise
            try:
                info = await session.api(f"STREAM.CREATE.{self._stream}", wanted, timeout_s=CALL_S)
            except Refused as late:
                if late.code not in NAME_IN_USE:
                    raise
                info = await session.api(f"STREAM.INFO.{self._stream}", timeout_s=CALL_S)
        changed = {
            key: wanted[key]
            for key in ("max_age", "max_bytes", "num_replicas")
            if info["config"][key] != wanted[key]
        }
        if changed:
            await session.api(
                f"STREAM.UPDATE.{self._stream}", {**info["config"], **changed}, timeout_s=CALL_S
            )
        self._seen = info["state"]["last_seq"]

    def _wanted(self) -> dict[str, Any]:
        return {
            "name": self._stream,
            "subjects": [self._subject],
            "storage": "file",
            "num_replicas": self._config.replicas,
            "retention": "limits",
            "discard": "old",
            "max_age": self._config.keep_days * DAY_NS,
            "max_bytes": self._config.max_bytes,
            "allow_atomic": True,
            "deny_delete": True,
            "duplicate_window": int(nats_batch.WINDOW_S * 1e9),
        }

    async def _state(self, session: Session, timeout_s: float) -> JournalState:
        try:
            info = await session.api(f"STREAM.INFO.{self._stream}", timeout_s=timeout_s)
        except Refused as error:
            if error.code not in NO_STREAM:
                raise
            await self._ensure_stream(session)
            info = await session.api(f"STREAM.INFO.{self._stream}", timeout_s=timeout_s)
        state = info["state"]
        first = state["first_seq"] if state["messages"] else state["last_seq"] + 1
        return JournalState(info["created"], first, state["last_seq"])

    async def _commit(self, works: Sequence[Sequence[bytes]], until_s: float) -> list[int | Exception]:
        """The last sequence of every work, or why it has none."""
        batch = [Outgoing(self._subject, data) for work in works for data in work]
        try:
            first = await nats_batch.store(
                self._connector, self._stream, batch, after=self._seen, until_s=until_s
            )
        except (Refused, NotAsked) as error:
            return [self._unavailable(error) for _ in works]
        except NoAnswer as error:
            return [AppendUnknown(f"the journal of {self._region}: {error}") for _ in works]
        self._seen = max(self._seen, first + len(batch) - 1)
        lasts: list[int | Exception] = []
        last = first - 1
        for work in works:
            last += len(work)
            lasts.append(last)
        return lasts

    def _unavailable(self, error: Exception) -> LogUnavailable:
        return LogUnavailable(f"the journal of {self._region}: {error}")
