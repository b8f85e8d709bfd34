"""A change log on NATS JetStream: one stream a shard, in a domain of the region's own.

| subject in stream ``<prefix>-changes-<n>`` | what |
|---|---|
| ``<prefix>.changes.<n>.<index>`` | changes |
| ``<prefix>.fence.<n>.<index>`` | `EpochOpened`: its sequence is the epoch's token |
| ``<prefix>.beat.<n>`` | heartbeats |

*Appending.* What is appended to a shard while a commit runs goes into the next one, an atomic batch: one
fsync. Each index in it carries "the last message of my fence's subject is my token", so the server itself
refuses an epoch that was fenced off, whoever asks; then the indexes of the batch are tried one by one. The
outcome of a batch whose answer is lost is found out as `runtime.nats_batch` says.

*Streams.* Whoever connects makes what is missing. A stream begins at a random sequence (`Log` says why) and
never trims by itself: the server refuses what exceeds its limit of bytes, and `trim` purges changes and
heartbeats but never a fence, because the server would then take "no fence" for the last one. The fences that
outlive their neighbours are the only holes a stream has, all before its `first`.

Tried against server 2.15.1. Known limits: 1,000 messages a batch and 50 batches under way a stream, so at
most 50 processes append to one shard at the same moment; a fifty-first waits.
"""

import asyncio
import random
from base64 import b64decode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from regions.change_codec import decode, encode
from regions.changes import Body, EpochOpened, Heartbeat
from regions.errors import AppendUnknown, LogCorrupt, LogRecreated, LogTrimmed, LogUnavailable, StaleEpoch
from regions.logs.base import (
    MAX_BATCH_BYTES,
    MAX_BATCH_CHANGES,
    Append,
    Entry,
    Fence,
    ShardState,
    encode_batch,
)
from regions.names import IndexName, RegionId
from regions.positions import Epoch, Lsn, make_lsn
from regions.registers.base import Registers
from regions.retention import (
    LEASE_PREFIX,
    Lease,
    Retention,
    decode_lease,
    encode_lease,
    held_after,
    lease_key,
    new_first,
)
from regions.runtime import nats_batch
from regions.runtime.config_file import SecretRef
from regions.runtime.group_commit import Bounds, Commit, GroupCommit
from regions.runtime.nats_batch import STALE, Outgoing
from regions.runtime.nats_reader import Reading, ReadingEnded, StreamMessage
from regions.runtime.nats_session import Connector, NatsError, NoAnswer, NotAsked, Refused, Session
from regions.runtime.trace_context import TRACEPARENT

NO_INDEX: Final = IndexName("")
NO_EPOCH: Final = Epoch(0)
NO_MESSAGE: Final = frozenset({10037})
NO_STREAM: Final = frozenset({10059})
NAME_IN_USE: Final = frozenset({10058})
CALL_S: Final = 5.0
"""For what has no timeout of its own: making streams, opening a reading, trimming."""
MAX_ORIGIN: Final = 1 << 30
"""Of the 2^40 sequences that an LSN has room for."""
MAX_TRIMMED: Final = 100_000
"""Entries of a shard that one `trim` purges at most: appends wait meanwhile, some 0.5 s."""
WAITING_BYTES: Final = 64_000_000
"""Appends to a shard beyond this are refused at once."""


class Config(BaseModel):
    """Where the region's NATS servers answer, and how its log is laid out."""

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
    shards: int = Field(
        4, ge=1, le=64, description="Streams that a region's namespaces are spread over; fixed for good."
    )
    replicas: int = Field(1, ge=1, le=5, description="Copies of each stream: 3 in production.")
    retention: Retention = Retention()


def build(
    config: Config, *, region: RegionId, registers: Registers, resolve: Callable[[SecretRef], str]
) -> "JetStreamLog":
    """The log of a region, with the registers of the same region; it connects at `start`."""
    token = resolve(config.token) if config.token is not None else None
    return JetStreamLog(config, region=region, registers=registers, token=token)


@dataclass(frozen=True, slots=True)
class _Work:
    fence: Fence
    bodies: Sequence[bytes]
    traces: Sequence[str]


