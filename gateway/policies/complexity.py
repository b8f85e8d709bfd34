"""Which tier of a route a request begins with, from the caller's hint or from its own shape. Pure."""

from typing import Final

from gateway.messages import ChatRequest, Complexity
from gateway.routes import Tier

SIMPLE_TOKENS: Final = 4_000
"""Of a prompt, its passages included: eight passages of the usual size and a question."""
SIMPLE_TURNS: Final = 4
"""A question, an answer, a question; and a system prompt."""
SIMPLE_ANSWER_TOKENS: Final = 1_024
SIMPLE_QUESTION_CHARS: Final = 400
_DEMANDING: Final = ("tools", "functions", "response_format", "reasoning_effort", "logprobs", "modalities")

_TIERS: Final = {
    Complexity.ECONOMY: Tier.CHEAPER,
    Complexity.STANDARD: Tier.EQUAL,
    Complexity.LONG_CONTEXT: Tier.LONGER,
}


def first_tier(hint: str, request: ChatRequest, prompt_tokens: int, window_tokens: int) -> Tier:
    """The tier to begin with. `hint` is one of `Complexity`, or "" for none, which means `standard`.

    `prompt_tokens` counts conversation and passages; `window_tokens` is the widest window among the
    equals. Only `auto` looks at them.
    """
    if hint != Complexity.AUTO:
        return _TIERS[Complexity(hint)] if hint else Tier.EQUAL
    if prompt_tokens + (request.max_answer_tokens or 0) > window_tokens:
        return Tier.LONGER
    return Tier.CHEAPER if _is_simple(request, prompt_tokens) else Tier.EQUAL


def _is_simple(request: ChatRequest, prompt_tokens: int) -> bool:
    """Whether a small model does as well: a short question, over few passages, for an answer in prose."""
    return (
        prompt_tokens <= SIMPLE_TOKENS
        and len(request.turns) <= SIMPLE_TURNS
        and len(request.question) <= SIMPLE_QUESTION_CHARS
        and (request.max_answer_tokens or 0) <= SIMPLE_ANSWER_TOKENS
        and request.choices == 1
        and not any(name in request.fields for name in _DEMANDING)
    )
