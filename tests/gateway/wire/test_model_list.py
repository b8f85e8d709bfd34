"""Lists of models as providers ship them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalogue import Capability
from gateway.wire.model_list import Listed, decode_models

OPENROUTER: dict[str, Any] = {
    "id": "qwen/qwen3-32b",
    "context_length": 40_960,
    "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
    "pricing": {"prompt": "0.00000008", "completion": "0.00000024", "input_cache_read": "0.00000002"},
    "supported_parameters": ["tools", "response_format", "reasoning", "temperature"],
}
TOGETHER: dict[str, Any] = {
    "id": "meta-llama/Llama-3.3-70B",
    "type": "chat",
    "context_length": 131_072,
    "pricing": {"hourly": 0, "input": 0.88, "output": 0.9, "base": 0, "finetune": 0},
}
DEEPINFRA: dict[str, Any] = {
    "id": "deepseek-ai/DeepSeek-V3",
    "metadata": {
        "context_length": 163_840,
        "pricing": {"input_tokens": 0.38, "output_tokens": 0.89, "cache_read_tokens": 0.1},
    },
}


def one(model: dict[str, Any]) -> Listed:
    (listed,) = decode_models(msgspec.json.encode({"object": "list", "data": [model]}))
    return listed


def prices(model: dict[str, Any]) -> tuple[float, float | None, float, int]:
    card = one(model).card
    assert card is not None
    return card.input_usd, card.cached_input_usd, card.output_usd, card.window_tokens


def test_each_shape_is_read_in_its_own_unit() -> None:
    assert prices(OPENROUTER) == (0.08, 0.02, 0.24, 40_960)
    assert prices(TOGETHER) == (0.88, None, 0.9, 131_072)
    assert prices(DEEPINFRA) == (0.38, 0.1, 0.89, 163_840)


def test_a_bare_array_is_a_list_too() -> None:
    assert [each.id for each in decode_models(msgspec.json.encode([TOGETHER]))] == [TOGETHER["id"]]


def test_capabilities_come_from_parameters_flags_and_modalities() -> None:
    card = one(OPENROUTER).card
    assert card is not None
    assert set(card.capabilities) == {
        Capability.TOOLS,
        Capability.JSON,
        Capability.REASONING,
        Capability.VISION,
    }
    card = one({**TOGETHER, "capabilities": {"function_calling": True, "vision": False}}).card
    assert card is not None
    assert card.capabilities == (Capability.TOOLS,)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ({"id": "gpt-4o"}, "no price is told"),
        ({**OPENROUTER, "context_length": None}, "no context window"),
        ({**OPENROUTER, "pricing": {"prompt": "0", "completion": "0"}}, "a price of 0"),
        ({**OPENROUTER, "pricing": {"prompt": "-1", "completion": "-1"}}, "no price could be"),
        ({**OPENROUTER, "pricing": {"prompt": 0.2, "completion": 0.8}}, "no shape whose unit is known"),
        ({**OPENROUTER, "pricing": {"prompt": "0.2", "completion": "0.8"}}, "no price could be"),
        ({**OPENROUTER, "pricing": {"prompt": "nan", "completion": "1e-7"}}, "no price could be"),
        ({**OPENROUTER, "pricing": {"prompt": "0.0000001"}}, "no shape whose unit is known"),
        ({**OPENROUTER, "pricing": {**OPENROUTER["pricing"], "request": "0.005"}}, "by the request"),
        ({**OPENROUTER, "pricing": {**OPENROUTER["pricing"], "overrides": [{}]}}, "grows with the prompt"),
        ({**TOGETHER, "type": "embedding"}, "other than text"),
        ({**TOGETHER, "pricing": {"input": 0, "output": 0}}, "a price of 0"),
        ({**TOGETHER, "pricing": {"input": True, "output": True}}, "no price could be"),
    ],
)
def test_what_has_no_reliable_price_is_listed_with_the_reason(model: dict[str, Any], why: str) -> None:
    listed = one(model)
    assert listed.card is None
    assert why in listed.why


@pytest.mark.parametrize("body", [b"", b"<html>", b"3", b'"x"', b'{"data": 1}', b'{"error": "no"}'])
def test_what_is_no_list_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"no JSON|no list"):
        decode_models(body)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
names = st.sampled_from([*OPENROUTER, *TOGETHER, "metadata", "capabilities"])


@given(st.dictionaries(names, anything, max_size=6))
def test_whatever_a_field_holds_a_model_is_priced_above_0_or_left_out(fields: dict[str, Any]) -> None:
    for listed in decode_models(msgspec.json.encode([{**OPENROUTER, **fields}])):
        assert (listed.card is None) == bool(listed.why)
        if listed.card is not None:
            assert min(listed.card.input_usd, listed.card.output_usd) > 0
