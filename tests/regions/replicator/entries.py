"""Entries as a log gives them, in few words."""

from typing import Final

from regions.changes import Body, Delete, Heartbeat, Update, Upsert
from regions.logs.base import Entry, ShardState
from regions.names import IndexName, NamespaceRef
from regions.positions import Epoch, Lsn, make_lsn
from regions.records import Record

INDEX: Final = IndexName("docs")
EPOCH: Final = Epoch(1)
A: Final = NamespaceRef(INDEX, "t.a")
B: Final = NamespaceRef(INDEX, "t.b")


def entry(sequence: int, body: Body, namespace: NamespaceRef = A, epoch: Epoch = EPOCH) -> Entry:
    """The entry at that sequence, appended in that second."""
    if isinstance(body, Heartbeat):
        return Entry(0, sequence, Epoch(0), float(sequence), IndexName(""), "", body)
    return Entry(0, sequence, epoch, float(sequence), namespace.index, namespace.stored, body)


def put(*ids: str, n: int = 0) -> Upsert:
    return Upsert([Record(id_, values=[float(n), 1.0], metadata={"n": n}) for id_ in ids])


def drop(*ids: str) -> Delete:
    return Delete(list(ids))


def patch(id_: str, n: int) -> Update:
    return Update(id=id_, set_metadata={"patched": n})


def lsn(sequence: int) -> Lsn:
    return make_lsn(EPOCH, sequence)


def shard(first: int = 1, last: int = 0, *, origin: int = 1, incarnation: str = "one") -> ShardState:
    return ShardState(incarnation, origin, first, last, 0.0)
