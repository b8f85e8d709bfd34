"""Our own scenarios: failure modes that other gateways shipped, each with the number it has in our list.

1 a truncated stream shown as success          9 retry amplification
2 an error event in a 200, before content      10 Retry-After ignored, a cooldown shortened
3 empty chunks sent on before content          11 a caller's timeout opens a breaker, a 402 does not
4 a continuation stitched on                   12 a client that left, an upstream that runs on
5 keep-alive bytes reset a timer               13 a partial stream that nobody bills
6 one timer for everything                     14 the fallback's answer under the primary's name
7 a drip that beats the idle timer             15 cached tokens lost, the cost 4 times off
8 an idle cut before the first token           16 an unknown price counted as nothing
25 a drain shorter than a stream               26 an HTML page with status 200
"""

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.config import GatewayConfig
from gateway.config_checks import cross_check
from tests.faults.llm import acts
from tests.faults.llm.caller import Ending, Outcome
from tests.faults.llm.published import STREAMED, WELL
from tests.faults.llm.rig import FALLBACK, FIRST_CONTENT_S, GAP_S, PRIMARY, Rig, Setup, until
from tests.faults.llm.scenarios import Played, Scenario
from tests.faults.llm.verdicts import (
    Check,
    Mode,
    fact,
    fallback,
    has_usage,
    primary,
    released_within,
    reports,
    resent_whole,
    within,
)
from tests.faults.llm.wall import Act, Call

CALLERS: Final = 50
RELEASED_S: Final = 1.0
"""How long an upstream may go on after its caller left."""


def clean_error(outcome: Outcome) -> bool:
    """Any error of the dialect: where nobody can answer, that is the best there is."""
    return outcome.ending is Ending.ERROR and not outcome.has_done


def as_filtered(outcome: Outcome) -> bool:
    """What the provider let through, and its own reason for the end."""
    begun = " ".join(acts.WORDS[:10])
    return outcome.ending is Ending.SUCCESS and (outcome.text, outcome.finish) == (begun, "content_filter")


async def spent_deadline(rig: Rig) -> Played:
    return [await rig.ask(headers={"x-meridian-deadline-ms": "1500"})], {}


async def crowd(rig: Rig) -> Played:
    """Many callers at the same moment."""
    outcomes = await asyncio.gather(*(rig.ask() for _ in range(CALLERS)))
    return outcomes, {"attempts": len(rig.primary.attempts) + len(rig.fallback.attempts)}


def late_refusal(delay_s: float) -> Act:
    async def act(call: Call) -> None:
        await asyncio.sleep(delay_s)
        await acts.refuse(503)(call)

    return act


async def cooling(rig: Rig) -> Played:
    """One caller is told to wait, another's call fails soon after; then callers come all the time."""
    outcomes = list(await asyncio.gather(rig.ask(), rig.ask()))
    told_ms = rig.primary.attempts[0].at_ms
    while rig.wall.now_ms() < told_ms + 2_600:
        outcomes.append(await rig.ask())
        await asyncio.sleep(0.15)
    early = [a for a in rig.primary.attempts[2:] if a.at_ms < told_ms + 1_800]
    return outcomes, {
        "primary attempts while it wanted peace": len(early),
        "primary asked again": len(rig.primary.attempts) > 2,
    }


async def hasty_callers(rig: Rig) -> Played:
    """Callers whose own deadlines are too short for a primary that is as quick as ever."""
    hasty = [rig.ask(headers={"x-meridian-deadline-ms": "200"}) for _ in range(8)]
    ended = await asyncio.gather(*hasty)
    outcome = await rig.ask()
    return [outcome], {
        "hasty callers told so": all(clean_error(o) for o in ended),
        "served by": outcome.model,
    }


async def two_calls(rig: Rig) -> Played:
    return [await rig.ask(), await rig.ask()], {}


async def leave(rig: Rig) -> Played:
    """A caller leaves after 0.3 s; the next one is answered as ever."""
    left = await rig.ask(max_s=0.3)
    left_ms = left.began_ms + left.wall_s * 1000
    first = rig.primary.attempts[0]
    released = await until(lambda: first.left_ms is not None, RELEASED_S + 0.5)
    after_s = (first.left_ms - left_ms) / 1000 if released and first.left_ms is not None else None
    billed_usd = await rig.metric("meridian_cost_usd_total", model="tested")
    outcome = await rig.ask()
    return [outcome], {
        "upstream released after (s)": None if after_s is None else max(0.0, round(after_s, 3)),
        "billed for what was used (USD)": billed_usd,
        "served by": outcome.model,
    }


async def billed(rig: Rig) -> Played:
    """One call, and what it added to the bill."""
    outcome = await rig.ask()
    await until_ended(rig)
    return [outcome], {"billed (USD)": await rig.metric("meridian_cost_usd_total", model="tested")}


