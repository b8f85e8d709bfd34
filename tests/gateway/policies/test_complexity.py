"""Which tier a request begins with."""

from typing import Any

import msgspec
import pytest

from gateway.messages import ChatRequest, RagOptions, Turn
from gateway.policies.complexity import first_tier
from gateway.routes import Tier


def request(*turns: str, answer_tokens: int | None = None, choices: int = 1, **fields: Any) -> ChatRequest:
    return ChatRequest(
        "m",
        [Turn("user", turn) for turn in turns or ("Who won?",)],
        {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()},
        RagOptions(),
        stream=False,
        include_usage=False,
        choices=choices,
        max_answer_tokens=answer_tokens,
    )


@pytest.mark.parametrize(
    ("hint", "tier"),
    [
        ("", Tier.EQUAL),
        ("standard", Tier.EQUAL),
        ("economy", Tier.CHEAPER),
        ("long_context", Tier.LONGER),
    ],
)
def test_a_hint_is_followed_whatever_the_request_looks_like(hint: str, tier: Tier) -> None:
    assert first_tier(hint, request("long " * 1000), 10**6, 1000) is tier


def test_auto_sends_a_short_question_to_the_cheaper_ones() -> None:
    assert first_tier("auto", request(), 900, 32_000) is Tier.CHEAPER


@pytest.mark.parametrize(
    "demanding",
    [
        request(tools=[{"type": "function"}]),
        request(response_format={"type": "json_object"}),
        request(reasoning_effort="high"),
        request("Explain at length. " * 40),
        request(*["and then?"] * 9),
        request(answer_tokens=4000),
        request(choices=3),
    ],
)
def test_auto_keeps_what_demands_more_with_the_equals(demanding: ChatRequest) -> None:
    assert first_tier("auto", demanding, 900, 32_000) is Tier.EQUAL


def test_auto_counts_the_prompt_and_the_answer_that_is_asked_for() -> None:
    assert first_tier("auto", request(), 8_000, 32_000) is Tier.EQUAL
    assert first_tier("auto", request(), 33_000, 32_000) is Tier.LONGER
    assert first_tier("auto", request(answer_tokens=30_000), 8_000, 32_000) is Tier.LONGER
