"""Registers in a JetStream key-value bucket of the region's own servers.

The bucket is laid out as every NATS client lays it out (ADR-8), so that `nats kv` shows it: one stream
``KV_<bucket>``, one subject a key, one message a subject; a revision is a stream sequence. Values are read
from the stream's leader, never from a follower that may be behind: direct gets are off.
"""

from base64 import b64decode
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from regions.errors import Conflict, LogUnavailable
from regions.names import RegionId
from regions.registers.base import Register, check_key
from regions.runtime.config_file import SecretRef
from regions.runtime.nats_batch import STALE, stored_sequence
from regions.runtime.nats_reader import Reading, StreamMessage
from regions.runtime.nats_session import Connector, NatsError, Refused, Session

NOT_FOUND: Final = frozenset({10037, 10059})
"""No such message, no such stream."""
NAME_IN_USE: Final = frozenset({10058})
OPEN_S: Final = 5.0


class Config(BaseModel):
    """Where the region's NATS servers answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    urls: list[str] = Field(
        min_length=1, description="nats://host:port of each server of the region; tls:// for encryption."
    )
    token: SecretRef | None = Field(None, description="What the servers ask for, if anything.")
    bucket: str = Field(
        "meridian", pattern=r"[A-Za-z0-9_-]+", description="The key-value bucket that holds the registers."
    )
    replicas: int = Field(1, ge=1, le=5, description="Copies of the bucket: 3 in production.")


def build(config: Config, *, region: RegionId, resolve: Callable[[SecretRef], str]) -> "JetStreamRegisters":
    """The registers of a region; they connect at the first call."""
    token = resolve(config.token) if config.token is not None else None
    return JetStreamRegisters(config, region=region, token=token)


class JetStreamRegisters:
    """`regions.registers.base.Registers` in a bucket."""

    def __init__(self, config: Config, *, region: RegionId, token: str | None) -> None:
        self._region, self._replicas = region, config.replicas
        self._stream, self._root = f"KV_{config.bucket}", f"$KV.{config.bucket}."
        self._connector = Connector(
            config.urls, name="meridian registers", domain=region, token=token, prepare=self._ensure_bucket
        )

    async def start(self) -> None:
        """Connect and make the bucket. Raises: LogUnavailable: not now; any later call tries again."""
        try:
            await self._connector.session(OPEN_S)
        except NatsError as error:
            raise self._unavailable(error) from error

    async def get(self, key: str, *, timeout_s: float) -> Register | None:
        check_key(key)
        found = await self._last(key, timeout_s)
        return None if found is None or found.is_deleted else found.register

    async def scan(self, prefix: str, *, timeout_s: float) -> list[Register]:
        try:
            session = await self._connector.session(timeout_s)
            reading = await self._open(session, prefix, timeout_s)
            try:
                found = [self._register(await reading.next()) for _ in range(reading.pending)]
            finally:
                await reading.close()
        except NatsError as error:
            raise self._unavailable(error) from error
        return sorted(each for each in found if each is not None and each.key.startswith(prefix))

    async def put(self, key: str, value: bytes, *, timeout_s: float) -> int:
        check_key(key)
        try:
            return await self._publish(key, value, {}, timeout_s)
        except NatsError as error:
            raise self._unavailable(error) from error

    async def swap(self, key: str, value: bytes, revision: int, *, timeout_s: float) -> int:
        check_key(key)
        try:
            return await self._publish_at(key, value, revision, timeout_s)
        except Conflict:
            stands = await self._last(key, timeout_s) if revision == 0 else None
            if stands is None or not stands.is_deleted:
                raise
        # An operator deleted it with other tools: to us it is absent, to the stream its last word.
        return await self._publish_at(key, value, stands.register.revision, timeout_s)

    async def watch(self, prefix: str) -> AsyncGenerator[Register, None]:
        session: Session | None = None
        try:
            await self._connector.session(OPEN_S)  # makes the bucket
            session = await self._connector.open()
            reading = await self._open(session, prefix, OPEN_S)
            while True:
                register = self._register(await reading.next())
                if register is not None and register.key.startswith(prefix):
                    yield register
        except NatsError as error:
            raise self._unavailable(error) from error
        finally:
            if session is not None:
                await session.close()

    async def close(self) -> None:
        await self._connector.close()

    async def _ensure_bucket(self, session: Session) -> None:
        try:
            await session.api(f"STREAM.CREATE.{self._stream}", self._bucket(), timeout_s=OPEN_S)
        except Refused as error:
            if error.code not in NAME_IN_USE:
                raise  # it stands with settings of its own, which an operator chose

    def _bucket(self) -> dict[str, Any]:
        return {
            "name": self._stream,
            "subjects": [f"{self._root}>"],
            "storage": "file",
            "num_replicas": self._replicas,
            "retention": "limits",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": False,
            "duplicate_window": 120 * 1_000_000_000,
        }

    async def _publish_at(self, key: str, value: bytes, revision: int, timeout_s: float) -> int:
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        try:
            return await self._publish(key, value, headers, timeout_s)
        except Refused as error:
            if error.code in STALE:
                raise Conflict(f"register {key} is not at revision {revision}") from error
            raise self._unavailable(error) from error
        except NatsError as error:
            raise self._unavailable(error) from error

    async def _publish(self, key: str, value: bytes, headers: dict[str, str], timeout_s: float) -> int:
        session = await self._connector.session(timeout_s)
        answer = await session.ask(self._root + key, value, headers, timeout_s=timeout_s)
        return stored_sequence(answer)

    async def _last(self, key: str, timeout_s: float) -> "_Last | None":
        """The last message of a key. Raises: LogUnavailable."""
        try:
            session = await self._connector.session(timeout_s)
            answer = await session.api(
                f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": self._root + key}, timeout_s=timeout_s
            )
        except Refused as error:
            if error.code in NOT_FOUND:
                return None
            raise self._unavailable(error) from error
        except NatsError as error:
            raise self._unavailable(error) from error
        message = answer["message"]
        value = b64decode(message.get("data") or "")
        is_deleted = b"KV-Operation" in b64decode(message.get("hdrs") or "")
        return _Last(Register(key, value, message["seq"]), is_deleted)

    async def _open(self, session: Session, prefix: str, timeout_s: float) -> Reading:
        whole, dot, _ = prefix.rpartition(".")
        subjects = [f"{self._root}{whole}{dot}>"]
        return await Reading.open(session, self._stream, after=None, subjects=subjects, timeout_s=timeout_s)

    def _register(self, message: StreamMessage) -> Register | None:
        if "KV-Operation" in message.headers:
            return None
        return Register(message.subject.removeprefix(self._root), message.data, message.sequence)

    def _unavailable(self, error: Exception) -> LogUnavailable:
        return LogUnavailable(f"the registers of {self._region}: {error}")


class _Last(msgspec.Struct):
    register: Register
    is_deleted: bool
