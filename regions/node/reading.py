"""What a node's tables say, for any connection: the writer's own, or a reader's that sees the last commit."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from regions.node.rows import Row


class Namespace(msgspec.Struct, frozen=True):
    """A row of `namespaces`. `lsn` is the last position given out, `applied_lsn` the last one visible.

    `position` is where a replicator says that it is in the log.
    """

    key: int
    index_key: int
    name: str
    data: int
    lsn: int
    applied_lsn: int
    records: int
    size_bytes: int
    schema: bytes | None
    alive: bool
    position: int


class Index(msgspec.Struct, frozen=True):
    """A row of `indexes`."""

    key: int
    name: str
    definition: bytes


_COLUMNS: Final = "key, index_key, name, data, lsn, applied_lsn, records, bytes, schema, alive, position"


def _namespace(row: tuple[Any, ...]) -> Namespace:
    return Namespace(*row)


def find_namespace(db: sqlite3.Connection, index_key: int, name: str) -> Namespace | None:
    """The row of a namespace, dropped ones included."""
    found = db.execute(
        f"SELECT {_COLUMNS} FROM namespaces WHERE index_key=? AND name=?",  # noqa: S608 - our own columns
        (index_key, name),
    ).fetchone()
    return _namespace(found) if found else None


def get_namespace(db: sqlite3.Connection, key: int) -> Namespace | None:
    found = db.execute(f"SELECT {_COLUMNS} FROM namespaces WHERE key=?", (key,)).fetchone()  # noqa: S608 - our own
    return _namespace(found) if found else None


def as_json(ids: Sequence[str]) -> str:
    """The ids as the one parameter of `IN (SELECT value FROM json_each(?))`: any number of them."""
    return msgspec.json.encode(ids).decode()


def find_index(db: sqlite3.Connection, name: str) -> Index | None:
    found = db.execute("SELECT key, name, definition FROM indexes WHERE name=?", (name,)).fetchone()
    return Index(*found) if found else None


def list_indexes(db: sqlite3.Connection) -> list[Index]:
    return [Index(*row) for row in db.execute("SELECT key, name, definition FROM indexes ORDER BY name")]


def incarnation(db: sqlite3.Connection) -> str:
    """The random name that this store was given when it was made."""
    value: str = db.execute("SELECT value FROM meta WHERE key='incarnation'").fetchone()[0]
    return value


def _beyond(prefix: str) -> str:
    """A text above all that begin with the prefix; names and ids are ASCII."""
    return prefix + "\x80"


def list_namespaces(
    db: sqlite3.Connection, index_key: int, prefix: str, after: str, limit: int
) -> list[Namespace]:
    """Living namespaces whose names have the prefix, by name, from beyond `after`."""
    found = db.execute(
        f"SELECT {_COLUMNS} FROM namespaces WHERE index_key=? AND alive AND name>=? AND name<? AND name>?"  # noqa: S608
        " ORDER BY name LIMIT ?",
        (index_key, prefix, _beyond(prefix), after, limit),
    )
    return [_namespace(row) for row in found]


def count_namespaces(db: sqlite3.Connection, index_key: int, prefix: str) -> int:
    found: int = db.execute(
        "SELECT count(*) FROM namespaces WHERE index_key=? AND alive AND name>=? AND name<?",
        (index_key, prefix, _beyond(prefix)),
    ).fetchone()[0]
    return found


def record_counts(db: sqlite3.Connection, index_key: int) -> dict[str, int]:
    """Records of every living namespace."""
    return dict(db.execute("SELECT name, records FROM namespaces WHERE index_key=? AND alive", (index_key,)))


def list_ids(db: sqlite3.Connection, data: int, prefix: str, after: str, limit: int) -> list[str]:
    """Ids that have the prefix, in order, from beyond `after`."""
    found = db.execute(
        "SELECT id FROM records WHERE data=? AND id>=? AND id<? AND id>? ORDER BY id LIMIT ?",
        (data, prefix, _beyond(prefix), after, limit),
    )
    return [row[0] for row in found]


def read_rows(
    db: sqlite3.Connection, data: int, ids: Sequence[str], *, values: bool = True, metadata: bool = True
) -> dict[str, Row]:
    """Rows by id with the parts asked for, in no order; ids that do not exist are absent."""
    vectors = "dense, sparse" if values else "NULL, NULL"
    properties = "metadata" if metadata else "NULL"
    found = db.execute(
        f"SELECT id, {vectors}, {properties} FROM records"  # noqa: S608 - one of four fixed texts
        " WHERE data=? AND id IN (SELECT value FROM json_each(?))",
        (data, as_json(ids)),
    )
    return {row[0]: Row(*row) for row in found}


def scan_vectors(db: sqlite3.Connection, data: int) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    """Id, dense and sparse part of every record."""
    return db.execute("SELECT id, dense, sparse FROM records WHERE data=?", (data,))


def scan_metadata(db: sqlite3.Connection, data: int) -> Iterator[tuple[str, bytes | None]]:
    """Id and metadata of every record."""
    return db.execute("SELECT id, metadata FROM records WHERE data=?", (data,))
