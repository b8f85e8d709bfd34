"""The truth: indexes, namespaces and records in SQLite, changed by the writer's thread alone.

Invariants:
- Every change to a namespace gets its position in `_next_lsn` and nowhere else; positions of a namespace
  only grow, also across a restart and across the namespace being dropped and made again.
- `records` is exactly what all changes up to `applied_lsn` amount to. With immediate visibility a change is
  positioned and applied in one transaction; with a delay it waits, durable, in `pending`.
- A write that comes with a place in a replicator's log never goes back behind one that came before it.
- Nothing here commits: the writer runs many calls in one transaction, each in a savepoint of its own.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from regions.changes import (
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
from regions.errors import RegionsError, ReplicaAhead
from regions.filters import compile_filter
from regions.node.reading import Namespace, as_json, find_namespace, get_namespace, read_rows
from regions.node.rows import (
    Row,
    decode_metadata,
    encode_dense,
    encode_metadata,
    encode_records,
    encode_sparse,
)
from regions.pinecone_api import MAX_METADATA_BYTES
from regions.positions import Lsn
from regions.record_checks import check_metadata
from regions.records import Metadata

_CHANGE: Final = msgspec.msgpack.Decoder(Change)
_GARBAGE_A_STEP: Final = 500


class NamespaceExists(RegionsError):
    """A namespace of that name is there already."""


class NamespaceMissing(RegionsError):
    """No namespace of that name."""


class Effect(msgspec.Struct, frozen=True):
    """What an applied change did to a namespace's rows, for those who hold a copy of them.

    `puts` are whole rows with whether their vectors changed; `data` is where the rows are from now on, and
    `is_reset` says that this is a new, empty place.
    """

    namespace: int
    data: int
    lsn: int
    is_reset: bool = False
    puts: Sequence[tuple[Row, bool]] = ()
    deletes: Sequence[str] = ()


class Written(msgspec.Struct, frozen=True):
    """A write's position, how many records its filter matched, and its effect when already applied."""

    namespace: int
    lsn: int
    matched: int | None = None
    effect: Effect | None = None


