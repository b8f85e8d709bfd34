"""What can go wrong with a request. Knows no HTTP: statuses live in `edge/render.py`.

GatewayError                 fault: who is to blame; retryable: may another attempt help
  BadRequest                   client: the request cannot be understood or is not allowed
    ContextTooLong               client: the conversation does not fit any window of the route
  Unauthenticated              client: no key, or an unknown one
  Forbidden                    client: a grant is missing
  NotFound                     client: names something that does not exist, for this tenant
  Conflict                     client: the thing is in another state than the call needs
    Superseded                   client: a position that its epoch never reached
  BodyTooLarge                 client: more bytes than the limit
  Unsupported                  client: a call we do not serve, said plainly
    MethodNotAllowed             client: the path exists, not for this method
  RateLimited                  client: one of its limits is reached; it says which and until when
  QuotaExceeded                client: its budget is spent; coming again soon does not help
  Overloaded                   gateway: shed for load; retry after a while
  Draining                     gateway: this process accepts no more
  UpstreamTimeout              upstream: no answer in time
  UpstreamUnavailable          upstream: not reached, broken off, 5xx
    UpstreamThrottled            upstream: our account asks it too much
    CircuitOpen                  upstream: it failed so often that it is not asked for a while
  UpstreamRejected             upstream answered "no" to this very request (`Refusal` says about what)
  UpstreamProtocolError        upstream: an answer that is not in its dialect
  RetrievalUnavailable         upstream: no replica of the index answered
    ReplicaBehind                upstream: none of them is as fresh as asked
  HomeUnavailable              upstream: the home's log takes no writes; nothing was written
  WriteOutcomeUnknown          upstream: the home's log may have taken the write, or not
  AnswerUnavailable            upstream: every path failed and the caller does not take excerpts
  DeadlineExceeded             gateway: the request's own deadline passed

Only upstream faults count against a breaker; only gateway and upstream faults against an SLO.
"""

from enum import StrEnum


class Fault(StrEnum):
    """Who is to blame."""

    CLIENT = "client"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


class Refusal(StrEnum):
    """What an upstream's "no" is about, and so who can do better."""

    REQUEST = "request"  # the caller's request: nobody would take it
    CONTENT = "content"  # its content, by the provider's filter: the caller's
    CONTEXT = "context"  # its length: a longer window may take it
    ACCOUNT = "account"  # our key, balance or quota there: every model of that account is out
    SETUP = "setup"  # a model, path or method that we configured


class GatewayError(Exception):
    """Root of the tree. `code` is stable and machine-readable; `message` is for the caller.

    `detail` is for operators only: an upstream's own words may name our account or key. `should_retry` is
    what an upstream itself said of another attempt (`x-should-retry`), None when it said nothing.
    """

    fault: Fault = Fault.GATEWAY
    retryable: bool = False
    code: str = "internal_error"
    should_retry: bool | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.retry_after_s = message, param, retry_after_s
        self.detail = detail
        if code is not None:
            self.code = code


class BadRequest(GatewayError):
    """The request cannot be understood or is not allowed; `param` names the part."""

    fault = Fault.CLIENT
    code = "invalid_request"


class ContextTooLong(BadRequest):
    """The conversation alone does not fit the window of any upstream of its route."""

    code = "context_length_exceeded"


class Unauthenticated(GatewayError):
    """No key, or one that belongs to nobody."""

    fault = Fault.CLIENT
    code = "invalid_api_key"


class Forbidden(GatewayError):
    """The key is good, the tenant lacks the grant."""

    fault = Fault.CLIENT
    code = "forbidden"


class NotFound(GatewayError):
    """Names something that does not exist for this tenant."""

    fault = Fault.CLIENT
    code = "not_found"


class Conflict(GatewayError):
    """The thing is in another state than the call needs, such as: it exists already."""

    fault = Fault.CLIENT
    code = "conflict"


class Superseded(Conflict):
    """The floor lies beyond the end of its epoch: what stood there was lost with an old home."""

    code = "lsn_superseded"


class BodyTooLarge(GatewayError):
    """More bytes than the limit; nothing of it was read."""

    fault = Fault.CLIENT
    code = "request_too_large"


class Unsupported(GatewayError):
    """A call of the dialect that Meridian does not serve."""

    fault = Fault.CLIENT
    code = "unsupported"


