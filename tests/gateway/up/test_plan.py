from pathlib import Path

from gateway.config import GatewayConfig, cross_check
from gateway.tenants import TenantsFile, check_tenants, digest_key
from gateway.up import plan
from gateway.up.llm import Llm, LlmWish, choose
from regions.runtime.config_file import validate

REGION = plan.Plan("us-east", Path("/home"), plan.Ports(8401, 9401, 8501, 8601))


def check(llm: Llm) -> GatewayConfig:
    return validate(plan.gateway_config(REGION, llm), GatewayConfig, {}, cross_check, source="up")


def test_what_up_writes_passes_check_config() -> None:
    env = {"MERIDIAN_LLM_BASE_URL": "https://x/v1", "MERIDIAN_LLM_API_KEY": "k", "MERIDIAN_LLM_MODEL": "new"}
    prices = {"MERIDIAN_LLM_INPUT_USD": "1", "MERIDIAN_LLM_OUTPUT_USD": "2"}
    assert check(choose(LlmWish.NONE, {}, 1)).models[plan.MODEL].upstreams == []
    assert check(choose(LlmWish.AUTO, {**env, **prices}, 1)).cards()["new"].output_usd == 2


def test_the_demo_tenants_plain_calls_mean_the_corpus() -> None:
    file = TenantsFile.model_validate(plan.tenants_file(digest_key("key", b"pepper")))
    assert check_tenants(file, check(choose(LlmWish.NONE, {}, 1)).indexes) == []
    assert file.tenants[0].defaults.namespace == plan.NAMESPACE
