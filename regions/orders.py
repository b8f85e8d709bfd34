"""What an operator asks of a region's replicator: a register a namespace, read by whoever holds the lease.

Pure. The daemon watches `ORDERS_PREFIX` in its own region's registers and tells the follower of that home and
shard. An order is done once for each revision of its register; one that was done before may be done again
after a restart, which does no harm.
"""

from enum import StrEnum
from hashlib import blake2b
from typing import Final

import msgspec

from regions.names import IndexName, NamespaceRef

ORDERS_PREFIX: Final = "orders."


class Act(StrEnum):
    """What to do with the namespace."""

    UNPARK = "unpark"
    """Try the refused change again."""
    RESYNC = "resync"
    """Copy it anew from the most advanced other replica."""


class Order(msgspec.Struct, frozen=True):
    """An act on a namespace of this region's replica, which follows that shard of that home's log."""

    act: Act
    home: str
    shard: int
    index: str
    stored: str

    @property
    def namespace(self) -> NamespaceRef:
        return NamespaceRef(IndexName(self.index), self.stored)

    @property
    def key(self) -> str:
        """Its register: the newest order for a namespace is the one that counts."""
        text = f"{self.index}\0{self.stored}".encode()
        return f"{ORDERS_PREFIX}{self.home}.{self.shard}.{blake2b(text, digest_size=12).hexdigest()}"


_DECODER: Final = msgspec.json.Decoder(Order)


def encode_order(order: Order) -> bytes:
    return msgspec.json.encode(order)


def decode_order(data: bytes) -> Order:
    """Raises: msgspec.DecodeError: no order."""
    return _DECODER.decode(data)