class MethodNotAllowed(Unsupported):
    """The path exists, but not for this method."""

    code = "method_not_allowed"


class RateLimited(GatewayError):
    """One of the tenant's limits is reached: `limit` names it, such as "requests per minute"."""

    fault = Fault.CLIENT
    retryable = True
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, limit: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.limit = limit


class QuotaExceeded(GatewayError):
    """The tenant's budget is spent: coming again within minutes does not help.

    `reason` is what an excerpt in its place says: "budget", or "budget_unreachable" when the account could
    not be asked and nothing was set aside here.
    """

    fault = Fault.CLIENT
    code = "insufficient_quota"

    def __init__(self, message: str, *, reason: str = "budget", detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.reason = reason


class Overloaded(GatewayError):
    """Shed for load: a bounded queue is full."""

    retryable = True
    code = "overloaded"


class Draining(GatewayError):
    """This process finishes what it has and accepts no more."""

    retryable = True
    code = "draining"


class UpstreamTimeout(GatewayError):
    """An upstream did not answer in time."""

    fault = Fault.UPSTREAM
    retryable = True
    code = "upstream_timeout"


class UpstreamUnavailable(GatewayError):
    """Not reached, broken off, or answered 5xx."""

    fault = Fault.UPSTREAM
    retryable = True
    code = "upstream_unavailable"


class UpstreamThrottled(UpstreamUnavailable):
    """Our account is over its rate there (429); `retry_after_s` when it said for how long."""

    code = "upstream_throttled"


class CircuitOpen(UpstreamUnavailable):
    """Its breaker is open: nothing was sent; `retry_after_s` is when it will be asked again."""

    code = "circuit_open"


class UpstreamRejected(GatewayError):
    """The upstream refused this very request; `status` and `body` are its own, for the caller.

    `reason` says whose mistake it is; without one it follows from `status`.
    """

    fault = Fault.UPSTREAM
    code = "upstream_rejected"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        body: bytes = b"",
        reason: Refusal | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message, detail=detail)
        self.status, self.body = status, body
        self.reason = reason if reason is not None else _reason_of(status)
        if self.is_callers:
            self.fault = Fault.CLIENT
        if self.reason is Refusal.CONTEXT:
            self.code = ContextTooLong.code
        elif self.reason is Refusal.CONTENT:
            self.code = "content_filter"

    @property
    def is_callers(self) -> bool:
        """It is about what the caller sent: told in the upstream's own words, held against no upstream."""
        return self.reason in (Refusal.REQUEST, Refusal.CONTENT, Refusal.CONTEXT)


def _reason_of(status: int) -> Refusal:
    if status in (400, 413, 422):
        return Refusal.REQUEST
    return Refusal.ACCOUNT if status in (401, 402, 403) else Refusal.SETUP


class UpstreamProtocolError(GatewayError):
    """An answer that is not in the provider's dialect: an HTML page, bad JSON, a cut stream."""

    fault = Fault.UPSTREAM
    retryable = True
    code = "upstream_protocol_error"


class RetrievalUnavailable(GatewayError):
    """No replica of the index answered."""

    fault = Fault.UPSTREAM
    retryable = True
    code = "retrieval_unavailable"


class ReplicaBehind(RetrievalUnavailable):
    """No replica that can be asked has what the caller's floor or staleness bound wants."""

    code = "replica_behind"


class HomeUnavailable(GatewayError):
    """The log of the index's home region takes no writes now; this one was certainly not taken."""

    fault = Fault.UPSTREAM
    retryable = True
    code = "home_unavailable"


class WriteOutcomeUnknown(GatewayError):
    """The home's log was asked, and its answer is lost: the write may be there, or may yet be.

    Not for us to try again: a repeated write would undo what others wrote in between.
    """

    fault = Fault.UPSTREAM
    code = "write_outcome_unknown"


class AnswerUnavailable(GatewayError):
    """Every path to an answer failed, and an excerpt cannot satisfy this caller."""

    fault = Fault.UPSTREAM
    retryable = True
    code = "llm_unavailable"


class DeadlineExceeded(GatewayError):
    """The request's own deadline passed."""

    retryable = True
    code = "deadline_exceeded"
