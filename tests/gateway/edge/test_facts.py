from typing import Any

import msgspec

from gateway.context import RequestContext, Trail
from gateway.edge import facts
from gateway.errors import BadRequest, UpstreamRejected, UpstreamThrottled
from gateway.messages import AnswerFacts, Degraded, Source, Usage
from gateway.tenants import Tenant
from regions.names import RegionId
from regions.positions import Epoch, make_lsn

UPSTREAM = "big/0"


def context(attempts: int = 0) -> RequestContext:
    trail = Trail()
    for _ in range(attempts):
        trail.note("attempt", 0.0, upstream=UPSTREAM, model="gpt-4o", outcome="upstream_unavailable")
    tenant = Tenant(id="tenant0000000001", name="One")
    return RequestContext("mine-7", tenant, "openai", 100.0, 160.0, lambda: 101.5, trail)


def answer(**more: Any) -> AnswerFacts:
    return AnswerFacts(route="big", model="gpt-4o", **more)


def test_an_answer_tells_how_many_upstreams_were_asked_and_none_of_their_names() -> None:
    told = facts.fields("us-east", context(attempts=3), answer())
    assert told["meridian"]["attempts"] == 3
    assert UPSTREAM.encode() not in msgspec.json.encode(told)


def test_the_object_tells_what_headers_would_have_told_too() -> None:
    source = Source(RegionId("eu-west"), make_lsn(Epoch(1), 7), staleness_s=0.0121)
    degraded = Degraded("snippets", "deadline")
    described = answer(source=source, degraded=degraded, usage=Usage(10, 2), ttft_s=0.25)
    headers = facts.headers(described)
    told = facts.fields("us-east", context(), described)
    assert headers["x-meridian-model"] == told["meridian"]["model"] == "gpt-4o"
    assert headers["x-meridian-replica"] == told["meridian"]["replica"] == "eu-west"
    assert headers["x-meridian-lsn"] == str(told["meridian"]["lsn"])
    assert headers["x-meridian-staleness-ms"] == str(told["meridian"]["staleness_ms"]) == "13"
    assert headers["x-meridian-degraded"] == "snippets; reason=deadline"
    assert told["degraded"] == {"kind": "snippets", "reason": "deadline"}
    assert (told["meridian"]["ttft_ms"], told["meridian"]["total_ms"]) == (250.0, 1500.0)


def test_a_failure_inside_a_stream_says_whether_and_when_to_come_again() -> None:
    throttled = UpstreamThrottled("busy", retry_after_s=2.5, detail="account acme-7")
    told = facts.failed("us-east", context(attempts=2), throttled)
    assert told["error"]["code"] == "upstream_throttled"
    assert told["meridian"] == {
        "request_id": "mine-7",
        "region": "us-east",
        "attempts": 2,
        "should_retry": True,
        "retry_after_ms": 2500,
    }
    assert b"acme-7" not in msgspec.json.encode(told)
    assert facts.failed("us-east", context(), BadRequest("no"))["meridian"]["should_retry"] is False


def test_a_callers_mistake_is_told_in_the_upstreams_words_and_our_own_is_not() -> None:
    body = b'{"error": {"message": "bad key sk-123"}}'
    callers = UpstreamRejected("answered 400", status=400, body=body)
    ours = UpstreamRejected("answered 401", status=401, body=body)
    assert facts.failed("us-east", context(), callers)["error"] == {"message": "bad key sk-123"}
    assert b"sk-123" not in msgspec.json.encode(facts.failed("us-east", context(), ours))


def test_the_note_holds_what_the_observer_counts() -> None:
    ctx = context()
    facts.leave_note(ctx, answer(usage=Usage(10, 2), cost_usd=0.5))
    note = ctx.trail.last("answer")
    assert (note["input_tokens"], note["output_tokens"], note["cost_usd"]) == (10, 2, 0.5)
