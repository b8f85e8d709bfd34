"""What kind of failure an upstream's error is: the kind decides who is asked next. Pure.

throttled       429: our account sends too much there
context         the prompt is longer than the model's window
unavailable     not reached, broken off, 5xx, an answer that is not in the dialect
slow            a timer ran out
account         no money, a key that is refused: nothing of this account will be answered for a while
callers         the request itself is at fault; every other upstream would say the same
content_filter  the provider does not answer this; asking around would be going behind its back
misconfigured   a model or path that the endpoint does not know
"""

from enum import StrEnum
from typing import Final

from gateway.errors import (
    ContextTooLong,
    GatewayError,
    Refusal,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
)


class FailureClass(StrEnum):
    """See the module."""

    THROTTLED = "throttled"
    CONTEXT = "context"
    UNAVAILABLE = "unavailable"
    SLOW = "slow"
    ACCOUNT = "account"
    CALLERS = "callers"
    CONTENT_FILTER = "content_filter"
    MISCONFIGURED = "misconfigured"


FINAL: Final = frozenset({FailureClass.CALLERS, FailureClass.CONTENT_FILTER})
"""After these nobody else is asked."""

WELL: Final = FINAL | {FailureClass.THROTTLED, FailureClass.CONTEXT, FailureClass.ACCOUNT}
"""The upstream is well, and may answer another request: no breaker counts these."""

_OF_REFUSAL: Final = {
    Refusal.REQUEST: FailureClass.CALLERS,
    Refusal.CONTENT: FailureClass.CONTENT_FILTER,
    Refusal.CONTEXT: FailureClass.CONTEXT,
    Refusal.ACCOUNT: FailureClass.ACCOUNT,
    Refusal.SETUP: FailureClass.MISCONFIGURED,
}


def classify(error: GatewayError) -> FailureClass:
    """The kind of an error that came out of asking an upstream."""
    match error:
        case UpstreamRejected():
            return _OF_REFUSAL[error.reason]
        case UpstreamThrottled():
            return FailureClass.THROTTLED
        case UpstreamTimeout():
            return FailureClass.SLOW
        case ContextTooLong():
            return FailureClass.CONTEXT
        case _:
            return FailureClass.UNAVAILABLE
