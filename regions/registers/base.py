"""What the registers of a region can do: small values, each changed by compare-and-set.

Homes and epochs, cursors, leases and watermarks live here. A key is dot-separated tokens of
``[A-Za-z0-9_=/-]``. Revisions are of the whole region: each change of any key gets a higher one.

Every method raises `LogUnavailable` when no answer came in time; whether a `put` or a `swap` was done is then
unknown, and the way to find out is to read.
"""

import re
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple, Protocol

_KEY: Final = re.compile(r"[A-Za-z0-9_=/-]+(\.[A-Za-z0-9_=/-]+)*")


class Register(NamedTuple):
    """A value as it stands."""

    key: str
    value: bytes
    revision: int


class Registers(Protocol):
    """Small values of one region."""

    async def start(self) -> None: ...

    async def get(self, key: str, *, timeout_s: float) -> Register | None:
        """The value as of now, not of some moment ago; None when there is none."""
        ...

    async def scan(self, prefix: str, *, timeout_s: float) -> list[Register]:
        """Every register whose key begins with the prefix, in the order of keys."""
        ...

    async def put(self, key: str, value: bytes, *, timeout_s: float) -> int:
        """Set it whatever it was; the new revision."""
        ...

    async def swap(self, key: str, value: bytes, revision: int, *, timeout_s: float) -> int:
        """Set it if it is still at `revision` (0: absent). Raises: Conflict: it is not."""
        ...

    def watch(self, prefix: str) -> AsyncGenerator[Register, None]:
        """Every register whose key begins with the prefix, as it is, then as it changes.

        A value that was overwritten before it was seen may be left out, the newest never. Raises:
        LogUnavailable: the server was lost; watching again begins with every register as it is then.
        """
        ...

    async def close(self) -> None: ...


def check_key(key: str) -> None:
    """Raises: ValueError: no key."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key[:80]!r} is no register's key")
