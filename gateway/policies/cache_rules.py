"""What may be kept, and when what was kept may be given out. Pure.

An answer is kept with the position that its retrieval surely held (`CachedAnswer.lsn`), within a generation
of its namespace: the home's epoch and stream, or the index's incarnation. It is

    fresh    as long as the namespace has not changed since, by what a reader would be told now;
    stale    within `max_staleness_s` of when it was last seen fresh, never below the caller's floor;
    not given out otherwise, nor when it is older than the tenant's or the caller's age, nor ever when its
    generation is over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.allowances import CacheRules
from gateway.cache_control import CacheControl
from gateway.cached_answer import CachedAnswer
from gateway.messages import AnswerFacts, ChatEvent, ChatRequest, RagMode
from gateway.policies.backoff import Rng
from gateway.routes import SNIPPETS
from regions.names import RegionId
from regions.positions import NO_LSN, Lsn

NOT_KEPT: Final = ("tools", "functions", "web_search_options", "audio")
"""Fields of a request whose answer is an act, or draws on what no key can name."""
_KEPT_FINISHES: Final = frozenset({"stop", "length"})
_NOTHING: Final = frozenset({b"null", b"[]", b"{}"})


class Bypass(StrEnum):
    """Why a request has nothing to do with the cache."""

    ASKED = "asked"  # cache-control: no-store
    RULES = "rules"  # the tenant's: not enabled
    PROXY = "proxy"  # no retrieval, and the tenant did not say that its model's answers may be kept
    TOOLS = "tools"
    EXCERPT = "excerpt"  # no model is asked: nothing to save
    UNKEYABLE = "unkeyable"


class Verdict(StrEnum):
    """What becomes of a kept answer that was found."""

    FRESH = "fresh"
    STALE = "stale"
    TOO_OLD = "too_old"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a namespace stands, as a read would be told now.

    It has not changed after `unchanged_since`. `lsn` is the position a reader would get, at `region`, and
    `staleness_s` how old that may be (None: not judged).
    """

    generation: str
    unchanged_since: Lsn
    region: RegionId
    lsn: Lsn | None = None
    staleness_s: float | None = None


NOWHERE: Final = Position("", NO_LSN, RegionId(""))
"""Of an answer without retrieval: no change of a namespace concerns it."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What a caller accepts. `max_staleness_s`: of the tenant's rules and its own header the less."""

    max_age_s: float
    max_staleness_s: float
    floor: Lsn = NO_LSN


def bypass(request: ChatRequest, rules: CacheRules, control: CacheControl) -> Bypass | None:
    """Why the cache stays out of it; None when it does not."""
    if control.no_store:
        return Bypass.ASKED
    if not rules.enabled:
        return Bypass.RULES
    if request.mode is RagMode.SNIPPETS or request.model == SNIPPETS:
        return Bypass.EXCERPT
    if any(bytes(request.fields.get(name, b"null")) not in _NOTHING for name in NOT_KEPT):
        return Bypass.TOOLS
    if not is_retrieving(request) and not rules.proxy:
        return Bypass.PROXY
    return None


def is_retrieving(request: ChatRequest) -> bool:
    return request.mode is not RagMode.OFF and bool(request.question)


def reader(rules: CacheRules, control: CacheControl, max_staleness_s: float | None, floor: Lsn) -> Reader:
    """`max_staleness_s` and `floor` are the caller's own."""
    allowed_s = rules.max_staleness_s
    if max_staleness_s is not None:
        allowed_s = min(allowed_s, max_staleness_s)
    return Reader(min(rules.ttl_s, control.max_age_s), allowed_s, floor)


def judge(
    answer: CachedAnswer, position: Position | None, reader_: Reader, *, now_s: float, seen_fresh_s: float
) -> Verdict:
    """Whether a kept answer may be given out. `position`: None when nobody can say where it stands.

    `now_s` and `seen_fresh_s`, when it was last found to be fresh, are Unix seconds.
    """
    age_s = max(0.0, now_s - answer.made_s)
    if age_s > min(reader_.max_age_s, answer.ttl_s):
        return Verdict.TOO_OLD
    if position is not None:
        if answer.generation != position.generation:
            return Verdict.CHANGED
        if answer.lsn >= position.unchanged_since:
            return Verdict.FRESH
    # A floor of an epoch that ended, or of a namespace nobody can judge, is not compared with numbers.
    has_floor = reader_.floor == NO_LSN or (position is not None and answer.lsn >= reader_.floor)
    is_recent = now_s - max(seen_fresh_s, answer.made_s) <= reader_.max_staleness_s
    return Verdict.STALE if reader_.max_staleness_s > 0 and has_floor and is_recent else Verdict.CHANGED


def may_keep(events: Sequence[ChatEvent], facts: AnswerFacts, *, is_retrieved: bool) -> bool:
    """Whether a complete answer may be kept: whole, by a model, from passages that were not too stale."""
    if facts.degraded is not None or facts.usage is None or any(event.has_tool_call for event in events):
        return False
    finishes = {
        choice.get("finish_reason") for event in events for choice in event.chunk.get("choices") or ()
    } - {None}
    if not finishes or not finishes <= _KEPT_FINISHES:
        return False
    return not is_retrieved or (facts.source is not None and not facts.source.is_stale)


def kept_for_s(ttl_s: float, jitter_ratio: float, rng: Rng) -> float:
    """How long an answer is kept: up to `jitter_ratio` less than the rule, so that not all end at once."""
    return ttl_s * (1.0 - rng.uniform(0.0, jitter_ratio))
