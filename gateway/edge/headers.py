"""What a request's headers ask of the gateway, the same in both dialects; what they may not say is a 400."""

import re
import uuid
from typing import Final

from aiohttp import web

from gateway.allowances import Priority
from gateway.cache_control import CacheControl, parse_cache_control
from gateway.errors import BadRequest, Unauthenticated
from gateway.messages import Complexity
from regions.positions import NO_LSN, Lsn, parse_lsn

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
_DEADLINE_MS: Final = re.compile(r"[1-9][0-9]{0,6}")
_COMPLEXITIES: Final = frozenset(Complexity)
_PRIORITIES: Final = [*Priority]
"""The first to be served first."""
_STALENESS_S: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?")


def request_id(request: web.Request) -> str:
    """The caller's own id when it is a plain one, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def api_key(request: web.Request) -> str | None:
    """The key that is shown, in either dialect's header; None when there is none.

    Raises: Unauthenticated: two different ones: whichever were taken, somebody before us may take the other.
    """
    shown = set(request.headers.getall("Api-Key", ()))
    for authorization in request.headers.getall("Authorization", ()):
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer":
            shown.add(token.strip())
    shown.discard("")
    if len(shown) > 1:
        raise Unauthenticated("more than one API key is shown: send one")
    return next(iter(shown), None)


def allowed_s(request: web.Request, tenants_s: float | None, most_s: float) -> float:
    """The request's whole time: what it asks for, else its tenant's default; never above `most_s`."""
    asked = request.headers.get("x-meridian-deadline-ms")
    if asked is None:
        return min(most_s, tenants_s or most_s)
    if not _DEADLINE_MS.fullmatch(asked):
        raise BadRequest("x-meridian-deadline-ms: expected milliseconds from 1 to 9999999")
    return min(most_s, int(asked) / 1000)


def floor(request: web.Request) -> Lsn:
    """The position that the caller's reads must hold, which it took from the header of a write."""
    asked = request.headers.get("x-meridian-min-lsn")
    try:
        return NO_LSN if asked is None else parse_lsn(asked)
    except ValueError as error:
        raise BadRequest(f"x-meridian-min-lsn: {error}") from None


def max_staleness_s(request: web.Request) -> float | None:
    asked = request.headers.get("x-meridian-max-staleness-s")
    if asked is None:
        return None
    if not _STALENESS_S.fullmatch(asked) or float(asked) == 0:
        raise BadRequest("x-meridian-max-staleness-s: expected seconds above 0 and below 1000000")
    return float(asked)


def ack(request: web.Request) -> str:
    asked = request.headers.get("x-meridian-ack", "")
    if asked not in ("", "durable", "applied") and not asked.startswith("region="):
        raise BadRequest("x-meridian-ack: expected durable, applied, or region= and a region")
    return "" if asked == "durable" else asked


def is_whole(request: web.Request) -> bool:
    asked = request.headers.get("x-meridian-stream", "live")
    if asked not in ("live", "whole"):
        raise BadRequest("x-meridian-stream: expected live or whole")
    return asked == "whole"


def complexity(request: web.Request) -> str:
    asked = request.headers.get("x-meridian-complexity", "")
    if asked and asked not in _COMPLEXITIES:
        raise BadRequest(f"x-meridian-complexity: expected one of {', '.join(Complexity)}")
    return asked


def priority(request: web.Request, most: Priority) -> Priority:
    """The class the caller puts its request in, never above its tenant's own."""
    asked = request.headers.get("x-meridian-priority")
    if asked is None:
        return most
    if asked not in _PRIORITIES:
        raise BadRequest(f"x-meridian-priority: expected one of {', '.join(Priority)}")
    return max(most, Priority(asked), key=_PRIORITIES.index)


def cache_control(request: web.Request) -> CacheControl:
    return parse_cache_control(", ".join(request.headers.getall("Cache-Control", ())))
