"""Excerpts: they come in the time that is left, however long the passages are."""

from gateway.context import RequestContext
from gateway.data import word_rates
from gateway.errors import DeadlineExceeded, UpstreamTimeout
from gateway.messages import ChatRequest, RagMode
from gateway.policies.snippets import FROM_PASSAGES
from gateway.policies.sparse import SparseEncoder
from gateway.stages.degrade import DegradeToSnippets, readable, reason_of
from gateway.stream import EventStream
from tests.gateway.stages.chains import context, passages, request, text_of


def test_short_passages_are_read_whole_and_long_ones_as_far_as_there_is_time() -> None:
    short, long = passages(8, 10), passages(8, 10_000)
    assert readable(short, 4_000) is short
    cut = readable(long, 4_000)
    assert len(cut) == FROM_PASSAGES
    assert sum(len(passage.text) for passage in cut) <= 4_000
    assert [p.id for p in cut] == [p.id for p in long[:FROM_PASSAGES]]


async def test_an_excerpt_of_megabytes_comes_before_a_deadline_that_is_nearly_spent() -> None:
    async def too_late(_ctx: RequestContext, _request: ChatRequest) -> EventStream:
        raise DeadlineExceeded("too late")

    degrade = DegradeToSnippets(SparseEncoder(word_rates()), lambda: 0.0)
    ctx = context(0.25)
    answered = await degrade(ctx, request(RagMode.AUTO).with_passages(passages(5, 100_000)), too_late)
    assert ctx.clock() < ctx.deadline_s
    assert answered.facts.degraded is not None
    assert answered.facts.degraded.reason == "deadline"
    assert "[1]" in await text_of(answered)


def test_the_reason_is_the_deadline_only_when_that_ran_out() -> None:
    assert reason_of(DeadlineExceeded(""), 1.0) == "deadline"
    assert reason_of(UpstreamTimeout(""), 0.1) == "deadline"
    assert reason_of(UpstreamTimeout(""), 5.0) == "llm_unavailable"
