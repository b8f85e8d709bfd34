"""W3C trace context, as callers send it and as they get it wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.runtime.trace_context import MAX_STATE, TraceParent, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@given(
    st.integers(1, (1 << 128) - 1),
    st.integers(1, (1 << 64) - 1),
    st.booleans(),
    st.sampled_from(["", "vendor=1", "a=1,b=!~"]),
)
def test_what_is_told_is_what_is_read(trace_id: int, span_id: int, is_sampled: bool, state: str) -> None:
    parent = TraceParent(trace_id, span_id, is_sampled, state)
    assert parse(parent.header(), [parent.state]) == parent


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    found = parse(text, [text])
    assert found is None or parse(found.header(), [found.state]) == found


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        TRACE,
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\r\nx: y",
    ],
)
def test_a_broken_header_counts_as_none(header: str | None) -> None:
    assert parse(header, ["vendor=1"]) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert parse(f"42-{TRACE}-{SPAN}-03-later") == TraceParent(int(TRACE, 16), int(SPAN, 16), True)


def test_state_in_several_lines_is_one_and_one_that_is_too_long_is_dropped() -> None:
    header = f"00-{TRACE}-{SPAN}-00"
    assert parse(header, ["a=1", "b=2"]) == TraceParent(int(TRACE, 16), int(SPAN, 16), False, "a=1,b=2")
    too_long = parse(header, ["a=" + "x" * MAX_STATE])
    assert too_long is not None
    assert too_long.state == ""
