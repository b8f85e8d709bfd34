import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import sse

BOM = b"\xef\xbb\xbf"
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
VALUES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30).map(
    str.encode
)
OTHER_LINES = st.one_of(
    st.sampled_from([b"id: 7", b"retry: 3000", b"event: chunk", b"id", b"dat: x", b"datax: y", b"x"]),
    VALUES.map(lambda value: b":" + value),
)
"""Lines that carry no data: comments, other fields, fields nobody knows."""


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream in any mix of line ends, comments and other fields anywhere, and the data of each event."""
    lines: list[bytes] = []
    expected = []
    for values in draw(st.lists(st.lists(VALUES, min_size=1, max_size=3), max_size=6)):
        if draw(st.booleans()):
            lines += [*draw(st.lists(OTHER_LINES, max_size=2)), b""]
        for value in values:
            lines += [*draw(st.lists(OTHER_LINES, max_size=2)), draw(data_line(value))]
        lines += [*draw(st.lists(OTHER_LINES, max_size=2)), b""]
        expected.append(b"\n".join(values))
    text = draw(st.sampled_from([b"", BOM]))
    for line in lines:
        end = draw(LINE_ENDS)
        if line == b"" and text.endswith(b"\r") and end == b"\n":
            end = b"\r"  # after a CR, an LF would end no line of its own
        text += line + end
    return text, expected


def data_line(value: bytes) -> st.SearchStrategy[bytes]:
    """One space after the colon belongs to the line, and is needed where the value begins with one."""
    forms = [b"data: " + value]
    if not value.startswith(b" "):
        forms.append(b"data:" + value)
    if not value:
        forms.append(b"data")
    return st.sampled_from(forms)


def split_at(text: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


def all_events(parts: Sequence[bytes]) -> tuple[list[bytes], bytes]:
    """Every event, and what is left at the stream's end."""
    splitter = sse.SseSplitter()
    events = [event for part in parts for event in splitter.feed(part)] + splitter.end()
    return events, splitter.rest()


def data_in(events: Sequence[bytes]) -> list[bytes]:
    return [d for d in map(sse.data_of, events) if d is not None]


CUTS = st.lists(st.integers(0, 10_000), max_size=8)


@given(streams(), CUTS)
def test_any_split_in_any_line_ends_gives_the_same_events_and_loses_no_byte(
    stream: tuple[bytes, list[bytes]], cuts: list[int]
) -> None:
    text, expected = stream
    events, rest = all_events(split_at(text, cuts))
    assert data_in(events) == expected
    assert b"".join(events) + rest == text.removeprefix(BOM)


@given(streams())
def test_byte_by_byte_is_the_same_as_all_at_once(stream: tuple[bytes, list[bytes]]) -> None:
    text, _ = stream
    assert all_events([text[i : i + 1] for i in range(len(text))]) == all_events([text])


@given(st.lists(VALUES, min_size=1, max_size=5), CUTS, st.integers(1, 40))
def test_an_event_that_is_cut_off_is_none(values: list[bytes], cuts: list[int], missing: int) -> None:
    text = b"".join(map(sse.encode, values))
    cut = text[: -min(missing, len(sse.encode(values[-1])))]
    events, _ = all_events(split_at(cut, cuts))
    assert data_in(events) == values[:-1]


@given(st.binary(max_size=300), CUTS)
def test_any_bytes_in_any_split_give_the_same_events(text: bytes, cuts: list[int]) -> None:
    assert all_events(split_at(text, cuts)) == all_events([text])


@pytest.mark.parametrize("make", [lambda e: b"data: a" + e + e, lambda e: b": c" + e + b"data:a" + e + e])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_line_end_ends_an_event(make: Callable[[bytes], bytes], end: bytes) -> None:
    events, rest = all_events([make(end)])
    assert (data_in(events), rest) == ([b"a"], b"")


def test_a_lone_carriage_return_ends_lines_too() -> None:
    splitter = sse.SseSplitter()
    assert splitter.feed(b"data: a\r\rdata: b\r\r: c") == [b"data: a\r\r", b"data: b\r\r"]


def test_a_line_end_cut_in_two_is_one_line_end() -> None:
    splitter = sse.SseSplitter()
    assert splitter.feed(b"data: a\r") == []
    assert splitter.feed(b"\n\r") == []
    assert splitter.feed(b"\n") == [b"data: a\r\n\r\n"]


def test_a_byte_order_mark_is_dropped_at_the_start_and_nowhere_else() -> None:
    splitter = sse.SseSplitter()
    assert splitter.feed(BOM[:2]) == []
    assert splitter.feed(BOM[2:] + b"data: a\n\n") == [b"data: a\n\n"]
    (marked,) = splitter.feed(BOM + b"data: b\n\n")
    assert sse.data_of(marked) is None


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
