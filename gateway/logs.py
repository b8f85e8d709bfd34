"""Logs: structlog, one JSON object a line; a pretty form on a terminal."""

import logging
import sys
from typing import Literal, cast

import orjson
import structlog
from structlog.typing import Processor

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def make_logger(
    level: Literal["debug", "info", "warning", "error"],
    format_: Literal["auto", "json", "pretty"],
    **bound: object,
) -> structlog.stdlib.BoundLogger:
    """A logger to standard error with `bound` on every line. Nothing process-wide is changed."""
    pretty = format_ == "pretty" or (format_ == "auto" and sys.stderr.isatty())
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if pretty:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
        logger: object = structlog.PrintLogger(sys.stderr)
    else:
        processors += [
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ]
        logger = structlog.BytesLogger(sys.stderr.buffer)
    wrapped = structlog.wrap_logger(
        logger,
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return cast("structlog.stdlib.BoundLogger", wrapped.bind(**bound))


def quiet_libraries() -> None:
    """Only warnings of libraries reach standard error, and nothing of the HTTP server.

    What it would log is what callers sent it: a malformed request with its headers, key and all, and a
    traceback for each. Failures of our own handlers are logged by the `Observer`.
    """
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL + 1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s")
