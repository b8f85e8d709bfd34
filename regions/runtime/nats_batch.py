"""Storing messages in a JetStream stream, all or none, and knowing whether they are.

An atomic batch costs one fsync however many messages it has. Its first message carries an id; the server
refuses a batch with an id that it has stored in the last `WINDOW_S`. So when the answer to a batch is lost,
the *identical* batch is published again (by itself, since a refused one takes its batch-mates along):

| answer to the repetition | what happened |
|---|---|
| stored | the first never arrived, and can no more: its id is known now |
| the id is known (10201) | the first was stored: its sequence is read back from the stream |
| another refusal | either: the stream is read for it |
| none | again, until the deadline; then nobody knows |

A message alone is not wrapped in a batch, which the server would stage first: 1.3 ms instead of 6. To its
repetition the server answers "stored", with the sequence that it has.

Source: ADR-50; tried against server 2.15.1, with the id still known after a kill -9.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from regions.runtime.nats_reader import Reading
from regions.runtime.nats_session import Connector, NatsError, NoAnswer, NotAsked, Refused, Session
from regions.runtime.trace_context import TRACEPARENT

WINDOW_S: Final = 120.0
"""How long the server knows an id; a stream that takes batches is created with it."""
ATTEMPT_S: Final = 5.0
"""How long a commit may go unanswered before it is repeated."""
RETRY_PAUSE_S: Final = 0.1
STALE: Final = frozenset({10071, 10164})
"""The expected last sequence of a subject is not the last one."""
KNOWN_ID: Final = 10201
BUSY: Final = frozenset({10176, 10210})
"""Too many batches are under way (50 a stream), or ours lost its beginning to that: nothing is stored."""
NEVER: Final = frozenset({10054, 10174, 10175, 10199})
"""What is wrong with the batch or the stream will not pass: nothing is stored."""
STORE_FAILED: Final = 10077
"""The stream is full, which is seen before anything is stored; or the disk failed, which may not be."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to store. `expected` is (subject, its last sequence): if that has moved, no.

    `trace` goes with it as the header `traceparent`; "" is none.
    """

    subject: str
    data: bytes = field(repr=False)
    expected: tuple[str, int] | None = None
    trace: str = ""


class _Stored(msgspec.Struct):
    seq: int


async def store(
    connector: Connector, stream: str, batch: Sequence[Outgoing], *, after: int, until_s: float
) -> int:
    """The sequence of the batch's first message; the others follow without a gap.

    `after` is a sequence that the stream had before. `until_s` is a time of the loop.
    Raises: Refused, NotAsked: certainly not stored. NoAnswer: nobody knows.
    """
    loop = asyncio.get_running_loop()
    message_id, has_asked = "", False
    while True:
        left_s = until_s - loop.time()
        try:
            session = await connector.session(left_s)
            message_id = message_id or session.client.new_inbox().rpartition(".")[2]
            return await _publish(session, batch, message_id, min(left_s, ATTEMPT_S))
        except NotAsked as error:
            if not has_asked:
                raise
            problem: NatsError = error
        except NoAnswer as error:
            has_asked, problem = True, error
        except Refused as error:
            if not has_asked and error.code in STALE | NEVER:
                raise
            if has_asked or error.code not in BUSY:
                found = await _find(connector, stream, message_id, len(batch), after, until_s)
                if found is not None:
                    return found
                # Where no repetition can be stored, the first cannot be stored any more either.
                if error.code in STALE or (error.code == STORE_FAILED and not has_asked):
                    raise
                has_asked = True
            problem = error
        if loop.time() + RETRY_PAUSE_S >= until_s:
            raise NoAnswer(f"outcome unknown: {problem}") if has_asked else problem
        await asyncio.sleep(RETRY_PAUSE_S)


async def _publish(session: Session, batch: Sequence[Outgoing], message_id: str, timeout_s: float) -> int:
    """The sequence of the first message. Raises: NotAsked, NoAnswer, Refused."""
    batch_id = session.client.new_inbox().rpartition(".")[2]
    headers = {"Nats-Msg-Id": message_id}
    guarded: set[tuple[str, int]] = set()
    for place, message in enumerate(batch, 1):
        if len(batch) > 1:
            headers |= {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(place)}
        if message.expected is not None and message.expected not in guarded:
            guarded.add(message.expected)
            subject, sequence = message.expected
            headers["Nats-Expected-Last-Subject-Sequence"] = str(sequence)
            headers["Nats-Expected-Last-Subject-Sequence-Subject"] = subject
        if message.trace:
            headers[TRACEPARENT] = message.trace
        if place < len(batch):
            await session.send(message.subject, message.data, headers)
            headers = {}
    if len(batch) > 1:
        headers["Nats-Batch-Commit"] = "1"
    answer = await session.ask(batch[-1].subject, batch[-1].data, headers, timeout_s=timeout_s)
    return stored_sequence(answer) - len(batch) + 1


def stored_sequence(answer: bytes) -> int:
    """The sequence in a publish acknowledgement: of the last message, for a batch."""
    return msgspec.json.decode(answer, type=_Stored).seq


async def _find(
    connector: Connector, stream: str, message_id: str, count: int, after: int, until_s: float
) -> int | None:
    """The first sequence of the batch with that id, if all of it is in the stream. Raises: NoAnswer."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(until_s):
            session = await connector.session(until_s - loop.time())
            reading = await Reading.open(
                session, stream, after=after, headers_only=True, timeout_s=until_s - loop.time()
            )
            try:
                return await _search(reading, message_id, count)
            finally:
                await reading.close()
    except (NatsError, TimeoutError) as error:
        raise NoAnswer(f"outcome unknown: {error}") from error


async def _search(reading: Reading, message_id: str, count: int) -> int | None:
    first, batch_id = None, None
    for _ in range(reading.pending):
        message = await reading.next()
        if message.headers.get("Nats-Msg-Id") == message_id:
            first, batch_id = message.sequence, message.headers.get("Nats-Batch-Id")
        if first is not None and message.sequence == first + count - 1:
            return first if message.headers.get("Nats-Batch-Id") == batch_id else None
    return None
