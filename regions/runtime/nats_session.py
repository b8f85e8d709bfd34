"""A connection to NATS servers, from its opening to its loss.

A `Session` never comes back: when its connection breaks, everything that waits on it hears of it at once,
and the next caller of `Connector.session` opens another. nats-py's own reconnecting is switched off. It keeps
what was being sent and sends it on the next connection, long after its caller gave up, and leaves requests
whose answer is lost waiting for their full timeout.

What an error says about what was asked: `NotAsked`, it was certainly not done; `Refused`, the server said no;
`NoAnswer`, nobody knows.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import nats
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

OLDEST_SERVER: Final = (2, 15)
PING_INTERVAL_S: Final = 2
"""A peer that is silent for three of these is lost."""
PAUSE_S: Final = 0.2
"""After a failed connection nobody tries again for so long."""
CLOSE_S: Final = 2.0

Headers = Mapping[str, str]


class NatsError(Exception):
    """Something did not go as asked."""


class NotAsked(NatsError):
    """The server cannot be reached, or nobody there listens: certainly nothing was done."""


class NoAnswer(NatsError):
    """It was asked, and the answer is lost or late."""


class Refused(NatsError):
    """The server's own no, with JetStream's error code."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


class _Error(msgspec.Struct):
    code: int
    err_code: int = 0
    description: str = ""


class _MaybeError(msgspec.Struct):
    error: _Error | None = None


