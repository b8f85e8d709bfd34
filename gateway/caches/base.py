"""What a prompt cache can do, wherever it keeps its answers.

Values are opaque bytes under a tenant and a key; a tenant never gets another's value. A cache may forget
anything at any time and keeps nothing longer than asked. It never fails: one that cannot be reached finds
nothing and keeps nothing, within the time that its own settings give it.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Place:
    """Whose value, under which key: the key is a digest, never a text of a caller's."""

    tenant: str
    key: str


@dataclass(frozen=True, slots=True)
class Size:
    """What a cache holds in this process; both 0 where it holds nothing itself."""

    entries: int = 0
    bytes: int = 0


class Cache(Protocol):
    """One tier."""

    @property
    def is_shared(self) -> bool:
        """Asking it leaves the process."""
        ...

    async def get(self, place: Place) -> bytes | None:
        """The value; None when there is none, or nobody answers."""
        ...

    async def put(self, place: Place, value: bytes, *, ttl_s: float) -> bool:
        """Keep the value for so long; whether it was kept."""
        ...

    def size(self) -> Size: ...
