from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    Fault,
    GatewayError,
    Refusal,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamUnavailable,
)
from gateway.wire import refusals


def of(status: int, headers: dict[str, str] | None = None, **told: Any) -> GatewayError:
    body = msgspec.json.encode({"error": {"message": "no", **told}}) if told else b""
    return refusals.of_response("gpt/0", status, headers or {}, body)


@pytest.mark.parametrize(
    ("status", "told", "reason"),
    [
        (400, {}, Refusal.REQUEST),
        (413, {}, Refusal.REQUEST),
        (422, {}, Refusal.REQUEST),
        (400, {"code": "context_length_exceeded"}, Refusal.CONTEXT),
        (400, {"type": "exceed_context_size_error", "code": 400}, Refusal.CONTEXT),
        (400, {"code": 1261}, Refusal.CONTEXT),
        (
            400,
            {"message": "This model's maximum context length is 8192 tokens.", "code": 400},
            Refusal.CONTEXT,
        ),
        (413, {"message": "Prompt is too long: 200001 tokens"}, Refusal.CONTEXT),
        (400, {"code": "content_filter"}, Refusal.CONTENT),
        (400, {"innererror": {"code": "ResponsibleAIPolicyViolation"}}, Refusal.CONTENT),
        (403, {"code": "content_policy_violation"}, Refusal.CONTENT),
        (401, {}, Refusal.ACCOUNT),
        (401, {"code": "model_not_found"}, Refusal.ACCOUNT),
        (402, {}, Refusal.ACCOUNT),
        (403, {}, Refusal.ACCOUNT),
        (429, {"code": "insufficient_quota"}, Refusal.ACCOUNT),
        (429, {"type": "insufficient_quota", "code": None}, Refusal.ACCOUNT),
        (429, {"code": "1113"}, Refusal.ACCOUNT),
        (400, {"code": "invalid_api_key"}, Refusal.ACCOUNT),
        (404, {}, Refusal.SETUP),
        (400, {"code": "model_not_found"}, Refusal.SETUP),
        (302, {}, Refusal.SETUP),
        (405, {}, Refusal.SETUP),
    ],
)
def test_a_refusal_says_what_it_is_about(status: int, told: dict[str, Any], reason: Refusal) -> None:
    error = of(status, **told)
    assert isinstance(error, UpstreamRejected)
    assert (error.status, error.reason) == (status, reason)


def test_what_is_about_the_caller_is_its_fault_in_the_upstreams_words_and_not_logged() -> None:
    error = of(400, code="context_length_exceeded")
    assert isinstance(error, UpstreamRejected)
    assert error.fault is Fault.CLIENT
    assert error.code == "context_length_exceeded"
    assert b"context_length_exceeded" in error.body
    assert not error.detail


def test_what_is_about_our_account_is_told_to_operators_only() -> None:
    error = of(401, message="bad key sk-1")
    assert error.fault is Fault.UPSTREAM
    assert "sk-1" in error.detail
    assert "sk-1" not in error.message


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"Retry-After": "7", "x-ratelimit-reset-requests": "50s"}, 7.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "500ms"}, 0.5),
    ],
)
def test_a_throttled_call_tells_how_long_to_wait(headers: dict[str, str], wait_s: float | None) -> None:
    error = of(429, headers, code="rate_limit_exceeded")
    assert isinstance(error, UpstreamThrottled)
    assert error.retry_after_s == wait_s


@pytest.mark.parametrize("status", [408, 409, 425, 500, 503, 529])
def test_what_may_pass_is_unavailable(status: int) -> None:
    error = of(status, {"Retry-After": "3", "x-should-retry": "false"}, message="busy")
    assert type(error) is UpstreamUnavailable
    assert (error.retry_after_s, error.should_retry) == (3.0, False)


@pytest.mark.parametrize(
    ("told", "kind", "reason"),
    [
        ({"code": "content_filter"}, UpstreamRejected, Refusal.CONTENT),
        ({"code": "context_length_exceeded"}, UpstreamRejected, Refusal.CONTEXT),
        ({"type": "insufficient_quota"}, UpstreamRejected, Refusal.ACCOUNT),
        ({"code": "rate_limit_exceeded"}, UpstreamThrottled, None),
        ({"code": 429}, UpstreamThrottled, None),
        ({"type": "overloaded_error"}, UpstreamUnavailable, None),
        ({"code": 502}, UpstreamUnavailable, None),
        ({"message": "busy"}, type(None), None),
        ("busy", type(None), None),
        (True, type(None), None),
    ],
)
def test_an_error_inside_an_answer_is_known_by_its_words(
    told: Any, kind: type[object], reason: Refusal | None
) -> None:
    error = refusals.in_answer(told, b"{}")
    assert type(error) is kind
    assert getattr(error, "reason", None) is reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "code", "type", "message", "innererror"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(st.integers(300, 599), JSON.map(msgspec.json.encode) | st.binary(max_size=60))
def test_any_answer_with_an_error_status_is_one_of_our_errors(status: int, body: bytes) -> None:
    assert isinstance(refusals.of_response("gpt/0", status, {}, body), GatewayError)


@given(JSON)
def test_any_error_object_inside_an_answer_is_read(told: Any) -> None:
    assert isinstance(refusals.in_answer(told, b"{}"), GatewayError | None)