class Session:
    """One connection; `lost` is set when it ends, whoever ended it."""

    def __init__(self, client: Client, lost: asyncio.Event, domain: str | None) -> None:
        self.client, self.lost = client, lost
        self._api = f"$JS.{domain}.API" if domain else "$JS.API"
        self._inbox = client.new_inbox()
        self._asked = 0
        self._answers: dict[str, asyncio.Future[Msg]] = {}
        self.wakened: set[asyncio.Event] = set()
        """Set when the connection is lost, for those who wait for something else too."""

    async def listen(self) -> None:
        """Receive answers; before the first request."""
        await self.client.subscribe(f"{self._inbox}.*", cb=self._answer)

    async def send(
        self, subject: str, data: bytes = b"", headers: Headers | None = None, reply: str = ""
    ) -> None:
        """Publish, without an answer. Raises: NotAsked: the connection is gone."""
        if self.lost.is_set():
            raise NotAsked("the connection is lost")
        try:
            await self.client.publish(subject, data, reply, dict(headers) if headers else None)
        except (errors.Error, OSError) as error:
            raise NotAsked(f"cannot send: {error!r}") from error

    async def request(
        self, subject: str, data: bytes = b"", headers: Headers | None = None, *, timeout_s: float
    ) -> Msg:
        """Publish and wait for the answer. Raises: NotAsked, NoAnswer."""
        self._asked += 1
        token = str(self._asked)
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._answers[token] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self.send(subject, data, headers, f"{self._inbox}.{token}")
                message = await answer
        except TimeoutError:
            raise NoAnswer(f"no answer in {timeout_s:.1f} s") from None
        finally:
            del self._answers[token]
        if message.headers and message.headers.get("Status") == "503":
            raise NotAsked("nobody listens there: no such stream, or no leader")
        return message

    async def ask(
        self, subject: str, data: bytes = b"", headers: Headers | None = None, *, timeout_s: float
    ) -> bytes:
        """As `request`, for a JSON answer that is no error. Raises: NotAsked, NoAnswer, Refused."""
        answer = (await self.request(subject, data, headers, timeout_s=timeout_s)).data
        error = msgspec.json.decode(answer, type=_MaybeError).error
        if error is not None:
            raise Refused(error.err_code or error.code, error.description)
        return answer

    async def api(self, call: str, body: Mapping[str, Any] | None = None, *, timeout_s: float) -> Any:
        """A call of JetStream's API, decoded. Raises: NotAsked, NoAnswer, Refused."""
        data = msgspec.json.encode(body) if body is not None else b""
        return msgspec.json.decode(await self.ask(f"{self._api}.{call}", data, timeout_s=timeout_s))

    def api_subject(self, call: str) -> str:
        return f"{self._api}.{call}"

    async def close(self) -> None:
        """End it; nothing is waited for longer than `CLOSE_S`."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.client.close()
        except TimeoutError:
            pass  # the transport is aborted already, only its peer does not say goodbye
        self.end()

    def end(self) -> None:
        """Tell everyone who waits that no answer will come."""
        self.lost.set()
        for event in self.wakened:
            event.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(NoAnswer("the connection was lost"))

    async def _answer(self, message: Msg) -> None:
        answer = self._answers.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)


Prepare = Callable[[Session], Awaitable[None]]


class Connector:
    """Opens sessions with the servers of one region, and keeps one for everyone.

    `prepare` is run on every new session of `session` before anyone gets it.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        name: str,
        domain: str | None,
        token: str | None = None,
        connect_timeout_s: float = 2.0,
        prepare: Prepare | None = None,
    ) -> None:
        self._urls, self._name, self._domain, self._token = list(urls), name, domain, token
        self._connect_timeout_s, self._prepare = connect_timeout_s, prepare
        self._shared: Session | None = None
        self._opening = asyncio.Lock()
        self._not_before_s = 0.0
        self._failure = ""

    async def session(self, timeout_s: float) -> Session:
        """The shared session, opened if there is none. Raises: NotAsked: no server could be reached."""
        if self._shared is not None and not self._shared.lost.is_set():
            return self._shared
        try:
            async with asyncio.timeout(timeout_s), self._opening:
                if self._shared is None or self._shared.lost.is_set():
                    self._shared = await self._open_prepared()
                return self._shared
        except TimeoutError:
            raise NotAsked(f"no connection in {timeout_s:.1f} s") from None

    async def open(self) -> Session:
        """A session of the caller's own, which closes it. Raises: NotAsked: no server could be reached."""
        problems = []
        for url in list(self._urls):
            try:
                return await self._connect(url)
            except (errors.Error, OSError, TimeoutError, NotAsked) as error:
                problems.append(f"{url}: {error if isinstance(error, NotAsked) else repr(error)}")
                self._urls.append(self._urls.pop(0))  # another one is tried first next time
        raise NotAsked("; ".join(problems))

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()

    async def _open_prepared(self) -> Session:
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before_s:
            raise NotAsked(self._failure)
        try:
            session = await self.open()
            if self._prepare is not None:
                await self._prepared(session, self._prepare)
        except NatsError as error:
            self._failure = str(error)
            self._not_before_s = loop.time() + PAUSE_S
            raise NotAsked(self._failure) from error
        return session

    async def _prepared(self, session: Session, prepare: Prepare) -> None:
        try:
            await prepare(session)
        except BaseException:
            await session.close()
            raise

    async def _connect(self, url: str) -> Session:
        lost = asyncio.Event()
        opened: list[Session] = []

        async def ended() -> None:
            lost.set()
            for session in opened:
                session.end()

        noted: list[Exception] = []

        async def note(error: Exception) -> None:
            noted[:] = [error]  # nats-py prints errors where it is not given this

        async with _explained(noted), asyncio.timeout(self._connect_timeout_s):
            client = await nats.connect(
                url,
                name=self._name,
                token=self._token,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # of the first connection: two quick attempts, then the error
                reconnect_time_wait=0,
                connect_timeout=max(1, round(self._connect_timeout_s)),
                ping_interval=PING_INTERVAL_S,
                max_outstanding_pings=2,
                pending_size=0,
                error_cb=note,
                closed_cb=ended,
            )
            session = Session(client, lost, self._domain)
            opened.append(session)
            try:
                self._check(client)
                await session.listen()
            except BaseException:
                await session.close()
                raise
        return session

    def _check(self, client: Client) -> None:
        version = client.connected_server_version
        if (version.major, version.minor) < OLDEST_SERVER:
            oldest = ".".join(map(str, OLDEST_SERVER))
            raise NotAsked(f"the server is version {version.major}.{version.minor}, older than {oldest}")


@asynccontextmanager
async def _explained(noted: Sequence[Exception]) -> AsyncIterator[None]:
    """nats-py says only that no server is left; what it noted before says why."""
    try:
        yield
    except errors.NoServersError as error:
        raise NotAsked(repr(noted[-1] if noted else error)) from error
