"""Metering: what one attempt used, cost and came to, told to everyone whom it concerns, once.

The trail gets a note (the receipt), the breaker and the health of the upstream learn of it, and the answer's
facts get usage and cost. An attempt that failed is no completion and its tokens are counted as nobody's
answer; but what it had sent of one was made and will be billed by the provider, so its cost is kept, and
written down before its caller gets the answer's end.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final

from gateway.billing import Bill
from gateway.catalogue import NANO, cost_nano_usd, cost_usd
from gateway.context import ATTEMPT, RequestContext
from gateway.errors import DeadlineExceeded, GatewayError
from gateway.messages import AnswerFacts, ChatEvent, Usage
from gateway.policies import tokens
from gateway.policies.breaker import Permit
from gateway.policies.failures import WELL, FailureClass, classify
from gateway.policies.health import Health
from gateway.spans import ChatSpan
from gateway.stages.base import UpstreamCall
from gateway.wire.rate_limits import RateLimits

CHARS_A_TOKEN: Final = 4
"""By the rule of thumb, when nobody has the time to count."""

Record = Callable[[Bill], None]
"""Writes down what an attempt came to, so that it is there after a kill -9."""


def spent_usd(ctx: RequestContext) -> float:
    """What the attempts that have ended cost so far."""
    return math.fsum(note.details["cost_usd"] for note in ctx.trail.notes if note.name == ATTEMPT)


class Metering:
    """One attempt's meter. `facts` are those of its answer; its cost includes attempts that failed before."""

    def __init__(
        self,
        ctx: RequestContext,
        call: UpstreamCall,
        permit: Permit,
        health: Health,
        record: Record | None = None,
    ) -> None:
        self._ctx, self._call, self._permit, self._health = ctx, call, permit, health
        self._record = record
        self._started_s = ctx.clock()
        self._before_usd = spent_usd(ctx)
        self._text: list[str] = []
        self._opened_s = self._last_content_s = 0.0
        self._error: BaseException | None = None
        self._is_blamed = True
        self._is_finished = self._is_settled = False
        self.span = ChatSpan.begin(call.request.model, call.upstream)
        self.facts = AnswerFacts(
            route=call.request.model, model=call.upstream.model, passages=call.request.passages
        )

    def opened(self, limits: RateLimits | None) -> None:
        """The first content came, and what the upstream's rate headers say is left."""
        now_s = self._ctx.clock()
        self.facts.ttft_s = self._ctx.elapsed_s()
        self._opened_s = self._last_content_s = now_s
        if self.span is not None:
            self.span.opened()
        self._ctx.trail.took("llm_first_token", now_s - self._started_s)
        self._health.answered(self._call.upstream, now_s, now_s - self._started_s)
        if limits is not None:
            self._health.told_limits(
                self._call.upstream,
                now_s,
                requests=_pair(limits.remaining_requests, limits.reset_requests_s),
                tokens=_pair(limits.remaining_tokens, limits.reset_tokens_s),
            )

    def count(self, event: ChatEvent) -> None:
        """An event came."""
        if self.span is not None:
            self.span.saw(event)
        if event.usage is not None:
            self._bill(event.usage)
        elif event.is_content:
            self._text.append(event.reasoning + event.content)
            self._last_content_s = self._ctx.clock()

    async def missing_usage(self) -> Usage | None:
        """Our own estimate when the provider did not say, so that usage is always known."""
        if self.facts.usage is not None:
            return None
        usage = await self._estimated()
        self._bill(usage)
        return usage

    def finished(self) -> None:
        """The answer is complete."""
        self._is_finished = True

    def failed(self, error: BaseException, *, is_blamed: bool = True) -> None:
        """It ended so. `is_blamed`: the upstream is to blame, and not our own deadline."""
        if self._error is None:
            self._error, self._is_blamed = error, is_blamed

    async def settle(self) -> None:
        """The attempt is over: count it, once. Without a word before, its caller has left."""
        if self._is_settled:
            return
        self._is_settled = True
        now_s = self._ctx.clock()
        outcome = self._judge(now_s)
        self._ctx.trail.took("llm_total", now_s - self._started_s)
        try:
            if self._text and self.facts.usage is None:
                self._bill(await self._estimated())
        except asyncio.CancelledError:  # its caller has left for good, and owes all the same
            self._bill(self._guessed())
            raise
        finally:
            self._write_down(outcome, round((now_s - self._started_s) * 1000, 1))

    def _write_down(self, outcome: str, ms: float) -> None:
        """The receipt's note, the span, and the ledger's record."""
        call, usage = self._call, self.facts.usage or Usage()
        nano = cost_nano_usd(call.upstream.card, usage)
        if self.span is not None:
            self.span.settled(outcome, usage, nano / NANO)
        details: dict[str, object] = {}
        if isinstance(self._error, GatewayError):
            details["error"] = self._error.message
        if (token_ms := self._token_ms(usage)) is not None:
            details["token_ms"] = token_ms
        self._ctx.note(
            ATTEMPT,
            route=call.request.model,
            upstream=call.upstream.name,
            model=call.upstream.model,
            outcome=outcome,
            ms=ms,
            cost_usd=nano / NANO,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            **details,
        )
        if self._record is not None:
            self._record(
                Bill(
                    tenant=self._ctx.tenant.id,
                    request_id=self._ctx.request_id,
                    model=call.request.model,
                    upstream=call.upstream.name,
                    served=call.upstream.model,
                    outcome=outcome,
                    input_tokens=usage.input_tokens,
                    cached_tokens=min(usage.cached_tokens, usage.input_tokens),
                    output_tokens=usage.output_tokens,
                    nano_usd=nano,
                )
            )

    def _token_ms(self, usage: Usage) -> float | None:
        """From one token to the next, on the mean over the answer; None: it came in one piece."""
        took_s = self._last_content_s - self._opened_s
        if took_s <= 0 or usage.output_tokens < 2:
            return None
        return round(took_s * 1000 / (usage.output_tokens - 1), 3)

    def _judge(self, now_s: float) -> str:
        """Tell breaker and health; how it ended, in one word."""
        upstream, error = self._call.upstream, self._error
        if error is None or not isinstance(error, GatewayError):
            if self._is_finished:
                self._permit.ok(now_s)
                return "ok"
            self._permit.neutral(now_s)
            return "left"
        if isinstance(error, DeadlineExceeded) or not self._is_blamed:
            self._permit.neutral(now_s)
            return "deadline"
        failure = classify(error)
        if failure in WELL:
            self._permit.neutral(now_s)
        else:
            self._permit.fail(now_s, error.retry_after_s)
            self._health.failed(upstream, now_s, error.retry_after_s)
        if failure is FailureClass.THROTTLED:
            self._health.throttled(upstream, now_s, error.retry_after_s)
        elif failure is FailureClass.ACCOUNT:
            self._health.refused_account(upstream, now_s)
        return failure.value

    def _bill(self, usage: Usage) -> None:
        self.facts.usage = usage
        self.facts.cost_usd = self._before_usd + cost_usd(self._call.upstream.card, usage)

    async def _estimated(self) -> Usage:
        text = "".join(self._text)
        turns = self._call.request.turns
        chars = len(text) + (sum(len(t.text) for t in turns) if self._call.prompt_tokens is None else 0)
        if chars > tokens.LONG_TEXT_CHARS:
            return await asyncio.to_thread(self._estimate, text)
        return self._estimate(text)

    def _guessed(self) -> Usage:
        """From lengths alone, at once."""
        prompt = self._call.prompt_tokens
        if prompt is None:
            prompt = sum(len(turn.text) for turn in self._call.request.turns) // CHARS_A_TOKEN
        return Usage(prompt, sum(map(len, self._text)) // CHARS_A_TOKEN)

    def _estimate(self, text: str) -> Usage:
        prompt = self._call.prompt_tokens
        if prompt is None:
            prompt = sum(tokens.count(turn.text) for turn in self._call.request.turns)
        return Usage(input_tokens=prompt, output_tokens=tokens.count(text))


def _pair(remaining: int | None, reset_s: float | None) -> tuple[float, float] | None:
    """What is left and until when; None when either is not told."""
    return None if remaining is None or reset_s is None else (remaining, reset_s)