async def until_ended(rig: Rig) -> None:
    """A request is counted after its last byte: wait until it is."""
    for _ in range(500):
        if not await rig.metric("meridian_in_flight"):
            return
        await asyncio.sleep(0.01)


async def unpriced(rig: Rig) -> Played:
    """A configuration that routes to a model without a price is refused, with the field's name."""
    config = {
        "region": "us-east",
        "tenants": {"pepper": "file:pepper"},
        "models": {"m": {"upstreams": [{"kind": "openai", "base_url": "http://x/v1", "model": "new"}]}},
    }
    problems = [p.path for p in cross_check(GatewayConfig.model_validate(config))]
    return [await rig.ask()], {"start-up refused": problems == ["models.m.upstreams.0.model"]}


async def draining(rig: Rig) -> Played:
    """The gateway is told to stop in the middle of an answer."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(rig.ask())
        await until(lambda: bool(rig.primary.attempts), 5)
        rig.gateway.stop.set()
        outcome = await asking
    return [outcome], {}


def about(wanted: float) -> Callable[[float], bool]:
    return lambda found: abs(found - wanted) < wanted / 1000


DEEPSEEK_USAGE: Final = {
    "prompt_tokens": 1000,
    "completion_tokens": 60,
    "total_tokens": 1060,
    "prompt_cache_hit_tokens": 900,
    "prompt_cache_miss_tokens": 100,
}
CARD: Final = {"input_usd": 1.0, "output_usd": 2.0, "cached_input_usd": 0.1, "window_tokens": 128_000}
SLOW: Final = acts.well(first_s=0.5)
COMMENTED: Final = Check("comments kept the caller's line warm", lambda run: run.last.comments >= 2)
NO_RESCUE_NEEDED: Final = (primary(1, 1), fallback(0, 0))

OWN: Final = (
    Scenario(
        "F01a",
        "HTTP ends well, no finish_reason",
        Setup((acts.end_early(40),)),
        [within(3)],
        modes=STREAMED,
    ),
    Scenario(
        "F01b",
        "[DONE] without finish_reason",
        Setup((acts.end_early(40, done=True),)),
        [within(3)],
        modes=STREAMED,
    ),
    Scenario("F02a", "error event before content", Setup((acts.error_event(),)), [within(3)], modes=STREAMED),
    Scenario(
        "F02b", "error event after content", Setup((acts.error_event(20),)), [within(3)], modes=STREAMED
    ),
    Scenario("F03", "role and empty chunks, then reset", Setup((acts.role_then_reset,)), modes=STREAMED),
    Scenario(
        "F04",
        "every upstream breaks after content",
        Setup((acts.cut(40),), fallback=(acts.unless_prefilled(acts.cut(20)),)),
        [within(4), resent_whole(), primary(at_most=3)],
        ideal=clean_error,
        modes=STREAMED,
    ),
    Scenario(
        "F05a",
        "keep-alive comments for ever",
        Setup((acts.comments,)),
        [within(3 * FIRST_CONTENT_S), released_within(RELEASED_S)],
        modes=STREAMED,
    ),
    Scenario(
        "F05b",
        "empty and metadata chunks for ever",
        Setup((acts.empty_events,)),
        [within(3 * FIRST_CONTENT_S), released_within(RELEASED_S)],
        modes=STREAMED,
    ),
    Scenario(
        "F05c",
        "stall hidden behind comments",
        Setup((acts.stall_with_comments(20),)),
        [within(3 * GAP_S + 1), released_within(RELEASED_S)],
        modes=STREAMED,
    ),
    Scenario(
        "F06",
        "slow and steady beyond every gap",
        Setup((acts.well(gap_s=0.03),), timers={"min_tokens_per_s": 3}),
        NO_RESCUE_NEEDED,
        modes=STREAMED,
    ),
    Scenario(
        "F07",
        "drip below the least rate",
        Setup((acts.drip(0.2),)),
        [within(5), released_within(RELEASED_S)],
        modes=STREAMED,
    ),
    Scenario(
        "F08",
        "long wait for the first token",
        Setup((acts.well(first_s=1.5),), server={"keepalive_s": 0.2}, timers={"first_content_s": 5}),
        [COMMENTED, *NO_RESCUE_NEEDED],
        modes=STREAMED,
    ),
    Scenario(
        "F09a",
        f"{CALLERS} callers, every upstream dead",
        Setup((acts.refuse(503),), fallback=(acts.refuse(503),)),
        [fact("attempts", lambda n: n <= 60), within(3)],
        ideal=clean_error,
        play=crowd,
        modes=(Mode.LIVE, Mode.JSON),
    ),
    Scenario(
        "F09b",
        f"{CALLERS} callers, primary dead",
        Setup((acts.refuse(503),)),
        [primary(at_most=60), within(5)],
        play=crowd,
        modes=(Mode.LIVE, Mode.JSON),
    ),
    Scenario(
        "F10",
        "Retry-After outlasts later failures",
        Setup((acts.refuse(429, "rate_limit_exceeded", Retry_After="2"), late_refusal(0.3), WELL)),
        [fact("primary attempts while it wanted peace", lambda n: n == 0), fact("primary asked again", bool)],
        play=cooling,
        modes=STREAMED,
    ),
    Scenario(
        "F11a",
        "callers' own deadlines pass",
        Setup((SLOW,), fallback=(SLOW,), timers={"first_content_s": 3}),
        [fact("hasty callers told so", bool), fact("served by", lambda model: model == PRIMARY)],
        play=hasty_callers,
    ),
    Scenario("F11b", "402: the account is out", Setup((acts.refuse(402),)), [primary(1, 1)], play=two_calls),
    Scenario(
        "F11c",
        "429 insufficient_quota: the same",
        Setup((acts.refuse(429, "insufficient_quota"),)),
        [primary(1, 1)],
        play=two_calls,
    ),
    Scenario(
        "F12a",
        "caller leaves before the first token",
        Setup((acts.silence, WELL), timers={"first_content_s": 5}),
        [
            fact("upstream released after (s)", lambda s: s is not None and s <= RELEASED_S),
            fact("served by", lambda model: model == PRIMARY),
        ],
        play=leave,
    ),
    Scenario(
        "F12b",
        "caller leaves after the first token",
        Setup((acts.stall(20), WELL), timers={"gap_s": 5, "min_tokens_per_s": 0}),
        [
            fact("upstream released after (s)", lambda s: s is not None and s <= RELEASED_S),
            fact("served by", lambda model: model == PRIMARY),
            fact("billed for what was used (USD)", lambda usd: usd > 0),
        ],
        play=leave,
        modes=STREAMED,
    ),
    Scenario(
        "F13",
        "a broken stream's tokens are billed",
        Setup((acts.stall(20),)),
        [fact("billed (USD)", lambda usd: usd > 0)],
        play=billed,
        modes=(Mode.LIVE,),
    ),
    Scenario(
        "F14",
        "the fallback's answer, name and price",
        Setup((acts.refuse(503),)),
        [
            reports(FALLBACK),
            has_usage(),
            Check("header names the fallback", lambda r: r.last.headers.get("x-meridian-model") == FALLBACK),
            fact("billed (USD)", about((100 * 0.20 + 60 * 0.80) / 1e6)),
        ],
        play=billed,
    ),
    Scenario(
        "F15",
        "cached tokens at their own price",
        Setup((acts.well(usage=DEEPSEEK_USAGE),), catalogue={PRIMARY: CARD}),
        [fact("billed (USD)", about((100 * 1.0 + 900 * 0.1 + 60 * 2.0) / 1e6)), *NO_RESCUE_NEEDED],
        play=billed,
    ),
    Scenario(
        "F16",
        "a model without a price",
        Setup((WELL,)),
        [fact("start-up refused", bool)],
        play=unpriced,
        modes=(Mode.LIVE,),
    ),
    Scenario(
        "F17",
        "nobody answers before the deadline",
        Setup((acts.comments,), fallback=(acts.comments,), timers={"first_content_s": 5}),
        [within(1.9), released_within(RELEASED_S)],
        ideal=clean_error,
        play=spent_deadline,
        modes=STREAMED,
    ),
    Scenario(
        "F18",
        "x-should-retry: false",
        Setup((acts.refuse(503, x_should_retry="false"), WELL)),
        [primary(1, 1), fallback(1, 1)],
    ),
    Scenario(
        "F19",
        "filtered in the middle of an answer",
        Setup((acts.filtered,)),
        NO_RESCUE_NEEDED,
        ideal=as_filtered,
        modes=STREAMED,
    ),
    Scenario(
        "F20",
        "no [DONE], and the line stays open",
        Setup((acts.no_done_and_open,)),
        [within(3 * GAP_S), *NO_RESCUE_NEEDED],
        modes=STREAMED,
    ),
    Scenario(
        "F21",
        "a pooled connection is gone",
        Setup((WELL, acts.reset, WELL)),
        [within(3)],
        play=two_calls,
    ),
    Scenario(
        "F25",
        "told to stop in mid-answer",
        Setup((acts.well(gap_s=0.01),), server={"drain_s": 4}),
        NO_RESCUE_NEEDED,
        play=draining,
        modes=STREAMED,
        survives=False,
    ),
    Scenario("F26a", "an HTML page with status 200", Setup((acts.html,)), [within(3)]),
    Scenario("F26b", "the same, called a stream", Setup((acts.html_as_stream,)), [within(3)]),
)
