"""The fingerprint of a namespace: equal for equal contents, whatever the order, cheap to keep up.

Pure. A record's hash is 128 bits of blake2b over a canonical form; a namespace's digest is their sum modulo
2^128 and their number. Sums can be taken apart again, so a digest follows a change at the cost of that
change's records, and digests of parts add up.

Canonical: vectors as little-endian float32 (what indexes keep), sparse vectors sorted by index, metadata
sorted by key with every number as a float64 (Pinecone gives 1 back as 1.0), absent and empty metadata alike.
Not safe against someone who can choose records to collide; it finds divergence, not malice.
"""

from hashlib import blake2b
from struct import pack
from typing import Final, Self

import msgspec

from regions.records import MetadataValue, Record

_MODULUS: Final = 1 << 128


class Digest(msgspec.Struct, frozen=True):
    """How many records, and the sum of their hashes."""

    count: int = 0
    total: int = 0

    def plus(self, record: Record) -> Self:
        return type(self)(self.count + 1, (self.total + hash_of(record)) % _MODULUS)

    def minus(self, record: Record) -> Self:
        return type(self)(self.count - 1, (self.total - hash_of(record)) % _MODULUS)

    def __add__(self, other: "Digest") -> "Digest":
        return Digest(self.count + other.count, (self.total + other.total) % _MODULUS)

    def __str__(self) -> str:
        return f"{self.count}:{self.total:032x}"


def hash_of(record: Record) -> int:
    """128 bits of the record's canonical form; every part carries its length, so no two run together."""
    digest = blake2b(digest_size=16)
    digest.update(_sized(record.id.encode()))
    digest.update(_sized(pack(f"<{len(record.values)}f", *record.values)))
    sparse = record.sparse_values
    pairs = sorted(zip(sparse.indices, sparse.values, strict=True)) if sparse is not None else []
    digest.update(_sized(b"".join(pack("<If", index, value) for index, value in pairs)))
    metadata = {key: _canonical(value) for key, value in (record.metadata or {}).items()}
    digest.update(_sized(msgspec.json.encode(metadata, order="sorted")))
    return int.from_bytes(digest.digest(), "little")


def _sized(part: bytes) -> bytes:
    return pack("<I", len(part)) + part


def _canonical(value: MetadataValue) -> MetadataValue:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
