"""Answers in this process's memory: least recently used out first, bounded by bytes.

While there is room everything is kept; a full cache lets in what was missed before (`policies.doorkeeper`).
"""

from collections.abc import Callable
from typing import Final

from cachebox import LRUCache

from gateway.caches.base import Place, Size
from gateway.policies.doorkeeper import Doorkeeper

OVERHEAD_BYTES: Final = 400
"""Of an entry beside key and value: the tuples, the strings, its place in table and list."""
MISSES_REMEMBERED: Final = 50_000


_Kept = tuple[bytes, float]
"""A value, and when it ends."""


class MemoryCache:
    """`gateway.caches.base.Cache` in memory."""

    is_shared = False

    def __init__(
        self, max_bytes: int, clock: Callable[[], float], *, misses_remembered: int = MISSES_REMEMBERED
    ) -> None:
        self._clock, self._max_bytes = clock, max_bytes
        self._kept: LRUCache[tuple[str, str], _Kept] = LRUCache(max_bytes, getsizeof=_size_of)
        self._doorkeeper = Doorkeeper(misses_remembered)

    async def get(self, place: Place) -> bytes | None:
        name = (place.tenant, place.key)
        found = self._kept.get(name)
        if found is not None:
            value, until_s = found
            if self._clock() < until_s:
                return value
            self._kept.pop(name, None)
        return None

    async def put(self, place: Place, value: bytes, *, ttl_s: float) -> bool:
        name = (place.tenant, place.key)
        kept = (value, self._clock() + ttl_s)
        size = _size_of(name, kept)
        if size > self._max_bytes:
            return False
        is_full = self._kept.current_size() + size > self._max_bytes and name not in self._kept
        if is_full and not self._doorkeeper.missed("".join(name)):
            return False
        self._kept.insert(name, kept)
        return True

    def size(self) -> Size:
        return Size(len(self._kept), self._kept.current_size())


def _size_of(name: tuple[str, str], kept: _Kept) -> int:
    return len(name[0]) + len(name[1]) + len(kept[0]) + OVERHEAD_BYTES
