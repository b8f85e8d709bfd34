"""The secrets of a region on loopback, each in a file that only its owner can read."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from gateway.up.problems import CommandFailed

DEMO_KEY: Final = "demo.key"
PEPPER: Final = "pepper"
ADMIN_KEY: Final = "admin.key"


def default_home(env: Mapping[str, str]) -> Path:
    """Where `meridian up` keeps its files: $XDG_DATA_HOME/meridian if that is set, else ~/.meridian."""
    data = env.get("XDG_DATA_HOME")
    return Path(data) / "meridian" if data else Path.home() / ".meridian"


def kept(path: Path, make: str) -> str:
    """The secret in a file; `make` is written there first when there is none."""
    with contextlib.suppress(FileExistsError):
        write_private(path, make + "\n", flags=os.O_EXCL)
    return path.read_text().strip()


def write_private(path: Path, text: str, *, flags: int = os.O_TRUNC) -> None:
    """Write a file that only this user can read, never for a moment readable by others."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "w") as file:
        file.write(text)


def new_key() -> str:
    """An API key nobody can guess."""
    return f"mk-{secrets.token_urlsafe(24)}"


def demo_key(env: Mapping[str, str]) -> str | None:
    """The key of the region that `meridian up` made here; None when it made none."""
    return _read(default_home(env) / DEMO_KEY)


def admin_key(env: Mapping[str, str]) -> str | None:
    """What opens /admin of the regions that `meridian up` made here; None when it made none."""
    return _read(default_home(env) / ADMIN_KEY)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


@contextlib.contextmanager
def alone_in(home: Path) -> Iterator[None]:
    """Hold a folder for this process alone; the hold ends with the process, however it ends.

    Raises: CommandFailed: another process holds it, or the folder cannot be made.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (home / "lock").open("w")
    except OSError as error:
        raise CommandFailed(f"cannot use {home}: {error.strerror}", "name another with --data-dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandFailed(
                f"another `meridian up` runs in {home}",
                "stop it first, or name another folder with --data-dir",
            ) from None
        yield
