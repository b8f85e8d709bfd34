"""Folds consecutive changes of one namespace into few calls on an index: the last write of an id wins.

Pure. What holds:

- A batch leaves a namespace exactly as its changes, one after the other, would have.
- A barrier (delete-all, create, drop) is folded with nothing: it is a batch by itself. A change by filter
  never comes here: its resolved ids do.
- The calls of one batch touch disjoint ids, so their order among themselves does not matter.
- Only the last call carries the batch's own position. The ones before carry the position just below its
  first change, so an index that remembers positions never claims a batch of which it has a part.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from regions.changes import (
    Body,
    Change,
    CreateNamespace,
    Delete,
    DeleteAll,
    DeleteByFilter,
    DropNamespace,
    Update,
    UpdateByFilter,
    Upsert,
)
from regions.logs.base import Entry
from regions.positions import Lsn
from regions.records import Record, patched

_FLOAT_BYTES: Final = 26
"""The longest that a float32 gets when it is written as JSON, with its comma."""
_RECORD_BYTES: Final = 64
"""Braces and field names around a record."""


class BatchLimits(msgspec.Struct, frozen=True):
    """What one call may hold: Pinecone's documented limits of an upsert."""

    records: int = 1_000
    size_bytes: int = 2_000_000


class Call(msgspec.Struct, frozen=True):
    """One call on an index: the change, and the position the namespace has once it is done."""

    change: Change
    position: Lsn


def is_barrier(body: Body) -> bool:
    """Whether the change concerns the namespace as a whole, and must stand alone."""
    return isinstance(body, DeleteAll | DropNamespace | CreateNamespace)


def is_intent(body: Body) -> bool:
    """Whether the change is by filter, and has to wait for its ids."""
    return isinstance(body, DeleteByFilter | UpdateByFilter)


def ids_of(body: Body) -> Sequence[str]:
    """The ids that the change names; of a barrier, none."""
    match body:
        case Upsert():
            return [record.id for record in body.records]
        case Update():
            return (body.id,)
        case Delete():
            return body.ids
        case _:
            return ()


def size_of(body: Body) -> int:
    """At least as many bytes as the change takes in a request body."""
    match body:
        case Upsert():
            return sum(_size_of_record(record) for record in body.records)
        case Update():
            sparse = len(body.sparse_values.indices) if body.sparse_values else 0
            floats = len(body.values or ()) + 2 * sparse
            return (
                _RECORD_BYTES
                + len(body.id)
                + floats * _FLOAT_BYTES
                + len(msgspec.json.encode(body.set_metadata))
            )
        case Delete():
            return sum(len(id_) + 3 for id_ in body.ids)
        case _:
            return _RECORD_BYTES


def _size_of_record(record: Record) -> int:
    floats = len(record.values)
    if record.sparse_values is not None:
        floats += 2 * len(record.sparse_values.indices)
    return _RECORD_BYTES + len(record.id) + floats * _FLOAT_BYTES + len(msgspec.json.encode(record.metadata))


def prefix(entries: Iterable[Entry], limits: BatchLimits, unsettled: Collection[str] = ()) -> list[Entry]:
    """The entries from the front that make one batch; none when the first has to wait.

    `unsettled` are ids whose last call may still take effect late: what touches one of them, or the whole
    namespace, waits. An entry beyond the limits is a batch by itself, never unsendable.
    What is written over within the batch is not sent, so it does not count: a backlog of few ids is one call.
    """
    taken: list[Entry] = []
    sizes: dict[str, int] = {}
    size = 0
    for entry in entries:
        if is_intent(entry.body):
            break
        if is_barrier(entry.body):
            if not taken and not unsettled:
                taken.append(entry)
            break
        ids = ids_of(entry.body)
        if unsettled and any(id_ in unsettled for id_ in ids):
            break
        size += _grow(sizes, entry.body)
        if taken and (len(sizes) > limits.records or size > limits.size_bytes):
            break
        taken.append(entry)
    return taken


def _grow(sizes: dict[str, int], body: Body) -> int:
    """Note what each id of the change takes in a batch; how many bytes the batch gets longer."""
    before = sum(sizes.get(id_, 0) for id_ in set(ids_of(body)))
    match body:
        case Upsert():
            sizes.update((record.id, _size_of_record(record)) for record in body.records)
        case Update():
            sizes[body.id] = sizes.get(body.id, 0) + size_of(body)
        case _:
            sizes.update((id_, len(id_) + 3) for id_ in ids_of(body))
    return sum(sizes[id_] for id_ in set(ids_of(body))) - before


def fold(entries: Sequence[Entry]) -> list[Call]:
    """The calls that do what the entries do, in the order to make them; none when they change nothing."""
    first, last = entries[0].lsn, entries[-1].lsn
    changes = _changes([entry.body for entry in entries])
    return positioned(changes, Lsn(first - 1), last)


def positioned(changes: Sequence[Change], before: Lsn, last: Lsn) -> list[Call]:
    """The changes as calls, of which only the last one moves the namespace to `last`."""
    return [Call(change, before) for change in changes[:-1]] + [Call(change, last) for change in changes[-1:]]


def _changes(bodies: Sequence[Body]) -> list[Change]:
    puts: dict[str, Record] = {}
    patches: dict[str, Update] = {}
    gone: dict[str, None] = {}
    for body in bodies:
        match body:
            case Upsert():
                for record in body.records:
                    gone.pop(record.id, None)
                    patches.pop(record.id, None)
                    puts[record.id] = record
            case Delete():
                for id_ in body.ids:
                    puts.pop(id_, None)
                    patches.pop(id_, None)
                    gone[id_] = None
            case Update(id=id_):
                if id_ in puts:
                    puts[id_] = patched(puts[id_], body.values, body.sparse_values, body.set_metadata)
                elif id_ not in gone:
                    patches[id_] = _joined(patches[id_], body) if id_ in patches else body
            case DeleteAll() | DropNamespace() | CreateNamespace():
                return [body]
            case _:
                raise ValueError(f"a {type(body).__name__} cannot be folded into a batch")
    changes: list[Change] = []
    if gone:
        changes.append(Delete(list(gone)))
    if puts:
        changes.append(Upsert(list(puts.values())))
    return [*changes, *patches.values()]


def _joined(earlier: Update, later: Update) -> Update:
    """One update that does what both do."""
    metadata = {**(earlier.set_metadata or {}), **(later.set_metadata or {})}
    return Update(
        id=later.id,
        values=earlier.values if later.values is None else later.values,
        sparse_values=earlier.sparse_values if later.sparse_values is None else later.sparse_values,
        set_metadata=metadata or None,
    )
