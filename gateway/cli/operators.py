"""Asking a gateway's operators' port from the command line."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from gateway.up.problems import CommandFailed

OPERATORS: Final = "http://127.0.0.1:9401"


def asked(
    operators: str, path: str, *, key: str | None = None, timeout_s: float = 5.0
) -> tuple[int, Mapping[str, Any]]:
    """The status and the JSON object that a path answers with; `key` is shown when there is one.

    Raises: CommandFailed: nobody answers, or somebody else does.
    """
    base = operators.rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise CommandFailed(f"{operators!r} is no URL", "write it like http://127.0.0.1:9401", code=2)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(base + path, headers=headers)  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310 - checked above
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    except OSError as error:
        raise CommandFailed(
            f"nobody answers at {base}: {getattr(error, 'reason', error)}",
            "is the gateway running? --operators names another port",
        ) from error
    try:
        facts = json.loads(body)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise CommandFailed(
            f"{base}{path} is not a gateway's", "this is the operators' port, not the tenants'"
        )
    return status, facts
