"""The writer's thread: shared commits, refusals that touch nobody else, failures that reach every caller."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from regions.errors import RegionsError
from regions.node.schema import open_for_reading, open_for_writing
from regions.node.store import Store
from regions.node.writer import Writer, WriterBusy, WriterFailed


class Refused(RegionsError):
    """What a call of these tests raises."""


@pytest.fixture
def commits() -> list[Sequence[Any]]:
    return []


@pytest.fixture
def writer(tmp_path: Path, commits: list[Sequence[Any]]) -> Iterator[Writer]:
    writer = Writer(open_for_writing(tmp_path / "node.db"), commits.append, max_waiting=3)
    yield writer
    writer.close()


def indexes(path: Path) -> list[str]:
    db = open_for_reading(path / "node.db")
    try:
        return [row[0] for row in db.execute("SELECT name FROM indexes ORDER BY name")]
    finally:
        db.close()


def hold(writer: Writer) -> threading.Event:
    """Keep the writer busy until the event is set."""
    release, is_running = threading.Event(), threading.Event()

    def wait(store: Store) -> None:
        is_running.set()
        release.wait(5)

    writer.submit(wait)
    assert is_running.wait(5)
    return release


def test_a_refused_call_leaves_nothing_behind_and_the_others_alone(
    writer: Writer, commits: list[Sequence[Any]], tmp_path: Path
) -> None:
    def refuse(store: Store) -> None:
        store.create_index("half", b"{}")
        raise Refused

    release = hold(writer)
    first = writer.submit(lambda store: store.create_index("a", b"{}"))
    refused = writer.submit(refuse)
    last = writer.submit(lambda store: store.create_index("b", b"{}"))
    release.set()
    assert isinstance(refused.exception(5), Refused)
    assert [first.result(5), last.result(5)] == commits[-1]
    assert indexes(tmp_path) == ["a", "b"]


def test_a_call_that_its_caller_gave_up_before_it_began_does_not_happen(
    writer: Writer, tmp_path: Path
) -> None:
    release = hold(writer)
    given_up = writer.submit(lambda store: store.create_index("a", b"{}"))
    assert given_up.cancel()
    release.set()
    writer.submit(lambda store: store.create_index("b", b"{}")).result(5)
    assert indexes(tmp_path) == ["b"]


def test_beyond_its_bound_the_queue_refuses_but_for_the_nodes_own_calls(writer: Writer) -> None:
    release = hold(writer)
    waiting = [writer.submit(lambda store: store.sweep()) for _ in range(3)]
    with pytest.raises(WriterBusy):
        writer.submit(lambda store: store.sweep())
    own = writer.submit(lambda store: store.sweep(), is_own=True)
    release.set()
    assert [each.result(5) for each in [*waiting, own]] == [False] * 4


def test_a_store_that_cannot_be_written_fails_every_caller_and_the_thread_lives(tmp_path: Path) -> None:
    db = open_for_writing(tmp_path / "node.db")
    writer = Writer(db, lambda results: None)
    try:
        db.execute("PRAGMA query_only=1")  # what a full disk looks like from here: every write fails
        for _ in range(2):
            failed = writer.submit(lambda store: store.create_index("a", b"{}"))
            assert isinstance(failed.exception(5), WriterFailed)
    finally:
        writer.close()
    assert indexes(tmp_path) == []


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "node.db") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(sqlite3.DatabaseError, match="format 99"):
        open_for_writing(tmp_path / "node.db")
