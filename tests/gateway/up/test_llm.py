import pytest

from gateway.up.llm import LlmWish, choose
from gateway.up.problems import CommandFailed

ENDPOINT = {
    "MERIDIAN_LLM_BASE_URL": "https://llm.example.com/v1/",
    "MERIDIAN_LLM_API_KEY": "k",
    "MERIDIAN_LLM_MODEL": "deepseek-v4-flash",
}


def test_without_an_endpoint_answers_are_excerpts() -> None:
    assert choose(LlmWish.AUTO, {}, 1).upstreams == ()
    assert choose(LlmWish.NONE, ENDPOINT, 1).upstreams == ()


def test_the_environments_endpoint_is_used_and_its_key_stays_a_reference() -> None:
    (upstream,) = choose(LlmWish.AUTO, ENDPOINT, 1).upstreams
    assert upstream["base_url"] == "https://llm.example.com/v1"
    assert upstream["api_key"] == "env:MERIDIAN_LLM_API_KEY"


def test_half_an_endpoint_is_refused_naming_the_other_half() -> None:
    with pytest.raises(CommandFailed, match="MERIDIAN_LLM_API_KEY, MERIDIAN_LLM_MODEL"):
        choose(LlmWish.AUTO, {"MERIDIAN_LLM_BASE_URL": "https://x"}, 1)


def test_an_unknown_price_is_refused_and_never_counted_as_nothing() -> None:
    env = {**ENDPOINT, "MERIDIAN_LLM_MODEL": "brand-new"}
    with pytest.raises(CommandFailed, match="no price is known"):
        choose(LlmWish.AUTO, env, 1)
    with pytest.raises(CommandFailed, match="MERIDIAN_LLM_OUTPUT_USD must be a number"):
        choose(LlmWish.AUTO, {**env, "MERIDIAN_LLM_INPUT_USD": "0.1"}, 1)
    priced = {**env, "MERIDIAN_LLM_INPUT_USD": "0.1", "MERIDIAN_LLM_OUTPUT_USD": "0.2"}
    assert choose(LlmWish.AUTO, priced, 1).cards["brand-new"]["output_usd"] == 0.2
