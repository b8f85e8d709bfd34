"""Reading a JetStream stream in order, from a place of our own.

An ephemeral consumer without acknowledgements, pulled by requests that are bounded in bytes: what is in
flight is at most `MAX_BYTES`, however far behind the reader is. nats-py's `fetch` stalls (its issue 986) and
its ordered push consumer answers flow control four times a second and knows no smaller bound than 32 MiB.

A reading is over at the first thing that is not as it should be: the connection lost, the consumer gone, the
server silent. Its owner opens another one where it stopped.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec
from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from regions.runtime.nats_session import NatsError, NoAnswer, Session

MAX_BYTES: Final = 8 * 1024 * 1024
"""Of one pull; larger than the largest message, or it could never be read."""
MAX_MESSAGES: Final = 4_096
EXPIRES_S: Final = 30.0
HEARTBEAT_S: Final = 1.0
SILENT_S: Final = 3.0
"""A pull without so much as a heartbeat for so long is dead."""
INACTIVE_S: Final = 30.0
"""The server removes a consumer that nobody has pulled for so long."""


class ReadingEnded(NatsError):
    """The consumer is gone, or the server says no to our pulls."""


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """A message of a stream. `pending` messages of this reading come after it, as of its delivery."""

    subject: str
    sequence: int
    stored_s: float
    pending: int
    headers: dict[str, str]
    data: bytes


class Reading:
    """Messages of a stream, one after another; made by `open`, closed by whoever opened it."""

    def __init__(self, session: Session, stream: str, consumer: str, pending: int) -> None:
        self.pending = pending
        """How many messages stood there when the reading began."""
        self._session, self._stream, self._consumer = session, stream, consumer
        self._inbox = session.client.new_inbox()
        self._arrived: deque[Msg] = deque()
        self._more = asyncio.Event()
        self._left = 0
        self._subscription: Subscription | None = None
        session.wakened.add(self._more)

    @classmethod
    async def open(
        cls,
        session: Session,
        stream: str,
        *,
        after: int | None,
        subjects: Sequence[str] = (),
        headers_only: bool = False,
        timeout_s: float,
    ) -> Self:
        """A reading of what comes after a sequence, or (None) of the last message of every subject first.

        Raises: NotAsked, NoAnswer, Refused: as `Session.api`.
        """
        name = session.client.new_inbox().rpartition(".")[2]
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE_S * 1e9),
            "headers_only": headers_only,
            "deliver_policy": "last_per_subject" if after is None else "by_start_sequence",
        }
        if after is not None:
            config["opt_start_seq"] = after + 1
        if subjects or after is None:
            config["filter_subjects"] = list(subjects) or [">"]
        made = await session.api(
            f"CONSUMER.CREATE.{stream}.{name}",
            {"stream_name": stream, "config": config, "action": "create"},
            timeout_s=timeout_s,
        )
        return cls(session, stream, name, made["num_pending"])

    async def next(self) -> StreamMessage:
        """The next message, whenever it comes.

        Raises: NotAsked, NoAnswer, ReadingEnded: this reading gives no more.
        """
        while True:
            if not self._arrived:
                await self._wait()
            message = self._arrived.popleft()
            status = (message.headers or {}).get("Status", "") if not message.reply else ""
            if not status:
                self._left -= 1
                return _parse(message)
            self._heed(status, (message.headers or {}).get("Description", ""))

    @property
    def waiting_bytes(self) -> int:
        """What has arrived and was not asked for yet; never more than `MAX_BYTES`."""
        return sum(len(message.data) for message in self._arrived)

    async def close(self) -> None:
        """Drop the subscription; the server drops the consumer when nobody pulls."""
        self._session.wakened.discard(self._more)
        if self._subscription is not None and not self._session.lost.is_set():
            with suppress(errors.Error, OSError):  # lost just now: then the subscription is gone too
                await self._subscription.unsubscribe()

    async def _wait(self) -> None:
        """Until something has arrived; pull when the last pull is used up."""
        if self._subscription is None:
            try:
                self._subscription = await self._session.client.subscribe(self._inbox, cb=self._receive)
            except (errors.Error, OSError) as error:  # it may know of the loss before `lost` is set
                raise NoAnswer(f"the connection was lost: {error!r}") from error
        if self._left <= 0:
            await self._pull()
        try:
            async with asyncio.timeout(SILENT_S):
                while not self._arrived:
                    self._more.clear()
                    if self._session.lost.is_set():
                        raise NoAnswer("the connection was lost")
                    await self._more.wait()
        except TimeoutError:
            raise NoAnswer(f"silent for {SILENT_S} s") from None

    async def _pull(self) -> None:
        self._left = MAX_MESSAGES
        pull = {
            "batch": MAX_MESSAGES,
            "max_bytes": MAX_BYTES,
            "expires": int(EXPIRES_S * 1e9),
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        subject = self._session.api_subject(f"CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}")
        await self._session.send(subject, msgspec.json.encode(pull), reply=self._inbox)

    def _heed(self, status: str, description: str) -> None:
        match status:
            case "100":
                return
            case "408" | "409" if description in _USED_UP:
                self._left = 0
            case _:
                raise ReadingEnded(f"{description} ({status})")

    async def _receive(self, message: Msg) -> None:
        self._arrived.append(message)
        self._more.set()


_USED_UP: Final = frozenset({"Request Timeout", "Batch Completed", "Message Size Exceeds MaxBytes"})
"""Why a pull ends before its time, when nothing is wrong."""


def _parse(message: Msg) -> StreamMessage:
    """The place of a message is in its reply subject.

    Source: ADR-15: ``$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer
    sequence>.<ns since 1970>.<pending>[.<token>]``; without domain and account in the older form.
    """
    parts = message.reply.split(".")
    first = 7 if len(parts) > 9 else 5
    return StreamMessage(
        subject=message.subject,
        sequence=int(parts[first]),
        stored_s=int(parts[first + 2]) / 1e9,
        pending=int(parts[first + 3]),
        headers=dict(message.headers or {}),
        data=message.data,
    )
