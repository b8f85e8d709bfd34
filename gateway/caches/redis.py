"""Answers in the region's shared store, for all of its gateways; the store itself lets them go in time."""

from typing import Final

from gateway.caches.base import Place, Size
from gateway.shared_store import SharedStore, StoreDown

MAX_BYTES: Final = 1024 * 1024
"""Of one answer: a larger one would hold up everybody who shares the connection."""


class RedisCache:
    """`gateway.caches.base.Cache` on a `SharedStore`. One that is down finds nothing and keeps nothing."""

    is_shared = True

    def __init__(self, store: SharedStore, *, region: str) -> None:
        self._store, self._prefix = store, f"{store.prefix}:cache:{region}"

    async def get(self, place: Place) -> bytes | None:
        try:
            found = await self._store.ask(lambda redis: redis.get(self._name(place)))
        except StoreDown:
            return None
        return found if isinstance(found, bytes) else None

    async def put(self, place: Place, value: bytes, *, ttl_s: float) -> bool:
        if len(value) > MAX_BYTES:
            return False
        ttl_ms = max(int(ttl_s * 1000), 1)
        try:
            await self._store.ask(lambda redis: redis.set(self._name(place), value, px=ttl_ms))
        except StoreDown:
            return False
        return True

    def size(self) -> Size:
        return Size()

    def _name(self, place: Place) -> str:
        return f"{self._prefix}:{{{place.tenant}}}:{place.key}"
