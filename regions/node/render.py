"""Answers and errors of a node as HTTP responses: the one table of statuses.

Data-plane failures are `{"code", "message", "details"}`, control-plane failures `{"error": {"code",
"message"}, "status"}`, and a missing or wrong key is a bare string, all as Pinecone writes them.
"""

from typing import Any, Final

import msgspec
from aiohttp import web

from regions import pinecone_api as api
from regions.errors import BadFilter, BadName, RegionsError, ReplicaAhead
from regions.node.loaded import NamespaceGone
from regions.node.node import IndexChanged, IndexExists, IndexMissing, IndexProtected
from regions.node.store import NamespaceExists, NamespaceMissing
from regions.node.writer import WriterBusy, WriterFailed
from regions.pinecone_api import Code
from regions.record_checks import BadRecord
from regions.runtime.strict_json import BadJson


class BadCall(RegionsError):
    """A request that is not understood, or asks for what cannot be asked."""


class Unsupported(RegionsError):
    """A call of Pinecone's that this server does not have."""


class Overloaded(RegionsError):
    """More requests than the server takes."""


class BodyTooLarge(RegionsError):
    """A body beyond Pinecone's limit."""


class NoSuchRoute(RegionsError):
    """A path or method that no call has."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_TABLE: Final[dict[type[Exception], tuple[int, Code]]] = {
    BadCall: (400, Code.INVALID_ARGUMENT),
    BadFilter: (400, Code.INVALID_ARGUMENT),
    BadJson: (400, Code.INVALID_ARGUMENT),
    BadName: (400, Code.INVALID_ARGUMENT),
    BadRecord: (400, Code.INVALID_ARGUMENT),
    BodyTooLarge: (413, Code.RESOURCE_EXHAUSTED),
    IndexChanged: (503, Code.UNAVAILABLE),
    IndexExists: (409, Code.ALREADY_EXISTS),
    IndexMissing: (404, Code.NOT_FOUND),
    IndexProtected: (403, Code.PERMISSION_DENIED),
    NamespaceExists: (409, Code.ALREADY_EXISTS),
    NamespaceGone: (404, Code.NOT_FOUND),
    NamespaceMissing: (404, Code.NOT_FOUND),
    Overloaded: (503, Code.UNAVAILABLE),
    ReplicaAhead: (409, Code.FAILED_PRECONDITION),
    Unsupported: (501, Code.UNIMPLEMENTED),
    WriterBusy: (503, Code.UNAVAILABLE),
    WriterFailed: (500, Code.INTERNAL),
}
_CONTROL_NAMES: Final = {Code.PERMISSION_DENIED: "FORBIDDEN", Code.RESOURCE_EXHAUSTED: "PAYLOAD_TOO_LARGE"}
_RETRY_AFTER_S: Final = 1


def status_of(error: Exception) -> tuple[int, Code] | None:
    """The HTTP status and gRPC code of an expected failure; None for one that nobody expected."""
    if isinstance(error, NoSuchRoute):
        return error.status, Code.NOT_FOUND if error.status == 404 else Code.UNIMPLEMENTED
    return next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), None)


def failure(error: Exception, *, is_control: bool) -> web.Response | None:
    """The response to a failure, in the shape of its plane; None for one that nobody expected."""
    found = status_of(error)
    if found is None:
        return None
    status, code = found
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status == 503 else None
    if isinstance(error, ReplicaAhead):
        headers = {api.POSITION_HEADER: str(error.position)}
    if is_control:
        name = _CONTROL_NAMES.get(code, code.name)
        return answer(api.ControlPlaneError(api.ControlPlaneFault(name, str(error)), status), status, headers)
    return answer(api.DataPlaneError(code, str(error)), status, headers)


def internal_failure(*, is_control: bool) -> web.Response:
    """The response to a failure that nobody expected; its text stays in the log."""
    if is_control:
        return answer(api.ControlPlaneError(api.ControlPlaneFault("INTERNAL", "Internal error"), 500), 500)
    return answer(api.DataPlaneError(Code.INTERNAL, "Internal error"), 500)


def unauthorized() -> web.Response:
    return web.Response(status=401, text="Malformed domain or unauthorized: invalid API key")


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A struct as a JSON response."""
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/json", headers=headers
    )
