"""Errors -> responses: the one status table, with each class's OpenAI and Pinecone shape.

OpenAI: ``{"error": {message, type, param, code}}``, all four always. Pinecone's data plane:
``{"code": int, "message": str, "details": []}`` with a gRPC code; 401 is a bare string there.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway import errors
from gateway.errors import GatewayError, UpstreamRejected
from gateway.messages import STALE, Source


@dataclass(frozen=True, slots=True)
class Shape:
    """How a class of errors looks outside: HTTP status, OpenAI's `type`, Pinecone's gRPC code."""

    status: int
    openai_type: str
    pinecone_code: int


SHAPES: Final[dict[type[GatewayError], Shape]] = {
    errors.GatewayError: Shape(500, "server_error", 13),
    errors.BadRequest: Shape(400, "invalid_request_error", 3),
    errors.ContextTooLong: Shape(400, "invalid_request_error", 3),
    errors.Unauthenticated: Shape(401, "authentication_error", 16),
    errors.Forbidden: Shape(403, "permission_error", 7),
    errors.NotFound: Shape(404, "invalid_request_error", 5),
    errors.Conflict: Shape(409, "invalid_request_error", 6),
    errors.Superseded: Shape(409, "invalid_request_error", 9),
    errors.BodyTooLarge: Shape(413, "invalid_request_error", 8),
    errors.Unsupported: Shape(501, "invalid_request_error", 12),
    errors.MethodNotAllowed: Shape(405, "invalid_request_error", 12),
    errors.RateLimited: Shape(429, "rate_limit_error", 8),
    errors.QuotaExceeded: Shape(429, "insufficient_quota", 8),
    errors.Overloaded: Shape(503, "server_error", 14),
    errors.Draining: Shape(503, "server_error", 14),
    errors.UpstreamTimeout: Shape(504, "server_error", 4),
    errors.UpstreamUnavailable: Shape(503, "server_error", 14),
    errors.UpstreamThrottled: Shape(503, "server_error", 14),
    errors.CircuitOpen: Shape(503, "server_error", 14),
    errors.UpstreamRejected: Shape(502, "server_error", 13),
    errors.UpstreamProtocolError: Shape(502, "server_error", 13),
    errors.RetrievalUnavailable: Shape(503, "server_error", 14),
    errors.ReplicaBehind: Shape(503, "server_error", 14),
    errors.HomeUnavailable: Shape(503, "server_error", 14),
    errors.WriteOutcomeUnknown: Shape(504, "server_error", 2),
    errors.AnswerUnavailable: Shape(503, "server_error", 14),
    errors.DeadlineExceeded: Shape(504, "server_error", 4),
}

_CONTROL_CODES: Final = {
    400: "INVALID_ARGUMENT",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    501: "UNIMPLEMENTED",
}


def shape_of(error: GatewayError) -> Shape:
    """The row of the error's class. A caller's own mistake found upstream keeps its status."""
    if isinstance(error, UpstreamRejected) and error.is_callers:
        return Shape(error.status, "invalid_request_error", 3)
    return SHAPES[type(error)]


def openai_error(error: GatewayError) -> dict[str, Any]:
    """The error object of the OpenAI dialect, for a body or for an event inside a stream.

    A caller's own mistake found upstream is told in the upstream's words.
    """
    if isinstance(error, UpstreamRejected) and error.is_callers:
        own = _openai_error_of(error.body)
        if own is not None:
            return {"error": own}
    return {
        "error": {
            "message": error.message,
            "type": shape_of(error).openai_type,
            "param": error.param,
            "code": error.code,
        }
    }


def response(dialect: str, error: GatewayError) -> web.Response:
    """The error as a whole response of the caller's dialect."""
    shape = shape_of(error)
    headers = retry_headers(error)
    if dialect == "openai":
        if isinstance(error, UpstreamRejected) and error.is_callers and _openai_error_of(error.body):
            return web.Response(
                status=shape.status, body=error.body, headers=headers, content_type="application/json"
            )
        return json_response(openai_error(error), status=shape.status, headers=headers)
    if shape.status == 401:
        return web.Response(status=401, text=error.message, headers=headers)
    body = {"code": shape.pinecone_code, "message": error.message, "details": []}
    return json_response(body, status=shape.status, headers=headers)


def _openai_error_of(body: bytes) -> dict[str, Any] | None:
    """The error object of an upstream's refusal, if that is in the dialect and whole, to be handed on."""
    try:
        own = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return own if isinstance(own, dict) and own else None


def in_any_dialect(error: GatewayError) -> web.Response:
    """The error for a caller whose dialect is not known: each dialect's fields, which do not meet."""
    shape = shape_of(error)
    body = {**openai_error(error), "code": shape.pinecone_code, "message": error.message, "details": []}
    return json_response(body, status=shape.status, headers=retry_headers(error))


def control_plane_error(error: GatewayError) -> web.Response:
    """The error in the shape of Pinecone's control plane: ``{"error": {code, message}, "status"}``."""
    status = shape_of(error).status
    code = _CONTROL_CODES.get(status, "UNKNOWN")
    body = {"error": {"code": code, "message": error.message}, "status": status}
    return json_response(body, status=status, headers=retry_headers(error))


def retry_headers(error: GatewayError) -> dict[str, str]:
    """What tells an SDK whether and when to come again."""
    headers = {"x-should-retry": "true" if error.retryable else "false"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(max(1, math.ceil(error.retry_after_s * 1000)))
    return headers


def source_headers(source: Source) -> dict[str, str]:
    """What both dialects say of a read: whose replica, at which position, how old at most."""
    headers = {"x-meridian-replica": str(source.region)}
    if source.lsn is not None:
        headers["x-meridian-lsn"] = str(source.lsn)
    if source.staleness_s is not None:
        headers["x-meridian-staleness-ms"] = str(math.ceil(source.staleness_s * 1000))
    if source.is_stale:
        headers["x-meridian-degraded"] = f"{STALE.kind}; reason={STALE.reason}"
    return headers


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON response, encoded by msgspec."""
    return web.Response(
        status=status, body=msgspec.json.encode(body), headers=headers, content_type="application/json"
    )
