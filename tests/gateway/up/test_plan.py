from pathlib import Path

import pytest

from gateway.config import GatewayConfig
from gateway.config_checks import cross_check
from gateway.tenants import digest_key
from gateway.tenants_file import TenantsFile, check_tenants
from gateway.up import plan
from gateway.up.llm import Llm, LlmWish, choose
from regions.runtime.config_file import validate
from regions.runtime.relay import HOST

THREE = plan.Plan(Path("/home"), plan.REGIONS, plan.RTT_MS)
US, EU, AP = THREE.places


def check(llm: Llm, place: plan.Place = US) -> GatewayConfig:
    return validate(plan.gateway_config(THREE, place, llm), GatewayConfig, {}, cross_check, source="up")


def test_what_up_writes_passes_check_config() -> None:
    env = {"MERIDIAN_LLM_BASE_URL": "https://x/v1", "MERIDIAN_LLM_API_KEY": "k", "MERIDIAN_LLM_MODEL": "new"}
    prices = {"MERIDIAN_LLM_INPUT_USD": "1", "MERIDIAN_LLM_OUTPUT_USD": "2"}
    for place in THREE.places:
        assert check(choose(LlmWish.NONE, {}, 1), place).models[plan.MODEL].upstreams == []
    assert check(choose(LlmWish.AUTO, {**env, **prices}, 1)).cards()["new"].output_usd == 2


def test_the_demo_tenants_plain_calls_mean_the_corpus() -> None:
    file = TenantsFile.model_validate(plan.tenants_file(digest_key("key", b"pepper")))
    assert check_tenants(file, check(choose(LlmWish.NONE, {}, 1)).indexes) == []
    assert file.tenants[0].defaults.namespace == plan.NAMESPACE


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_two_things_listen_on_one_port(count: int) -> None:
    ports = plan.Plan(Path("/home"), [f"region-{n}" for n in range(count)], {}).ports()
    assert len(set(ports)) == len(ports)


def test_a_region_reaches_its_own_things_directly_and_the_others_through_a_door_of_their_link() -> None:
    assert THREE.log_url(US, US) == f"nats://{HOST}:{US.log_port}"
    assert THREE.replica_url(EU, EU) == EU.replica_url()
    doors = {door.port: door for door in THREE.relay().doors}
    for here in THREE.places:
        for there in (place for place in THREE.places if place != here):
            log = doors[int(THREE.log_url(here, there).rpartition(":")[2])]
            node = doors[int(THREE.replica_url(here, there).split(":")[2].partition("/")[0])]
            assert (log.to_port, node.to_port) == (there.log_port, there.node_port)
            assert log.link == node.link == plan.link(there.region, here.region)


def test_a_link_delays_by_half_the_round_trip() -> None:
    delays = THREE.relay().delays_ms
    assert delays[plan.link("us-east", "ap-southeast")] == 110
    assert sorted(plan.links_of("eu-west", plan.REGIONS)) == ["ap-southeast--eu-west", "eu-west--us-east"]


def test_round_trips_are_one_number_or_one_a_pair() -> None:
    assert set(plan.parse_rtt("0", plan.REGIONS).values()) == {0.0}
    some = plan.parse_rtt("us-east:eu-west=5, eu-west:ap-southeast=7.5", plan.REGIONS)
    assert some == plan.RTT_MS | {
        frozenset(("us-east", "eu-west")): 5,
        frozenset(("eu-west", "ap-southeast")): 7.5,
    }


@pytest.mark.parametrize("text", ["soon", "-1", "20000", "us-east=5", "us-east:mars=5", "us-east:us-east=5"])
def test_round_trips_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"region|outside|float"):
        plan.parse_rtt(text, plan.REGIONS)
