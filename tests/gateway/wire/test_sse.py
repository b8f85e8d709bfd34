import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import sse

LINE_ENDS = st.sampled_from([b"\n", b"\r\n"])
VALUES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30).map(
    str.encode
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream of events in mixed line ends with comments between, and the data each event carries."""
    text, expected = b"", []
    for values in draw(st.lists(st.lists(VALUES, min_size=1, max_size=3), max_size=6)):
        end = draw(LINE_ENDS)
        if draw(st.booleans()):
            text += b": ping" + end + end
        text += b"".join(b"data: " + value + end for value in values) + end
        expected.append(b"\n".join(values))
    return text, expected


def split_at(text: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


@given(streams(), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_split_gives_the_same_events_and_loses_no_byte(
    stream: tuple[bytes, list[bytes]], cuts: list[int]
) -> None:
    text, expected = stream
    splitter = sse.SseSplitter()
    events = [event for part in split_at(text, cuts) for event in splitter.feed(part)]
    data = [d for d in map(sse.data_of, events) if d is not None]
    assert data == expected
    assert b"".join(events) + splitter.rest() == text


def test_a_lone_carriage_return_ends_lines_too() -> None:
    splitter = sse.SseSplitter()
    assert splitter.feed(b"data: a\r\rdata: b\r\r: c") == [b"data: a\r\r", b"data: b\r\r"]


def test_a_line_end_cut_in_two_is_one_line_end() -> None:
    splitter = sse.SseSplitter()
    assert splitter.feed(b"data: a\r") == []
    assert splitter.feed(b"\n\r") == []
    assert splitter.feed(b"\n") == [b"data: a\r\n\r\n"]


def test_other_fields_and_comments_carry_no_data() -> None:
    assert sse.data_of(b": keep-alive\n\n") is None
    assert sse.data_of(b"event: x\nid: 1\n\n") is None
    assert sse.data_of(b"event: x\ndata:a\ndata\n\n") == b"a\n"


def test_an_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    splitter = sse.SseSplitter(max_event_bytes=100)
    splitter.feed(b"data: " + b"x" * 90)
    with pytest.raises(sse.EventTooLong, match="more than 100 bytes"):
        splitter.feed(b"x" * 10)


@given(st.binary(max_size=200).filter(lambda d: b"\n" not in d and b"\r" not in d))
def test_what_is_encoded_is_decoded(data: bytes) -> None:
    assert sse.data_of(sse.encode(data)) == data
