import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import rate_limits
from gateway.wire.rate_limits import RateLimits
from gateway.wire.retry_after import LONGEST_S


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("1s", 1.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3600.0),  # bounded
        ("2m59.56s", 179.56),
        ("7.66s", 7.66),
        ("12", 12.0),
        ("0s", 0.0),
        ("1d", LONGEST_S),
        *((text, None) for text in ("", "soon", "-1s", "6m0", "s", "1.s", "1e3s", "nan", "9" * 400)),
        ("1764000000", None),
        ("2026-11-23T12:00:00Z", None),
    ],
)
def test_a_duration_is_read_and_a_moment_is_none(text: str, seconds: float | None) -> None:
    assert rate_limits.duration_s(text) == (None if seconds is None else pytest.approx(seconds))


@given(st.text(st.sampled_from("0123456789.dhmsun -"), max_size=60))
def test_whatever_is_said_a_duration_is_bounded(text: str) -> None:
    seconds = rate_limits.duration_s(text)
    assert seconds is None or 0 <= seconds <= LONGEST_S


def test_what_is_left_is_read_from_an_answer() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert rate_limits.read(headers) == RateLimits(59, 149984, 1.0, 360.0)
    assert rate_limits.read({}) is None
    assert rate_limits.read({"x-ratelimit-remaining-tokens": "many"}) is None
    assert rate_limits.read({"x-ratelimit-remaining-tokens": "-3"}) == RateLimits(remaining_tokens=0)


def test_a_request_waits_for_what_it_lacks_and_for_nothing_else() -> None:
    limits = RateLimits(5, 1000, 60.0, 30.0)
    assert limits.wait_s(1000) == 0
    assert limits.wait_s(1001) == 30
    assert RateLimits(0, 1000, 60.0, 30.0).wait_s(10) == 60
    assert RateLimits(0, None, None, None).wait_s(10) == 0
    assert RateLimits(None, None, 60.0, 30.0).wait_s(10) == 0


@pytest.mark.parametrize(
    ("limits", "wait_s"),
    [
        (RateLimits(0, 900, 6.0, 50.0), 6.0),
        (RateLimits(0, 0, 6.0, 50.0), 50.0),
        (RateLimits(None, None, 6.0, 50.0), 50.0),
        (RateLimits(0, 900, None, 50.0), None),
        (RateLimits(3, 900, 6.0, 50.0), None),
    ],
)
def test_a_refusal_waits_for_the_reset_of_what_is_used_up(limits: RateLimits, wait_s: float | None) -> None:
    assert rate_limits.wait_after_refusal_s(limits) == wait_s
