import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.wire.retry_after import LONGEST_S, retry_after_s, should_retry

NOON = "Mon, 23 Nov 2026 12:00:00 GMT"
NOON_AND_7 = "Mon, 23 Nov 2026 12:00:07 GMT"


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 0.5 "}, 0.5),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"retry-after-ms": "soon", "Retry-After": "7"}, 7.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "9" * 400}, LONGEST_S),
        ({"Retry-After": "9" * 100_000}, None),
        *(({"Retry-After": text}, None) for text in ("-5", "nan", "inf", "1e9", "1_0", "٧", "7 s", "")),
        ({"Retry-After": NOON_AND_7}, None),
        ({"Retry-After": NOON_AND_7, "Date": NOON}, 7.0),
        ({"Retry-After": NOON, "Date": NOON_AND_7}, 0.0),
        ({"Retry-After": "Mon, 23 Nov 2099 12:00:00 GMT", "Date": NOON}, LONGEST_S),
        ({"Retry-After": NOON_AND_7, "Date": "today"}, None),
        ({"Retry-After": "Mon, 23 Nov 2026 12:00:07 -0000", "Date": NOON}, 7.0),
    ],
)
def test_the_wait_is_what_was_said_and_never_by_another_clock(
    headers: dict[str, str], wait_s: float | None
) -> None:
    assert retry_after_s(CIMultiDict(headers)) == wait_s


@given(st.dictionaries(st.sampled_from(["retry-after-ms", "Retry-After", "Date"]), st.text(max_size=40)))
def test_whatever_is_said_the_wait_is_bounded(headers: dict[str, str]) -> None:
    wait_s = retry_after_s(headers)
    assert wait_s is None or 0 <= wait_s <= LONGEST_S


@pytest.mark.parametrize(("text", "said"), [("true", True), ("False", False), ("maybe", None), ("", None)])
def test_should_retry_is_taken_from_its_header(text: str, said: bool | None) -> None:
    assert should_retry({"x-should-retry": text}) is said
    assert should_retry({}) is None
