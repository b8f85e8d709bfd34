"""A provider's own list of models: what it says of prices, windows and capabilities. Pure.

OpenAI's `/v1/models` has ids alone; what providers add to it differs, in names and in units:

| who | prices | unit |
|---|---|---|
| OpenRouter and many after it | `pricing.{prompt,completion,input_cache_read}`, strings | USD a token |
| Together | `pricing.{input,output,cached_input}`, numbers | USD a million tokens |
| DeepInfra | `metadata.pricing.{input_tokens,output_tokens,cache_read_tokens}`, numbers | the same |

A price is believed only in one of these shapes. What is told otherwise, asks a price by the request or one
that grows with the prompt, or says 0, is left out with the reason: an unknown price is never counted as 0.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.catalogue import Capability, ModelCard

MAX_MODELS: Final = 5_000
MAX_ID_CHARS: Final = 200
MAX_USD: Final = 10_000.0
"""A million tokens: beyond it the unit is another than it seems."""
_WINDOWS: Final = ("context_length", "context_window", "max_context_length", "max_model_len", "context_size")
_CHAT_TYPES: Final = (None, "chat", "language", "code", "text", "model", "llm", "chat-completion")
_PARAMETERS: Final = {
    "tools": Capability.TOOLS,
    "response_format": Capability.JSON,
    "structured_outputs": Capability.JSON,
    "reasoning": Capability.REASONING,
    "logprobs": Capability.LOGPROBS,
}
_FLAGS: Final = {
    "function_calling": Capability.TOOLS,
    "vision": Capability.VISION,
    "reasoning": Capability.REASONING,
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One model of a list; without a `card`, `why` says what is missing. `window_tokens` is 0 when untold."""

    id: str
    card: ModelCard | None = None
    why: str = ""


class _NoPrice(Exception):
    """Why there is no price to go by."""


def decode_models(body: bytes) -> list[Listed]:
    """Every model of the list, in its order. Raises: ValueError: this is no list of models."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(f"no JSON: {error}") from error
    models = found.get("data") if isinstance(found, Mapping) else found
    if not isinstance(models, Sequence) or isinstance(models, str):
        raise ValueError("no list of models: neither an array nor an object with one under 'data'")
    if len(models) > MAX_MODELS:
        raise ValueError(f"{len(models)} models; more than {MAX_MODELS} are not taken")
    return list(_listed(models))


def _listed(models: Sequence[Any]) -> Iterator[Listed]:
    for model in models:
        if not isinstance(model, Mapping):
            continue
        id_ = model.get("id")
        if not isinstance(id_, str) or not 0 < len(id_) <= MAX_ID_CHARS or not id_.isprintable():
            continue
        try:
            yield Listed(id_, _card(model))
        except _NoPrice as error:
            yield Listed(id_, why=str(error))


def _card(model: Mapping[str, Any]) -> ModelCard:
    """Raises: _NoPrice."""
    if model.get("type") not in _CHAT_TYPES or "text" not in _modalities(model, "output_modalities", "text"):
        raise _NoPrice("answers with something other than text")
    told = [*(model.get(name) for name in _WINDOWS), _of(model, "metadata").get("context_length")]
    window = next((each for each in told if _is_window(each)), None)
    given, cached, made = _prices(model)
    if window is None:
        raise _NoPrice("no context window is told")
    return ModelCard(
        input_usd=given,
        cached_input_usd=cached,
        output_usd=made,
        window_tokens=window,
        capabilities=tuple(_capabilities(model)),
    )


def _prices(model: Mapping[str, Any]) -> tuple[float, float | None, float]:
    """USD a million tokens of input, cached input and output. Raises: _NoPrice."""
    pricing, own = _of(model, "pricing"), _of(_of(model, "metadata"), "pricing")
    kind: type | tuple[type, ...]
    if "prompt" in pricing or "completion" in pricing:
        if any(isinstance(tier, Mapping) for tier in pricing.get("overrides") or ()):
            raise _NoPrice("its price grows with the prompt")
        if _number(pricing.get("request") or 0) != 0:
            raise _NoPrice("asks a price by the request")
        names, unit, kind = ("prompt", "input_cache_read", "completion"), 1_000_000, str
    elif "input" in pricing or "output" in pricing:
        names, unit, kind = ("input", "cached_input", "output"), 1, (int, float)
    elif "input_tokens" in own or "output_tokens" in own:
        pricing, names, unit, kind = (
            own,
            ("input_tokens", "cache_read_tokens", "output_tokens"),
            1,
            (int, float),
        )
    else:
        raise _NoPrice("no price is told")
    if not all(isinstance(pricing.get(name), kind) for name in (names[0], names[2])):
        raise _NoPrice("its prices are in no shape whose unit is known")
    given, made = (_usd(pricing[name], unit) for name in (names[0], names[2]))
    if given == 0 or made == 0:
        raise _NoPrice("a price of 0; if that is meant, say so under catalogue")
    cached = pricing.get(names[1])
    return given, _usd(cached, unit) if isinstance(cached, kind) and _number(cached) > 0 else None, made


def _usd(value: Any, unit: int) -> float:
    """Raises: _NoPrice: no price that a model could have."""
    usd = round(_number(value) * unit, 6)
    if not 0 <= usd <= MAX_USD:
        raise _NoPrice(f"no price could be {value!r}")
    return usd


def _number(value: Any) -> float:
    """NaN, which is no price, for what is no number."""
    try:
        return float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _capabilities(model: Mapping[str, Any]) -> list[Capability]:
    parameters = model.get("supported_parameters")
    told = parameters if isinstance(parameters, list) else []
    found = {can for name, can in _PARAMETERS.items() if name in told}
    flags = _of(model, "capabilities")
    found |= {can for name, can in _FLAGS.items() if flags.get(name) is True}
    if "image" in _modalities(model, "input_modalities", ""):
        found.add(Capability.VISION)
    return sorted(found)


def _modalities(model: Mapping[str, Any], name: str, usual: str) -> Sequence[str]:
    told = _of(model, "architecture").get(name)
    return told if isinstance(told, list) else [usual]


def _of(model: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = model.get(name)
    return found if isinstance(found, Mapping) else {}


def _is_window(value: Any) -> bool:
    return type(value) is int and 256 <= value <= 1_000_000_000
