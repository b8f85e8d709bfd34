"""What models cost, hold and can do: prices, context windows, capabilities. Pure.

Prices are USD per million tokens. A model that is routed but priced nowhere stops the start-up: an
unknown price must never be counted as 0.

Money is counted in whole nano-USD (billionths of a dollar), rounded half up once for every attempt: integers
add up to the same sum in any order, so that a ledger and its receipts never differ.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from gateway.messages import Usage

NANO: Final = 1_000_000_000
"""Nano-USD in a dollar."""


class Capability(StrEnum):
    """What a model can do beyond answering in text."""

    TOOLS = "tools"
    JSON = "json"
    VISION = "vision"
    REASONING = "reasoning"
    LOGPROBS = "logprobs"


class ModelCard(BaseModel):
    """A model's price, window and capabilities."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_usd: float = Field(ge=0, description="USD per million input tokens.")
    output_usd: float = Field(ge=0, description="USD per million output tokens.")
    cached_input_usd: float | None = Field(
        None, ge=0, description="USD per million input tokens the provider had cached; by default input_usd."
    )
    window_tokens: int = Field(ge=256, description="Context window: prompt and answer together.")
    capabilities: tuple[Capability, ...] = Field(
        (), description="tools, json, vision, reasoning, logprobs; told, not enforced."
    )


_USUAL: Final = (Capability.TOOLS, Capability.JSON)

SEED_MODELS: Final[Mapping[str, ModelCard]] = {
    "deepseek-v4-flash": ModelCard(
        input_usd=0.27, output_usd=1.10, window_tokens=128_000, capabilities=_USUAL
    ),
    "deepseek-v4-pro": ModelCard(input_usd=0.55, output_usd=2.20, window_tokens=200_000, capabilities=_USUAL),
    "qwen3-32b": ModelCard(input_usd=0.30, output_usd=1.20, window_tokens=32_000, capabilities=_USUAL),
    "glm-4-plus": ModelCard(input_usd=0.20, output_usd=0.80, window_tokens=128_000, capabilities=_USUAL),
    "gpt-4o": ModelCard(
        input_usd=2.50,
        output_usd=10.00,
        window_tokens=128_000,
        capabilities=(*_USUAL, Capability.VISION),
    ),
}


def cost_nano_usd(card: ModelCard, usage: Usage) -> int:
    """What an answer cost, in nano-USD, rounded half up.

    Cached input is a part of the input and billed at its own price. Prices count to the millionth of a dollar
    per million tokens, which is a pico-USD a token: the sum before the rounding is exact.
    """
    cached = min(usage.cached_tokens, usage.input_tokens)
    cached_usd = card.input_usd if card.cached_input_usd is None else card.cached_input_usd
    pico = (usage.input_tokens - cached) * _pico(card.input_usd) + cached * _pico(cached_usd)
    return (pico + usage.output_tokens * _pico(card.output_usd) + 500) // 1000


def cost_usd(card: ModelCard, usage: Usage) -> float:
    """The same in USD: the nearest float, which `nano_usd` turns back into the same integer."""
    return cost_nano_usd(card, usage) / NANO


def nano_usd(usd: float) -> int:
    """The nano-USD of a sum of costs; exact for those that are below nine million dollars."""
    return round(usd * NANO)


def _pico(usd_a_million: float) -> int:
    return round(usd_a_million * 1_000_000)
