"""What an upstream's error means: its status, headers and error object -> one of our errors.

Pure. Decided by status and by the `code` and `type` of the error object, in the words below; by prose only
for a context that is too long, because several servers give that no code. Sources: OpenAI's error codes;
Azure's content filter; DeepSeek's and Z.ai's tables of error codes; llama.cpp's server; the wording of
vLLM, SGLang and DeepSeek ("maximum context length") and of Anthropic's compatible endpoint.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.errors import GatewayError, Refusal, UpstreamRejected, UpstreamThrottled, UpstreamUnavailable
from gateway.wire import rate_limits
from gateway.wire.retry_after import retry_after_s, should_retry

_REASONS: Final[Mapping[str, Refusal]] = {
    word: reason
    for reason, words in {
        Refusal.CONTEXT: (
            *("context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"),
            *("string_above_max_length", "tokens_too_long", "1261"),
        ),
        Refusal.CONTENT: (
            *("content_filter", "content_policy_violation", "responsibleaipolicyviolation"),
            *("data_inspection_failed", "1301"),
        ),
        Refusal.ACCOUNT: (
            *(
                "insufficient_quota",
                "insufficient_balance",
                "billing_hard_limit_reached",
                "billing_not_active",
            ),
            *("account_deactivated", "invalid_api_key", "incorrect_api_key", "authentication_error"),
            *("permission_error", "arrearage", "1000", "1001", "1002", "1003", "1004"),
            *("1110", "1111", "1112", "1113", "1121"),
        ),
        Refusal.SETUP: ("model_not_found", "1211"),
    }.items()
    for word in words
}
_THROTTLED: Final = frozenset(
    {"rate_limit_exceeded", "rate_limit_error", "too_many_requests", "1302", "1303"}
)
_UNAVAILABLE: Final = frozenset(
    {"server_error", "internal_error", "internal_server_error", "api_error", "service_unavailable"}
    | {"overloaded_error", "overloaded", "engine_overloaded", "timeout"}
)
_TOO_LONG: Final = ("maximum context length", "prompt is too long")
_TRANSIENT: Final = frozenset({408, 409, 425})
_MAX_WORD: Final = 64


def of_response(name: str, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    """The error that an answer with this status means; `name` is our name of the upstream.

    429 is UpstreamThrottled, with how long to wait when that is told, unless it is about our account. 408,
    409, 425 and 5xx are UpstreamUnavailable. All else is UpstreamRejected.
    """
    error = _error(name, status, headers, body)
    error.should_retry = should_retry(headers)
    return error


def _error(name: str, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    message, told = f"{name}: answered {status}", _error_object(body)
    words = _words(told)
    reason = _reason(words, told)
    if status == 429 and reason is not Refusal.ACCOUNT:
        return UpstreamThrottled(message, retry_after_s=_wait_s(headers), detail=excerpt(body))
    if status in _TRANSIENT or status >= 500:
        return UpstreamUnavailable(message, retry_after_s=retry_after_s(headers), detail=excerpt(body))
    if status in (401, 402):
        reason = Refusal.ACCOUNT
    refused = UpstreamRejected(message, status=status, body=body, reason=reason)
    if not refused.is_callers:  # what is said of a caller's request may repeat it, and is not logged
        refused.detail = excerpt(body)
    return refused


def in_answer(told: Any, body: bytes) -> GatewayError | None:
    """The error that an error object inside a 200 means; None when its words are none we know.

    `told` is the value of `error`, `body` the whole event, for the caller when the mistake is its own.
    """
    words = _words(told)
    status = next((int(word) for word in words if word in _STATUSES), 0)
    message = "the upstream reported an error inside its answer"
    reason = _reason(words, told)
    if reason is not None:
        told_status = status if 400 <= status < 500 else _STATUS_OF[reason]
        refused = UpstreamRejected(message, status=told_status, body=body, reason=reason)
        if not refused.is_callers:
            refused.detail = excerpt(body)
        return refused
    if status == 429 or _THROTTLED.intersection(words):
        return UpstreamThrottled(message, detail=excerpt(body))
    if status in _TRANSIENT or status >= 500 or _UNAVAILABLE.intersection(words):
        return UpstreamUnavailable(message, detail=excerpt(body))
    return None


_STATUSES: Final = frozenset(map(str, range(400, 600)))
_STATUS_OF: Final = {
    Refusal.REQUEST: 400,
    Refusal.CONTENT: 400,
    Refusal.CONTEXT: 400,
    Refusal.ACCOUNT: 401,
    Refusal.SETUP: 404,
}


def _error_object(body: bytes) -> Any:
    """The value of `error` in a body; the body itself where it is not wrapped; None: no JSON."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return told.get("error", told) if isinstance(told, dict) else None


def _words(told: Any) -> list[str]:
    """The `code`, the inner error's and the `type`, in lower case; codes may be numbers."""
    if not isinstance(told, dict):
        return []
    inner = told.get("innererror")
    values = [told.get("code"), inner.get("code") if isinstance(inner, dict) else None, told.get("type")]
    return [str(v)[:_MAX_WORD].lower() for v in values if isinstance(v, str | int)]


def _reason(words: list[str], told: Any) -> Refusal | None:
    for word in words:
        if word in _REASONS:
            return _REASONS[word]
    message = told.get("message") if isinstance(told, dict) else told
    if isinstance(message, str) and any(phrase in message.lower() for phrase in _TOO_LONG):
        return Refusal.CONTEXT
    return None


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """How long a 429 asks us to wait, by Retry-After or by when the rate is reset."""
    wait_s = retry_after_s(headers)
    limits = rate_limits.read(headers)
    if wait_s is None and limits is not None:
        wait_s = rate_limits.wait_after_refusal_s(limits)
    return wait_s


def excerpt(body: bytes) -> str:
    """A line of an upstream's own words, for operators."""
    return " ".join(body[:200].decode(errors="replace").split())
