"""Files become records, and what cannot be one is refused with its place and reason."""

from pathlib import Path

import pytest

from gateway.ingest.read import TextItem, read_source
from gateway.ingest.sources import Refusal, encode_name, find_sources


def words(text: str) -> int:
    return len(text.split())


def read(path: Path) -> list[TextItem | Refusal]:
    (source,) = find_sources([path]).sources
    return list(read_source(source, "text", words))


def test_a_row_keeps_its_id_and_fields(tmp_path: Path) -> None:
    path = tmp_path / "faq.jsonl"
    path.write_text('{"id":"a","text":"Yes.","lang":"en","n":1,"none":null}\n\n{"_id":7,"text":"No."}\n')
    first, second = read(path)
    assert isinstance(first, TextItem)
    assert isinstance(second, TextItem)
    assert (first.id, first.text, first.line) == ("a", "Yes.", 1)
    assert first.metadata == {"lang": "en", "n": 1, "ingested_from": "faq.jsonl"}
    assert (second.id, second.line) == ("7", 3)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{broken", "no record"),
        ('{"id":"a","id":"b","text":"x"}', "repeated"),
        ('{"text":"x"}', "no id"),
        ('{"id":"a"}', "no text"),
        ('{"id":"a","text":"  "}', "no text"),
        ('{"id":"a","text":"x","deep":{"a":1}}', "'deep'"),
        ('{"id":"a","text":"x","list":[1]}', "'list'"),
        ('{"id":1.5,"text":"x"}', "no id"),
        ('{"id":"a","text":"x","_m.hash":"y"}', "reserved"),
        ('{"id":"a","text":"x","ingested_from":"y"}', "reserved"),
        ('{"id":"ä","text":"x"}', "ASCII"),
        ('{"id":"a","text":"' + "x" * 41_000 + '"}', "exceeds"),
        ('{"id":"a","text":"' + "x" * 2_000_000 + '"}', "longer than"),
    ],
)
def test_a_bad_row_is_refused_alone_with_its_line(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id":"1","text":"good"}}\n{row}\n{{"id":"2","text":"good"}}\n')
    before, refused, after = read(path)
    assert isinstance(before, TextItem)
    assert isinstance(after, TextItem)
    assert isinstance(refused, Refusal)
    assert refused.line == 2
    assert reason in refused.reason


def test_a_document_becomes_numbered_pieces_under_their_headings(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    path = tmp_path / "docs" / "a.md"
    path.write_text("# Guide\n\none two\n\n## Use\n\nthree four\n")
    (source,) = find_sources([tmp_path / "docs"]).sources
    pieces = [item for item in read_source(source, "text", words) if isinstance(item, TextItem)]
    assert [(piece.id, piece.text, piece.metadata["title"]) for piece in pieces] == [
        ("docs/a.md#0", "one two", "Guide"),
        ("docs/a.md#1", "three four", "Guide › Use"),
    ]
    assert pieces[1].metadata["ingested_part"] == 1


@pytest.mark.parametrize(("content", "reason"), [(b"\xff\xfe\x00bad", "UTF-8"), (b"  \n", "no text")])
def test_a_document_that_cannot_be_read_is_refused_whole(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    (refused,) = read(path)
    assert isinstance(refused, Refusal)
    assert reason in refused.reason


def test_folders_are_walked_in_order_without_hidden_or_other_files(tmp_path: Path) -> None:
    for name in ("docs/b.md", "docs/a.html", "docs/.git/x.md", "docs/c.png", "docs/sub/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = find_sources([tmp_path / "docs"])
    assert [source.name for source in found.sources] == ["docs/a.html", "docs/b.md", "docs/sub/d.txt"]
    assert found.covers("docs/gone.md")
    assert not found.covers("docs2/a.md")


def test_paths_that_are_missing_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("x")
    refused = find_sources([tmp_path / "a.pdf", tmp_path / "gone.md"]).refused
    assert ["not one of" in refused[0].reason, refused[1].reason] == [True, "does not exist"]


def test_two_files_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.md").write_text("x")
    found = find_sources([tmp_path / "one" / "a.md", tmp_path / "two" / "a.md"])
    assert (len(found.sources), len(found.refused)) == (1, 1)


def test_names_are_ascii_and_cannot_be_mistaken_for_pieces() -> None:
    assert encode_name("docs/über #1 100%.md") == "docs/%C3%BCber %231 100%25.md"
