"""A real nats-server on loopback, to be killed and started again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from regions.runtime import lifecycle
from regions.runtime.nats_server import server_child

DOMAIN: Final = "us-east"
READY_S: Final = 10.0


class NatsProcess:
    """The server of one region, from `start` to `kill`; its store outlives it."""

    def __init__(self, directory: Path, domain: str = DOMAIN) -> None:
        self._directory, self._domain, self.port = directory, domain, lifecycle.free_port()
        self.store = directory / "store"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Raises: TimeoutError: it does not listen."""
        spec = server_child("nats", domain=self._domain, directory=self._directory, port=self.port)
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(spec.argv, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_S
        while not self._is_listening():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError((self._directory / "server.log").read_text())

    def kill(self) -> None:
        """SIGKILL, and gone on return; nothing when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it if it runs, and start it."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and says nothing, from the return on."""
        self._signal("SIGSTOP")
        assert self._process is not None
        os.waitpid(self._process.pid, os.WUNTRACED)  # its threads stop one after the other

    def resume(self) -> None:
        self._signal("SIGCONT")

    def wipe(self) -> None:
        """Remove its store, while it is not running."""
        assert self._process is None
        shutil.rmtree(self.store)

    def _signal(self, name: str) -> None:
        assert self._process is not None
        self._process.send_signal(signal.Signals[name])

    def _is_listening(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.2) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False