class Store:
    """The calls that change state; each runs inside the writer's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    # -- indexes ------------------------------------------------------------------------------------

    def create_index(self, name: str, definition: bytes) -> int | None:
        """The new index's key, or None when the name is taken."""
        if self._db.execute("SELECT 1 FROM indexes WHERE name=?", (name,)).fetchone():
            return None
        inserted = self._db.execute(
            "INSERT INTO indexes (name, definition) VALUES (?, ?)", (name, definition)
        )
        return inserted.lastrowid

    def configure_index(self, key: int, definition: bytes) -> None:
        self._db.execute("UPDATE indexes SET definition=? WHERE key=?", (definition, key))

    def delete_index(self, key: int) -> list[int]:
        """Drop the index with its namespaces; their keys are returned."""
        gone = self._db.execute("SELECT key, data FROM namespaces WHERE index_key=?", (key,)).fetchall()
        for namespace, data in gone:
            self._db.execute("DELETE FROM pending WHERE namespace=?", (namespace,))
            self._db.execute("UPDATE datasets SET is_garbage=1 WHERE data=?", (data,))
        self._db.execute("DELETE FROM namespaces WHERE index_key=?", (key,))
        self._db.execute("DELETE FROM indexes WHERE key=?", (key,))
        return [namespace for namespace, _ in gone]

    # -- writes -------------------------------------------------------------------------------------

    def write(
        self,
        index_key: int,
        name: str,
        change: Change,
        rows: list[Row] | None,
        *,
        delayed: bool,
        position: Lsn | None = None,
    ) -> Written:
        """Give the change its position and apply it, or keep it for later when `delayed`.

        `rows` are the encoded records of an `Upsert`, when the caller has them already. `position` is the
        change's place in the log that a replicator follows.
        Raises: ReplicaAhead: the namespace is past `position`. NamespaceExists, NamespaceMissing, BadFilter,
        BadRecord.
        """
        namespace = self._namespace_for(index_key, name, change)
        if position is not None:
            self._advance(namespace, position)
        lsn = self._next_lsn(namespace)
        if not delayed or isinstance(change, DropNamespace):
            return self._apply(namespace, lsn, change, rows)
        matched = None
        if isinstance(change, CreateNamespace):
            self._declare(namespace.key, change)
        if isinstance(change, UpdateByFilter | DeleteByFilter):
            matched = sum(1 for _ in self._matching(namespace.data, change.filter))
        encoded = msgspec.msgpack.encode(change)
        self._db.execute("INSERT INTO pending VALUES (?, ?, ?)", (namespace.key, lsn, encoded))
        return Written(namespace.key, lsn, matched)

    def apply_pending(self, key: int, lsn: int) -> Written | None:
        """Apply a change that has waited long enough; None when its namespace is gone."""
        found = self._db.execute(
            "SELECT change FROM pending WHERE namespace=? AND lsn=?", (key, lsn)
        ).fetchone()
        namespace = get_namespace(self._db, key)
        if found is None or namespace is None:
            return None
        self._db.execute("DELETE FROM pending WHERE namespace=? AND lsn=?", (key, lsn))
        return self._apply(namespace, lsn, _CHANGE.decode(found[0]), None, is_acknowledged=True)

    def pending(self) -> list[tuple[int, int]]:
        """Every waiting change as (namespace key, lsn), in the order to apply them in."""
        return self._db.execute("SELECT namespace, lsn FROM pending ORDER BY namespace, lsn").fetchall()

    def sweep(self) -> bool:
        """Delete a portion of the garbage; True while there may be more."""
        found = self._db.execute("SELECT data FROM datasets WHERE is_garbage LIMIT 1").fetchone()
        if found is None:
            return False
        gone = self._db.execute(
            "DELETE FROM records WHERE rid IN (SELECT rid FROM records WHERE data=? LIMIT ?)",
            (found[0], _GARBAGE_A_STEP),
        ).rowcount
        if gone < _GARBAGE_A_STEP:
            self._db.execute("DELETE FROM datasets WHERE data=?", found)
        return True

    # -- namespaces ---------------------------------------------------------------------------------

    def _namespace_for(self, index_key: int, name: str, change: Change) -> Namespace:
        """The namespace that the change is for, made when it is new; a delete makes it without life."""
        found = find_namespace(self._db, index_key, name)
        if isinstance(change, CreateNamespace) and found is not None and found.alive:
            raise NamespaceExists(f"Namespace {name!r} already exists")
        if isinstance(change, DropNamespace) and (found is None or not found.alive):
            raise NamespaceMissing(f"Namespace {name!r} not found")
        if found is None:
            self._db.execute(
                "INSERT INTO namespaces (index_key, name, data, lsn, applied_lsn, records, bytes, alive) "
                "VALUES (?, ?, ?, 0, 0, 0, 0, 0)",
                (index_key, name, self._new_dataset()),
            )
            found = find_namespace(self._db, index_key, name)
            if found is None:
                raise sqlite3.DatabaseError("an inserted namespace cannot be read back")
        return found

    def _next_lsn(self, namespace: Namespace) -> int:
        """The position of the change at hand: the one place where positions are given out."""
        lsn = namespace.lsn + 1
        self._db.execute("UPDATE namespaces SET lsn=? WHERE key=?", (lsn, namespace.key))
        return lsn

    def _advance(self, namespace: Namespace, position: Lsn) -> None:
        """Note where the namespace is in its log. A repeated position is one: the call is made again."""
        if position < namespace.position:
            raise ReplicaAhead(Lsn(namespace.position))
        self._db.execute("UPDATE namespaces SET position=? WHERE key=?", (position, namespace.key))

    def _new_dataset(self) -> int:
        inserted = self._db.execute("INSERT INTO datasets (is_garbage) VALUES (0)").lastrowid
        if inserted is None:
            raise sqlite3.DatabaseError("an inserted dataset has no key")
        return inserted

    def _discard(self, namespace: Namespace) -> int:
        """Point the namespace at a new, empty place, which is returned."""
        data = self._new_dataset()
        self._db.execute("UPDATE datasets SET is_garbage=1 WHERE data=?", (namespace.data,))
        self._db.execute(
            "UPDATE namespaces SET data=?, records=0, bytes=0 WHERE key=?", (data, namespace.key)
        )
        return data

    # -- applying -----------------------------------------------------------------------------------

    def _apply(
        self,
        namespace: Namespace,
        lsn: int,
        change: Change,
        rows: list[Row] | None,
        *,
        is_acknowledged: bool = False,
    ) -> Written:
        """Change the rows. A change that was acknowledged before is not refused any more."""
        key, data = namespace.key, namespace.data
        matched: int | None = None
        is_reset = False
        puts: list[tuple[Row, bool]] = []
        deletes: Sequence[str] = ()
        alive = namespace.alive
        match change:
            case Upsert():
                puts = [(row, True) for row in (encode_records(change.records) if rows is None else rows)]
                alive = True
            case Update():
                puts = self._merged(data, change)
                if not is_acknowledged:
                    _check_sizes(puts)
            case UpdateByFilter():
                puts = [self._with_metadata(row, change.set_metadata) for row in self._matches(data, change)]
                matched = len(puts)
                if not is_acknowledged:
                    _check_sizes(puts)
            case Delete():
                deletes = change.ids
            case DeleteByFilter():
                deletes = [id_ for id_, _ in self._matching(data, change.filter)]
                matched = len(deletes)
            case DeleteAll():
                data, is_reset = self._discard(namespace), True
            case CreateNamespace():
                self._declare(key, change)
                alive = True
            case DropNamespace():
                data, is_reset, alive = self._discard(namespace), True, False
                self._db.execute("DELETE FROM pending WHERE namespace=?", (key,))
                self._db.execute("UPDATE namespaces SET schema=NULL WHERE key=?", (key,))
        records, size = self._replace(data, [row for row, _ in puts])
        if deletes:
            gone, freed = self._remove(data, deletes)
            records, size = records - gone, size - freed
        self._db.execute(
            "UPDATE namespaces SET applied_lsn=?, records=records+?, bytes=bytes+?, alive=? WHERE key=?",
            (lsn, records, size, alive, key),
        )
        effect = Effect(key, data, lsn, is_reset, puts, deletes)
        return Written(key, lsn, matched, effect)

    def _declare(self, key: int, change: CreateNamespace) -> None:
        """Bring a namespace to life, with its schema."""
        schema = msgspec.json.encode(change.schema) if change.schema else None
        self._db.execute("UPDATE namespaces SET schema=?, alive=1 WHERE key=?", (schema, key))

    def _replace(self, data: int, rows: Sequence[Row]) -> tuple[int, int]:
        """Write whole rows; how many records and bytes that added."""
        if not rows:
            return 0, 0
        known, freed = self._sizes(data, [row.id for row in rows])
        self._db.executemany(
            "INSERT INTO records (data, id, metadata, dense, sparse) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (data, id) DO UPDATE"
            " SET metadata=excluded.metadata, dense=excluded.dense, sparse=excluded.sparse",
            [(data, row.id, row.metadata, row.dense, row.sparse) for row in rows],
        )
        return len(rows) - known, sum(row.size for row in rows) - freed

    def _remove(self, data: int, ids: Sequence[str]) -> tuple[int, int]:
        """Delete rows; how many records and bytes that freed."""
        known, freed = self._sizes(data, ids)
        self._db.executemany("DELETE FROM records WHERE data=? AND id=?", [(data, id_) for id_ in ids])
        return known, freed

    def _sizes(self, data: int, ids: Sequence[str]) -> tuple[int, int]:
        """How many of the ids exist, and their bytes (ids may repeat: they count once)."""
        count, size = self._db.execute(
            "SELECT count(*), total(length(id) + ifnull(length(metadata), 0) + ifnull(length(dense), 0)"
            " + ifnull(length(sparse), 0)) FROM records"
            " WHERE data=? AND id IN (SELECT value FROM json_each(?))",
            (data, as_json(ids)),
        ).fetchone()
        return count, int(size)

    def _merged(self, data: int, change: Update) -> list[tuple[Row, bool]]:
        """The row after a partial update, or nothing for an unknown id."""
        found = self._db.execute(
            "SELECT id, dense, sparse, metadata FROM records WHERE data=? AND id=?", (data, change.id)
        ).fetchone()
        if found is None:
            return []
        row = Row(*found)
        has_vectors = change.values is not None or change.sparse_values is not None
        if change.values is not None:
            row = msgspec.structs.replace(row, dense=encode_dense(change.values))
        if change.sparse_values is not None:
            row = msgspec.structs.replace(row, sparse=encode_sparse(change.sparse_values))
        return [self._with_metadata(row, change.set_metadata or {}, has_vectors)]

    def _with_metadata(self, row: Row, updates: Metadata, has_vectors: bool = False) -> tuple[Row, bool]:
        if not updates:
            return row, has_vectors
        merged = decode_metadata(row.metadata) | updates
        return msgspec.structs.replace(row, metadata=encode_metadata(merged)), has_vectors

    def _matching(self, data: int, raw: dict[str, Any]) -> Iterator[tuple[str, bytes | None]]:
        """Ids and metadata that match, by a scan: a write's filter sees every write before it."""
        tree = compile_filter(raw)
        for id_, metadata in self._db.execute("SELECT id, metadata FROM records WHERE data=?", (data,)):
            if tree.matches(decode_metadata(metadata)):
                yield id_, metadata

    def _matches(self, data: int, change: UpdateByFilter) -> Iterable[Row]:
        ids = [id_ for id_, _ in self._matching(data, change.filter)]
        return read_rows(self._db, data, ids).values()


def _check_sizes(puts: Iterable[tuple[Row, bool]]) -> None:
    """Raises: BadRecord: merged metadata beyond the limit."""
    for row, _ in puts:
        if row.metadata is not None and len(row.metadata) > MAX_METADATA_BYTES:
            check_metadata(decode_metadata(row.metadata))
