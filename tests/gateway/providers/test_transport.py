"""What goes wrong below the answer: with names, certificates, HTTP itself, and connections that are kept."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import GatewayError, UpstreamProtocolError, UpstreamUnavailable
from regions.errors import ConfigError
from tests.fakes.provider import DONE, ROLE, chunk
from tests.gateway.providers.asking import failure_of, later_failure_of, opened, started, text_of, whole
from tests.gateway.providers.endless import HEAD, chunked, endless, make_certificate

GOOD = HEAD + chunked(ROLE + chunk({"content": "Yes."}, "stop") + DONE) + b"0\r\n\r\n"
HALF = HEAD + chunked(ROLE + chunk({"content": "Half"}))


Answer = bytes | tuple[bytes, bytes] | None


class Wire:
    """A server that answers the n-th request, of all its connections, with the n-th of its script.

    None closes the connection instead, without a byte; of two parts, the second waits for `more`.
    """

    def __init__(self, script: Sequence[Answer]) -> None:
        self.more = asyncio.Event()
        self.script = list(script)
        self.requests = self.connections = 0
        self.url = ""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length))
                self.requests += 1
                answer = self.script.pop(0)
                if answer is None:
                    return
                if isinstance(answer, tuple):
                    first, answer = answer
                    writer.write(first)
                    await self.more.wait()
                writer.write(answer)
                await writer.drain()
                if not answer.endswith(b"0\r\n\r\n"):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def wire(*script: Answer) -> AsyncIterator[Wire]:
    told = Wire(script)
    server = await asyncio.start_server(told.talk, "127.0.0.1", 0)
    told.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield told


async def test_a_kept_connection_that_was_closed_meanwhile_costs_one_repetition() -> None:
    async with wire(GOOD, None, GOOD) as server, started(server.url) as provider:
        assert text_of(await whole(await opened(provider))) == "Yes."
        assert text_of(await whole(await opened(provider))) == "Yes."
        assert (server.requests, server.connections) == (3, 2)


async def test_a_new_connection_that_is_closed_is_a_failure_and_not_repeated() -> None:
    async with wire(None, GOOD) as server, started(server.url) as provider:
        assert type(await failure_of(provider)) is UpstreamUnavailable
        assert server.requests == 1


async def test_the_repetition_itself_is_not_repeated() -> None:
    async with wire(GOOD, None, None, GOOD) as server, started(server.url) as provider:
        await whole(await opened(provider))
        assert type(await failure_of(provider)) is UpstreamUnavailable
        assert server.requests == 3


async def test_once_a_byte_of_an_answer_came_nothing_is_repeated() -> None:
    async with wire(GOOD, b"HTTP/1.1 200 OK\r\nContent-", GOOD) as server, started(server.url) as provider:
        await whole(await opened(provider))
        assert type(await failure_of(provider)) is UpstreamUnavailable
        assert server.requests == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", UpstreamProtocolError),
        (HEAD + b"zz\r\nno size\r\n", UpstreamProtocolError),
        (HEAD + b"5\r\nda", UpstreamUnavailable),
        (HEAD + b"0\r\n\r\n", UpstreamProtocolError),
    ],
)
async def test_what_is_no_http_is_an_error_before_content(answer: bytes, kind: type[GatewayError]) -> None:
    async with wire(answer) as server, started(server.url) as provider:
        assert type(await failure_of(provider)) is kind


@pytest.mark.parametrize("rest", [b"zz\r\nno size\r\n", b"ffffffffffffffffffffff\r\nx", b"5\r\nda", b""])
async def test_what_stops_being_http_after_content_is_an_error(rest: bytes) -> None:
    async with wire((HALF, rest)) as server, started(server.url) as provider:
        answer = await opened(provider)
        server.more.set()
        assert isinstance(await later_failure_of(answer), UpstreamUnavailable | UpstreamProtocolError)


async def test_nobody_there_is_said_in_operators_words_only() -> None:
    async with started("http://127.0.0.1:1/v1") as provider:
        error = await failure_of(provider)
    assert type(error) is UpstreamUnavailable
    assert "127.0.0.1" not in error.message
    assert "ClientConnectorError" in error.detail


def test_a_certificate_of_nobody_we_trust_is_an_unreachable_endpoint(tmp_path: Path) -> None:
    async def ask() -> None:
        async with started(server.url) as provider:
            error = await failure_of(provider)
            assert type(error) is UpstreamUnavailable
            assert "Certificate" in error.detail

    with endless(tmp_path, (), b"") as server, asyncio.Runner() as runner:
        runner.run(ask())


@pytest.mark.parametrize(
    "text", ["no certificate", "-----BEGIN CERTIFICATE-----\nbm9wZQ==\n-----END CERTIFICATE-----"]
)
async def test_a_ca_file_that_holds_no_certificate_is_a_wrong_configuration(text: str) -> None:
    with pytest.raises(ConfigError, match="no certificate"):
        async with started("https://127.0.0.1:1/v1", {"file:ca.pem": text}, ca_file="file:ca.pem"):
            pass


async def test_a_ca_file_may_hold_several(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path)
    pem = certificate.read_text()
    async with started(
        "https://127.0.0.1:1/v1", {"file:ca.pem": pem + pem}, ca_file="file:ca.pem"
    ) as provider:
        assert type(await failure_of(provider)) is UpstreamUnavailable