class JetStreamLog:
    """`regions.logs.base.Log` on the servers of one region."""

    def __init__(self, config: Config, *, region: RegionId, registers: Registers, token: str | None) -> None:
        self._config, self._region, self._registers = config, region, registers
        self._connector = Connector(
            config.urls, name="meridian log", domain=region, token=token, prepare=self._ensure_streams
        )
        self._seen = [0] * config.shards
        bounds = Bounds(MAX_BATCH_CHANGES, MAX_BATCH_BYTES, WAITING_BYTES)
        self._commits = [GroupCommit(self._commit_to(shard), bounds) for shard in range(config.shards)]
        self._running = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def region(self) -> RegionId:
        return self._region

    @property
    def shards(self) -> int:
        return self._config.shards

    async def start(self) -> None:
        group = await self._running.enter_async_context(asyncio.TaskGroup())
        self._tasks = [group.create_task(commit.run()) for commit in self._commits]
        try:
            await self._connector.session(CALL_S)
        except NatsError as error:
            raise self._unavailable(error) from error

    async def append(
        self, fence: Fence, shard: int, batch: Sequence[Append], *, timeout_s: float
    ) -> Sequence[Lsn]:
        bodies = encode_batch(fence.epoch, batch)
        first = await self._commits[shard].submit(
            _Work(fence, bodies, [each.trace for each in batch]),
            count=len(bodies),
            size=sum(map(len, bodies)),
            timeout_s=timeout_s,
        )
        return [make_lsn(fence.epoch, sequence) for sequence in range(first, first + len(bodies))]

    async def beat(self, shard: int, *, timeout_s: float) -> int:
        subject = f"{self._config.prefix}.beat.{shard}"
        try:
            session = await self._connector.session(timeout_s)
            data = encode(NO_EPOCH, "", Heartbeat())
            answer = await session.ask(subject, data, timeout_s=timeout_s)
        except NatsError as error:
            raise self._unavailable(error) from error
        return nats_batch.stored_sequence(answer)

    async def open_epoch(self, index: IndexName, epoch: Epoch, *, timeout_s: float) -> Fence:
        until_s = asyncio.get_running_loop().time() + timeout_s
        try:
            tokens = [await self._open(shard, index, epoch, until_s) for shard in range(self.shards)]
        except NatsError as error:
            raise self._unavailable(error) from error
        return Fence(index, epoch, tokens)

    async def epoch_ends(self, index: IndexName, epoch: Epoch, *, timeout_s: float) -> Sequence[int]:
        try:
            session = await self._connector.session(timeout_s)
            return [await self._end(session, shard, index, epoch, timeout_s) for shard in range(self.shards)]
        except NatsError as error:
            raise self._unavailable(error) from error

    async def state(self, shard: int, *, timeout_s: float) -> ShardState:
        try:
            return await self._state(await self._connector.session(timeout_s), shard, timeout_s)
        except NatsError as error:
            raise self._unavailable(error) from error

    async def read(self, shard: int, after: int, incarnation: str) -> AsyncGenerator[Entry, None]:
        session: Session | None = None
        try:
            session = await self._connector.open()
            reading = await self._begin_reading(session, shard, after, incarnation)
            while True:
                message = await reading.next()
                if message.sequence != after + 1:
                    await self._check_cursor(session, shard, after, incarnation)
                    raise ReadingEnded(f"sequence {message.sequence} came after {after}")
                entry = self._entry(shard, message)
                after = message.sequence
                yield entry
        except ReadingEnded as error:
            await self._check_cursor(await self._connector.session(CALL_S), shard, after, incarnation)
            raise self._unavailable(error) from error
        except NatsError as error:
            raise self._unavailable(error) from error
        finally:
            if session is not None:
                await session.close()

    async def hold(self, reader: str, sequences: Sequence[int], *, lease_s: float) -> None:
        if len(sequences) != self.shards:
            raise ValueError(f"a lease names all {self.shards} shards, not {len(sequences)}")
        state = await self.state(0, timeout_s=CALL_S)
        lease = Lease(list(sequences), state.now_s + lease_s)
        await self._registers.put(lease_key(reader), encode_lease(lease), timeout_s=CALL_S)

    async def trim(self) -> Sequence[int]:
        found = await self._registers.scan(LEASE_PREFIX, timeout_s=CALL_S)
        leases = [decode_lease(register.value) for register in found]
        try:
            session = await self._connector.session(CALL_S)
            return [await self._trim(session, shard, leases) for shard in range(self.shards)]
        except NatsError as error:
            raise self._unavailable(error) from error

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._running.aclose()
        await self._connector.close()

    # Streams

    def _stream(self, shard: int) -> str:
        return f"{self._config.prefix}-changes-{shard}"

    def _changes(self, shard: int, index: str) -> str:
        return f"{self._config.prefix}.changes.{shard}.{index}"

    def _fence(self, shard: int, index: str) -> str:
        return f"{self._config.prefix}.fence.{shard}.{index}"

    async def _ensure_streams(self, session: Session) -> None:
        """Make the streams that are missing, and learn where the others end.

        All at once: over a long way, one after the other is most of what a new connection costs.
        """
        await asyncio.gather(*(self._ensure_stream(session, shard) for shard in range(self.shards)))

    async def _ensure_stream(self, session: Session, shard: int) -> None:
        wanted = self._wanted(shard)
        try:
            info = await session.api(f"STREAM.INFO.{wanted['name']}", timeout_s=CALL_S)
        except Refused as error:
            if error.code not in NO_STREAM:
                raise
            try:
                info = await session.api(f"STREAM.CREATE.{wanted['name']}", wanted, timeout_s=CALL_S)
            except Refused as late:
                if late.code not in NAME_IN_USE:
                    raise
                info = await session.api(f"STREAM.INFO.{wanted['name']}", timeout_s=CALL_S)
        await self._ensure_limits(session, info["config"], wanted)
        self._seen[shard] = info["state"]["last_seq"]

    def _wanted(self, shard: int) -> dict[str, Any]:
        chance = random.SystemRandom()
        return {
            "name": self._stream(shard),
            "subjects": [
                self._changes(shard, ">"),
                self._fence(shard, ">"),
                f"{self._config.prefix}.beat.{shard}",
            ],
            "storage": "file",
            "num_replicas": self._config.replicas,
            "retention": "limits",
            "discard": "new",
            "max_bytes": self._config.retention.hard_bytes,
            "allow_atomic": True,
            "deny_delete": True,
            "duplicate_window": int(nats_batch.WINDOW_S * 1e9),
            "first_seq": chance.randrange(1, MAX_ORIGIN),
            "metadata": {"id": f"{chance.getrandbits(64):016x}"},
        }

    async def _ensure_limits(self, session: Session, stands: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Bring a stream that stands to the configured size and copies; nothing else of it ever changes."""
        changed = {key: wanted[key] for key in ("max_bytes", "num_replicas") if stands[key] != wanted[key]}
        if changed:
            await session.api(f"STREAM.UPDATE.{stands['name']}", {**stands, **changed}, timeout_s=CALL_S)

    async def _state(self, session: Session, shard: int, timeout_s: float) -> ShardState:
        info = await self._info(session, shard, timeout_s)
        state, config = info["state"], info["config"]
        first = state["first_seq"]
        origin = config.get("first_seq", 1)
        if state.get("num_deleted", 0):
            first = await self._first_whole(session, shard, origin, state["last_seq"], timeout_s)
        return ShardState(
            incarnation=f"{info['created']}/{config['metadata']['id']}",
            origin=origin,
            first=first,
            last=state["last_seq"],
            now_s=_seconds(info["ts"]),
        )

    async def _info(self, session: Session, shard: int, timeout_s: float) -> dict[str, Any]:
        """What the server says of a stream; one that was deleted meanwhile is made anew."""
        try:
            found: dict[str, Any] = await session.api(
                f"STREAM.INFO.{self._stream(shard)}", timeout_s=timeout_s
            )
        except Refused as error:
            if error.code not in NO_STREAM:
                raise
            await self._ensure_streams(session)
            found = await session.api(f"STREAM.INFO.{self._stream(shard)}", timeout_s=timeout_s)
        return found

    async def _first_whole(
        self, session: Session, shard: int, origin: int, last: int, timeout_s: float
    ) -> int:
        """The first sequence from which on there is no hole: before it only fences are left."""
        first = last + 1
        for subject in (self._changes(shard, ">"), f"{self._config.prefix}.beat.{shard}"):
            found = await self._get(session, shard, {"seq": 1, "next_by_subj": subject}, timeout_s)
            first = min(first, first if found is None else found["seq"])
        while first > origin and await self._get(session, shard, {"seq": first - 1}, timeout_s) is not None:
            first -= 1
        return first

    async def _get(
        self, session: Session, shard: int, query: dict[str, Any], timeout_s: float
    ) -> dict[str, Any] | None:
        """One stored message, as the API shows it; None when there is none."""
        try:
            call = f"STREAM.MSG.GET.{self._stream(shard)}"
            answer = await session.api(call, query, timeout_s=timeout_s)
        except Refused as error:
            if error.code in NO_MESSAGE:
                return None
            raise
        message: dict[str, Any] = answer["message"]
        return message

    # Appending

    def _commit_to(self, shard: int) -> Commit[_Work, int]:
        async def commit(works: Sequence[_Work], until_s: float) -> list[int | Exception]:
            return await self._commit(shard, works, until_s)

        return commit

    async def _commit(self, shard: int, works: Sequence[_Work], until_s: float) -> list[int | Exception]:
        """The first sequence of every work, or why it has none."""
        batch = [message for work in works for message in self._messages(shard, work)]
        try:
            first = await nats_batch.store(
                self._connector, self._stream(shard), batch, after=self._seen[shard], until_s=until_s
            )
        except Refused as error:
            fences = {(work.fence.index, work.fence.tokens[shard]) for work in works}
            if error.code not in STALE or len(fences) == 1:
                return [self._refused(shard, work, error) for work in works]
            return await self._commit_apart(shard, works, until_s)
        except NotAsked as error:
            return [self._unavailable(error) for _ in works]
        except NoAnswer as error:
            return [AppendUnknown(f"the log of {self._region}, shard {shard}: {error}") for _ in works]
        self._seen[shard] = max(self._seen[shard], first + len(batch) - 1)
        firsts: list[int | Exception] = []
        for work in works:
            firsts.append(first)
            first += len(work.bodies)
        return firsts

    async def _commit_apart(
        self, shard: int, works: Sequence[_Work], until_s: float
    ) -> list[int | Exception]:
        """One of several epochs is stale: commit each fence's works by themselves."""
        outcomes: dict[int, int | Exception] = {}
        places: dict[tuple[str, int], list[int]] = {}
        for place, work in enumerate(works):
            places.setdefault((work.fence.index, work.fence.tokens[shard]), []).append(place)
        for group in places.values():
            found = await self._commit(shard, [works[place] for place in group], until_s)
            outcomes.update(zip(group, found, strict=True))
        return [outcomes[place] for place in range(len(works))]

    def _messages(self, shard: int, work: _Work) -> list[Outgoing]:
        index = work.fence.index
        expected = (self._fence(shard, index), work.fence.tokens[shard])
        subject = self._changes(shard, index)
        return [
            Outgoing(subject, body, expected, trace)
            for body, trace in zip(work.bodies, work.traces, strict=True)
        ]

    def _refused(self, shard: int, work: _Work, error: Refused) -> Exception:
        if error.code in STALE:
            return StaleEpoch(
                f"epoch {work.fence.epoch} of {work.fence.index} is fenced off in shard {shard}"
            )
        return self._unavailable(error)

    # Epochs

    async def _open(self, shard: int, index: IndexName, epoch: Epoch, until_s: float) -> int:
        """The epoch's token in one shard. Raises: StaleEpoch; NatsError."""
        loop = asyncio.get_running_loop()
        while True:
            session = await self._connector.session(until_s - loop.time())
            query = {"last_by_subj": self._fence(shard, index)}
            last = await self._get(session, shard, query, until_s - loop.time())
            token = 0 if last is None else int(last["seq"])
            stands = None if last is None else _epoch(shard, last)
            if stands is not None and stands > epoch:
                raise StaleEpoch(f"epoch {stands} of {index} is open in shard {shard}, not {epoch}")
            if stands == epoch:
                return token
            subject = self._fence(shard, index)
            fence = Outgoing(subject, encode(epoch, "", EpochOpened()), (subject, token))
            try:
                return await nats_batch.store(
                    self._connector, self._stream(shard), [fence], after=self._seen[shard], until_s=until_s
                )
            except Refused as error:
                if error.code not in STALE:
                    raise
                # Somebody else opened an epoch meanwhile: this one, an older or a newer one.

    async def _end(
        self, session: Session, shard: int, index: IndexName, epoch: Epoch, timeout_s: float
    ) -> int:
        ends, sequence = 0, 0
        while True:
            query = {"seq": sequence + 1, "next_by_subj": self._fence(shard, index)}
            fence = await self._get(session, shard, query, timeout_s)
            if fence is None:
                break
            sequence, opened = int(fence["seq"]), _epoch(shard, fence)
            if opened == epoch:
                ends = -1
            elif opened > epoch:
                return sequence - 1 if ends else 0
        if not ends:
            return 0
        info = await self._info(session, shard, timeout_s)
        return int(info["state"]["last_seq"])

    # Reading

    async def _begin_reading(self, session: Session, shard: int, after: int, incarnation: str) -> Reading:
        """Both questions under way at once. Raises: as `_check_cursor`, whose answer comes first."""
        checked, opened = await asyncio.gather(
            self._check_cursor(session, shard, after, incarnation),
            Reading.open(session, self._stream(shard), after=after, timeout_s=CALL_S),
            return_exceptions=True,
        )
        if isinstance(checked, BaseException):
            raise checked
        if isinstance(opened, BaseException):
            raise opened
        return opened

    async def _check_cursor(self, session: Session, shard: int, after: int, incarnation: str) -> None:
        """Raises: LogRecreated, LogTrimmed: that entry is not there to be read. LogUnavailable."""
        try:
            state = await self._state(session, shard, CALL_S)
        except NatsError as error:
            raise self._unavailable(error) from error
        if state.incarnation != incarnation:
            raise LogRecreated(f"shard {shard} is {state.incarnation}, the cursor is of {incarnation}")
        if after > state.last:
            raise LogRecreated(f"shard {shard} ends at {state.last}, before the cursor at {after}")
        if after + 1 < state.first:
            raise LogTrimmed(shard, after, state.first)

    def _entry(self, shard: int, message: StreamMessage) -> Entry:
        kind, _, rest = message.subject.removeprefix(f"{self._config.prefix}.").partition(".")
        index = NO_INDEX if kind == "beat" else IndexName(rest.partition(".")[2])
        epoch, namespace, body = _decode(shard, message.sequence, message.data)
        trace = message.headers.get(TRACEPARENT, "")
        return Entry(shard, message.sequence, epoch, message.stored_s, index, namespace, body, trace)

    # Trimming

    async def _trim(self, session: Session, shard: int, leases: Sequence[Lease]) -> int:
        info = await self._info(session, shard, CALL_S)
        state = await self._state(session, shard, CALL_S)
        stored = info["state"]
        mean = stored["bytes"] / max(1, stored["messages"])
        excess = max(0.0, stored["bytes"] - self._config.retention.soft_bytes)
        first = new_first(
            state.first,
            state.last,
            young=await self._young(session, shard, state),
            fitting=state.first + (int(excess / mean) + 1 if excess else 0),
            held=held_after(leases, shard, state.now_s),
            stored_bytes=stored["bytes"],
            keep=self._config.retention,
        )
        first = min(first, state.first + MAX_TRIMMED)
        if first > state.first:
            for subject in (self._changes(shard, ">"), f"{self._config.prefix}.beat.{shard}"):
                await session.api(
                    f"STREAM.PURGE.{self._stream(shard)}", {"filter": subject, "seq": first}, timeout_s=CALL_S
                )
        return first

    async def _young(self, session: Session, shard: int, state: ShardState) -> int:
        """The first sequence that is younger than the retention's age."""
        since = datetime.fromtimestamp(state.now_s - self._config.retention.age_s, UTC)
        found = await self._get(session, shard, {"start_time": since.isoformat()}, CALL_S)
        return state.last + 1 if found is None else int(found["seq"])

    def _unavailable(self, error: Exception) -> LogUnavailable:
        return LogUnavailable(f"the log of {self._region}: {error}")


def _seconds(timestamp: str) -> float:
    """RFC 3339 with nanoseconds, as seconds since 1970."""
    return datetime.fromisoformat(timestamp).timestamp()


def _decode(shard: int, sequence: int, data: bytes) -> tuple[Epoch, str, Body]:
    try:
        return decode(data)
    except LogCorrupt as error:
        raise LogCorrupt(f"shard {shard}, sequence {sequence}: {error}") from error


def _epoch(shard: int, message: dict[str, Any]) -> Epoch:
    """The epoch of a stored fence. Raises: LogCorrupt."""
    epoch, _, _ = _decode(shard, int(message["seq"]), b64decode(message.get("data") or ""))
    return epoch
