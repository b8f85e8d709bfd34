"""What models cost and hold: prices, context windows. Pure.

Prices are USD per million tokens. A model that is routed but priced nowhere stops the start-up: an
unknown price must never be counted as 0.
"""

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from gateway.messages import Usage


class ModelCard(BaseModel):
    """A model's price and window."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_usd: float = Field(ge=0, description="USD per million input tokens.")
    output_usd: float = Field(ge=0, description="USD per million output tokens.")
    cached_input_usd: float | None = Field(
        None, ge=0, description="USD per million input tokens the provider had cached; by default input_usd."
    )
    window_tokens: int = Field(ge=256, description="Context window: prompt and answer together.")


SEED_MODELS: Final[Mapping[str, ModelCard]] = {
    "deepseek-v4-flash": ModelCard(input_usd=0.27, output_usd=1.10, window_tokens=128_000),
    "deepseek-v4-pro": ModelCard(input_usd=0.55, output_usd=2.20, window_tokens=200_000),
    "qwen3-32b": ModelCard(input_usd=0.30, output_usd=1.20, window_tokens=32_000),
    "glm-4-plus": ModelCard(input_usd=0.20, output_usd=0.80, window_tokens=128_000),
    "gpt-4o": ModelCard(input_usd=2.50, output_usd=10.00, window_tokens=128_000),
}


def cost_usd(card: ModelCard, usage: Usage) -> float:
    """What an answer cost. Cached input is a part of the input and billed at its own price."""
    cached = min(usage.cached_tokens, usage.input_tokens)
    cached_usd = card.input_usd if card.cached_input_usd is None else card.cached_input_usd
    total = (usage.input_tokens - cached) * card.input_usd + cached * cached_usd
    return (total + usage.output_tokens * card.output_usd) / 1_000_000
