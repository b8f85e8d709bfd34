"""Every error that asking an upstream can end in has its kind."""

import pytest

from gateway import errors
from gateway.errors import GatewayError, Refusal, UpstreamRejected
from gateway.policies.failures import FailureClass, classify


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (errors.UpstreamThrottled(""), FailureClass.THROTTLED),
        (errors.UpstreamUnavailable(""), FailureClass.UNAVAILABLE),
        (errors.UpstreamProtocolError(""), FailureClass.UNAVAILABLE),
        (errors.CircuitOpen(""), FailureClass.UNAVAILABLE),
        (errors.UpstreamTimeout(""), FailureClass.SLOW),
        (errors.ContextTooLong(""), FailureClass.CONTEXT),
        (UpstreamRejected("", status=400), FailureClass.CALLERS),
        (UpstreamRejected("", status=413), FailureClass.CALLERS),
        (UpstreamRejected("", status=422), FailureClass.CALLERS),
        (UpstreamRejected("", status=401), FailureClass.ACCOUNT),
        (UpstreamRejected("", status=402), FailureClass.ACCOUNT),
        (UpstreamRejected("", status=403), FailureClass.ACCOUNT),
        (UpstreamRejected("", status=404), FailureClass.MISCONFIGURED),
        (UpstreamRejected("", status=400, reason=Refusal.CONTEXT), FailureClass.CONTEXT),
        (UpstreamRejected("", status=400, reason=Refusal.CONTENT), FailureClass.CONTENT_FILTER),
        (UpstreamRejected("", status=429, reason=Refusal.ACCOUNT), FailureClass.ACCOUNT),
    ],
)
def test_an_error_has_its_kind(error: GatewayError, failure: FailureClass) -> None:
    assert classify(error) is failure


def test_every_way_to_refuse_has_a_kind() -> None:
    assert {classify(UpstreamRejected("", status=400, reason=reason)) for reason in Refusal}
