from collections.abc import Iterator

import msgspec
import pytest

from gateway.edge import render
from gateway.errors import BadRequest, GatewayError, Overloaded, RateLimited, UpstreamRejected


def every_error() -> Iterator[type[GatewayError]]:
    waiting = [GatewayError]
    while waiting:
        error = waiting.pop()
        yield error
        waiting += error.__subclasses__()


def make(kind: type[GatewayError]) -> GatewayError:
    if issubclass(kind, UpstreamRejected):
        return kind("said so", status=401)
    if issubclass(kind, RateLimited):
        return kind("said so", limit="requests per minute", retry_after_s=1)
    return kind("said so")


@pytest.mark.parametrize("kind", list(every_error()))
def test_every_error_has_a_row_and_a_shape_in_both_dialects(kind: type[GatewayError]) -> None:
    assert kind in render.SHAPES
    error = make(kind)
    openai, pinecone = render.response("openai", error), render.response("pinecone", error)
    assert openai.status == pinecone.status >= 400
    assert isinstance(openai.body, bytes)
    assert set(msgspec.json.decode(openai.body)["error"]) == {"message", "type", "param", "code"}
    assert "said so" in (pinecone.text or "")
    assert openai.headers["x-should-retry"] == ("true" if error.retryable else "false")


def test_retry_after_is_whole_seconds_never_zero_and_exact_in_ms() -> None:
    headers = render.retry_headers(Overloaded("full", retry_after_s=0.2))
    assert headers["Retry-After"] == "1"
    assert headers["retry-after-ms"] == "200"


def test_an_error_in_no_known_dialect_has_the_fields_of_both() -> None:
    told = render.in_any_dialect(BadRequest("no request", code="malformed_request"))
    assert isinstance(told.body, bytes)
    assert msgspec.json.decode(told.body) == {
        "error": {
            "message": "no request",
            "type": "invalid_request_error",
            "param": None,
            "code": "malformed_request",
        },
        "code": 3,
        "message": "no request",
        "details": [],
    }
    assert told.status == 400


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "busy"}', b'{"error": {}}', b""])
def test_a_refusal_outside_the_dialect_is_told_in_our_words(body: bytes) -> None:
    error = render.openai_error(UpstreamRejected("said so", status=400, body=body))["error"]
    assert error["message"] == "said so"
