"""An endpoint behind TLS that sends for ever, on blocking sockets in a thread of its own.

Its own thread, because it must notice a caller that left without the help of the loop under test.
"""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_PIECE_BYTES: Final = 4096


@dataclass
class Endless:
    """What it is and what it saw. `head` is sent at once, then `piece` again and again; b"" for silence."""

    url: str
    certificate: str
    sent_bytes: int = 0
    asked: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    left_at_s: float = 0.0

    def until_left_s(self, since_s: float) -> float:
        """How long after `since_s` (monotonic) it saw its caller leave."""
        assert self.left.wait(40), "the endpoint never saw its caller leave"
        return self.left_at_s - since_s


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    options = (
        f"-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {certificate} -days 2"
    )
    subject = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command = f"openssl req -x509 {options} {subject}".split()
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@contextmanager
def endless(folder: Path, first: Sequence[bytes], piece: bytes) -> Iterator[Endless]:
    """Serve one caller: its request is read, `first` sent as it stands, then `piece` without end."""
    certificate, key = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        server = Endless(f"https://127.0.0.1:{listener.getsockname()[1]}/v1", certificate.read_text())
        thread = threading.Thread(target=_serve, args=(server, listener, context, first, piece))
        thread.start()
        try:
            yield server
        finally:
            thread.join(45)
            assert not thread.is_alive()


def _serve(
    server: Endless,
    listener: socket.socket,
    context: ssl.SSLContext,
    first: Sequence[bytes],
    piece: bytes,
) -> None:
    plain, _ = listener.accept()
    try:
        with context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False) as caller:
            caller.settimeout(40)
            request = b""
            while not request.endswith(b"}"):
                request += caller.recv(_PIECE_BYTES)
            server.asked.set()
            for part in first:
                caller.sendall(part)
            # Without a piece it only listens: the caller's end is then the end of what it sends.
            while piece or caller.recv(_PIECE_BYTES):
                caller.sendall(piece)
                server.sent_bytes += len(piece)
    except (OSError, ssl.SSLError):
        pass  # this is how a caller that left looks from here
    finally:
        server.left_at_s = time.monotonic()
        server.left.set()
