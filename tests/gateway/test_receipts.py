"""Receipts: what they keep of a request, how many are kept, and what of them a caller gets."""

from gateway.context import ANSWER, ATTEMPT, MAX_NOTES, RequestContext
from gateway.errors import UpstreamUnavailable
from gateway.receipts import Receipts, receipt_of, shown
from gateway.tenants import Tenant

FAILED = {"model": "gpt-4o", "upstream": "one", "outcome": "server_error", "ms": 12.5, "cost_usd": 0.0}
ANSWERED = {"model": "gpt-4o-mini", "upstream": "two", "outcome": "ok", "ms": 80.0, "cost_usd": 0.002}


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def context(request_id: str = "r-1") -> tuple[RequestContext, Clock]:
    clock = Clock()
    tenant = Tenant(id="tenant0000000001", name="first", keys=[])
    return RequestContext(request_id, tenant, "openai", 100.0, 130.0, clock), clock


def test_a_receipt_tells_every_step_when_it_happened_and_the_answer_apart() -> None:
    ctx, clock = context()
    ctx.trail.took("embed", 0.0123)
    clock.now_s += 0.5
    ctx.note("read", region="eu-west", ms=3.1)
    ctx.note(ATTEMPT, **FAILED)
    clock.now_s += 0.5
    ctx.note(ATTEMPT, **ANSWERED)
    ctx.note(ANSWER, model="gpt-4o-mini", cost_usd=0.002)
    clock.now_s += 0.25
    receipt = receipt_of(ctx, "chat", "ok", None, ended_s=1.7e9)
    assert (receipt.request_id, receipt.tenant, receipt.call) == ("r-1", "tenant0000000001", "chat")
    assert (receipt.total_ms, receipt.stages_ms, receipt.ended_s) == (1250.0, {"embed": 12.3}, 1.7e9)
    assert [(step.name, step.at_ms) for step in receipt.steps] == [
        ("read", 500.0),
        (ATTEMPT, 500.0),
        (ATTEMPT, 1000.0),
    ]
    assert receipt.attempts() == [FAILED, ANSWERED]
    assert receipt.last(ATTEMPT) == ANSWERED
    assert receipt.last("parked") == {}
    assert receipt.answer == {"model": "gpt-4o-mini", "cost_usd": 0.002}
    assert receipt.error == receipt.detail == ""


def test_a_failed_requests_receipt_has_the_callers_words_and_ours() -> None:
    ctx, _ = context()
    error = UpstreamUnavailable("the model is not available", detail="one: 500 from 10.0.0.7")
    receipt = receipt_of(ctx, "chat", "upstream_unavailable", error, ended_s=1.0)
    assert (receipt.error, receipt.detail) == ("the model is not available", "one: 500 from 10.0.0.7")


def test_what_a_caller_gets_names_no_upstream_and_no_step_of_ours() -> None:
    ctx, _ = context()
    ctx.trail.took("retrieve", 0.004)
    ctx.note("replica_unavailable", region="eu-west", error="10.0.0.7 is down")
    ctx.note(ATTEMPT, route="big", error="key sk-1 was refused", **FAILED)
    told = shown(ctx)
    assert told == {
        "stages_ms": {"retrieve": 4.0},
        "attempts": [{"model": "gpt-4o", "outcome": "server_error", "ms": 12.5, "cost_usd": 0.0}],
    }


def test_the_last_ones_are_kept_newest_first_and_an_id_means_its_latest_request() -> None:
    receipts = Receipts(kept=3)
    for number, request_id in enumerate(["a", "b", "a", "c", "d"]):
        ctx, _ = context(request_id)
        receipts.add(receipt_of(ctx, "chat", "ok", None, ended_s=float(number)))
    assert [(each.request_id, each.ended_s) for each in receipts.latest(10)] == [("d", 4), ("c", 3), ("a", 2)]
    assert receipts.find("b") is None
    assert [each.request_id for each in receipts.latest(1)] == ["d"]


def test_a_receipt_is_no_longer_than_a_trail() -> None:
    ctx, _ = context()
    for number in range(10 * MAX_NOTES):
        ctx.note("replica_unavailable", region=f"r-{number}")
    assert len(receipt_of(ctx, "query", "ok", None, ended_s=1.0).steps) == MAX_NOTES
