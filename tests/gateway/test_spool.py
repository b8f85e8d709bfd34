"""Files that bills wait in: what survives, who may take them over, where they end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import spool
from gateway.spool import Spool, SpoolFull


def made(directory: Path, own: str = "0-a", name: str = "us-east", max_bytes: int = 10_000) -> Spool:
    directory.mkdir(exist_ok=True)
    return Spool(directory, name, own, max_bytes=max_bytes)


def all_of(kept: Spool) -> list[bytes]:
    return [record for segment in kept.seal() for record in spool.read(segment)]


def test_records_come_out_in_the_order_in_which_they_went_in(tmp_path: Path) -> None:
    kept = made(tmp_path)
    for record in (b"a", b"b"):
        kept.write(record)
    assert all_of(kept) == [b"a", b"b"]
    kept.write(b"c")
    assert all_of(kept) == [b"a", b"b", b"c"]
    assert (kept.records, kept.size_bytes) == (3, 6)
    kept.close()


def test_what_the_journal_has_leaves_no_file(tmp_path: Path) -> None:
    kept = made(tmp_path)
    kept.write(b"a")
    for segment in kept.seal():
        kept.forget(segment)
        spool.remove(segment)
    assert (kept.records, kept.size_bytes, list(tmp_path.iterdir())) == (0, 0, [])


def test_a_full_spool_says_so_and_takes_again_what_has_room(tmp_path: Path) -> None:
    kept = made(tmp_path, max_bytes=10)
    kept.write(b"123456789")
    with pytest.raises(SpoolFull):
        kept.write(b"")
    for segment in kept.seal():
        kept.forget(segment)
        spool.remove(segment)
    kept.write(b"again")
    assert all_of(kept) == [b"again"]
    kept.close()


def test_a_directory_that_vanished_is_a_full_spool_and_not_a_crash(tmp_path: Path) -> None:
    kept = Spool(tmp_path / "gone", "us-east", "0-a", max_bytes=100)
    with pytest.raises(SpoolFull):
        kept.write(b"a")


def test_the_living_keep_their_files_and_those_of_the_gone_are_adopted(tmp_path: Path) -> None:
    living, other = made(tmp_path, "0-a"), made(tmp_path, "1-b")
    living.write(b"a")
    assert other.orphans() == []
    living.close()
    found = other.orphans()
    other.adopt(found)
    assert (other.records, all_of(other)) == (1, [b"a"])
    assert made(tmp_path, "2-c").orphans() == [], "one adopts, the next finds nothing"
    other.close()


def test_another_regions_files_are_left_alone(tmp_path: Path) -> None:
    far = made(tmp_path, name="eu-west")
    far.write(b"a")
    far.close()
    assert made(tmp_path, name="eu").orphans() == []
    assert made(tmp_path, name="us-east").orphans() == []


def test_what_was_written_is_there_after_a_kill_9(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from gateway.spool import Spool\n"
        "s = Spool(Path(sys.argv[1]), 'us-east', '0-x', max_bytes=1000)\n"
        "s.write(b'a'); s.seal(); s.write(b'b'); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, os.fspath(tmp_path)], check=False)
    assert done.returncode == -9
    kept = made(tmp_path, "0-y")
    kept.adopt(kept.orphans())
    assert all_of(kept) == [b"a", b"b"]
    kept.close()
