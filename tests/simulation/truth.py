"""What must come out: the log's entries, applied one after the other to a plain dict."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from regions.changes import (
    Delete,
    DeleteAll,
    DeleteByFilter,
    DropNamespace,
    Resolved,
    Update,
    UpdateByFilter,
    Upsert,
)
from regions.filters import compile_filter
from regions.logs.base import Entry
from regions.records import Record, patched

Versions = list[tuple[int, Record | None]]
"""What an id was from each sequence on."""


@dataclass
class History:
    """A namespace, as its log tells it."""

    records: dict[str, Record] = field(default_factory=dict)
    versions: dict[str, Versions] = field(default_factory=dict)
    matched: dict[int, set[str]] = field(default_factory=dict)
    resolved: dict[int, set[str]] = field(default_factory=dict)
    announced: set[int] = field(default_factory=set)

    def _put(self, sequence: int, id_: str, record: Record | None) -> None:
        self.versions.setdefault(id_, []).append((sequence, record))
        if record is None:
            self.records.pop(id_, None)
        else:
            self.records[id_] = record

    def add(self, entry: Entry) -> None:
        """The next entry of the namespace."""
        at = entry.sequence
        match entry.body:
            case Upsert(records=records):
                for record in records:
                    self._put(at, record.id, record)
            case Delete(ids=ids):
                self._remove(at, ids)
            case Update() as update:
                self._patch(at, update, update.id)
            case DeleteAll() | DropNamespace():
                self._remove(at, list(self.records))
            case DeleteByFilter(filter=filter_):
                self.matched[entry.lsn] = self._matching(filter_)
                self._remove(at, sorted(self.matched[entry.lsn]))
            case UpdateByFilter(filter=filter_, set_metadata=metadata):
                self.matched[entry.lsn] = self._matching(filter_)
                for id_ in sorted(self.matched[entry.lsn]):
                    self._patch(at, Update(id=id_, set_metadata=metadata), id_)
            case Resolved(intent=intent, ids=ids, last=last):
                if intent not in self.announced:
                    self.resolved.setdefault(intent, set()).update(ids)
                    if last:
                        self.announced.add(intent)
            case _:
                pass

    def _remove(self, at: int, ids: Iterable[str]) -> None:
        for id_ in ids:
            if id_ in self.records:
                self._put(at, id_, None)

    def _patch(self, at: int, update: Update, id_: str) -> None:
        if id_ in self.records:
            record = patched(self.records[id_], update.values, update.sparse_values, update.set_metadata)
            self._put(at, id_, record)

    def _matching(self, filter_: dict[str, object]) -> set[str]:
        tree = compile_filter(filter_)
        return {id_ for id_, record in self.records.items() if tree.matches(record.metadata or {})}

    def was_at_or_after(self, id_: str, record: Record | None, sequence: int, *, strictly: bool) -> bool:
        """Whether the id was that at `sequence`, or became it later.

        Not strictly: each part of it. An index that remembers no positions may be shown changes again after a
        crash, and then an update meets a record that is newer.
        """
        known: Versions = [(0, None), *self.versions.get(id_, [])]
        current = max((at for at, _ in known if at <= sequence), default=0)
        later = [each for at, each in known if at >= current]
        if strictly or record is None:
            return record in later
        parts = _parts(record)
        names = {name for each in later for name in _parts(each)} | parts.keys()
        return all(any(_parts(each).get(name) == parts.get(name) for each in later) for name in names)


def _parts(record: Record | None) -> dict[str, object]:
    if record is None:
        return {}
    return {"values": record.values, **{f"metadata.{k}": v for k, v in (record.metadata or {}).items()}}


def histories(entries: Iterable[Entry]) -> dict[tuple[str, str], History]:
    """Every namespace by (index, stored name)."""
    found: dict[tuple[str, str], History] = {}
    for entry in entries:
        if entry.namespace:
            found.setdefault((entry.index, entry.namespace), History()).add(entry)
    return found
