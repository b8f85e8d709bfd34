"""The tables of a node, and connections to them.

`namespaces.data` names the set of rows that a namespace shows. Emptying or dropping a namespace points it at
a new set, which costs the same whatever its size; the old rows are garbage and go in small portions.
A dropped namespace keeps its row (`alive` = 0), so that its positions never go back: `lsn`, which counts its
changes here, and `position`, where a replicator says that it is in the log that it follows.
"""

import sqlite3
from pathlib import Path
from typing import Final
from uuid import uuid4

FORMAT: Final = 2

_DDL: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE indexes (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    definition BLOB NOT NULL
);
CREATE TABLE namespaces (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    index_key INTEGER NOT NULL,
    name TEXT NOT NULL,
    data INTEGER NOT NULL,
    lsn INTEGER NOT NULL,
    applied_lsn INTEGER NOT NULL,
    records INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    schema BLOB,
    alive INTEGER NOT NULL,
    position INTEGER NOT NULL DEFAULT 0,
    UNIQUE (index_key, name)
);
CREATE TABLE datasets (data INTEGER PRIMARY KEY AUTOINCREMENT, is_garbage INTEGER NOT NULL);
CREATE INDEX garbage ON datasets (data) WHERE is_garbage;
CREATE TABLE records (
    rid INTEGER PRIMARY KEY,
    data INTEGER NOT NULL,
    id TEXT NOT NULL,
    metadata BLOB,
    dense BLOB,
    sparse BLOB,
    UNIQUE (data, id)
);
CREATE TABLE pending (
    namespace INTEGER NOT NULL,
    lsn INTEGER NOT NULL,
    change BLOB NOT NULL,
    PRIMARY KEY (namespace, lsn)
) WITHOUT ROWID;
"""


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The one connection that writes; creates the tables of a new file.

    WAL with synchronous=FULL: a commit that returned is on the disk. 8 KB pages hold a 384-d record whole.
    Raises: sqlite3.DatabaseError: the file is damaged or of another format.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        connection.execute("PRAGMA page_size=8192")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=2000")
        connection.execute("PRAGMA cache_size=-16384")
        _create(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == FORMAT:
        return
    if version == 1:
        connection.executescript(
            "BEGIN IMMEDIATE; ALTER TABLE namespaces ADD COLUMN position INTEGER NOT NULL DEFAULT 0;"
            "PRAGMA user_version=2; COMMIT;"
        )
        return
    if version:
        raise sqlite3.DatabaseError(f"the store has format {version}, this program reads {FORMAT}")
    connection.executescript(
        f"BEGIN IMMEDIATE; {_DDL} INSERT INTO meta VALUES ('incarnation', '{uuid4().hex}');"  # noqa: S608 - our own hex
        f"PRAGMA user_version={FORMAT}; COMMIT;"
    )


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that sees the last commit and never waits for the writer; one a thread."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    connection.execute("PRAGMA query_only=1")
    connection.execute("PRAGMA cache_size=-4096")
    return connection
