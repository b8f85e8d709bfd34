"""Which version of a record a repair takes."""

from hypothesis import given
from hypothesis import strategies as st

from regions.names import RegionId
from regions.verify import chosen

US, EU, AP = RegionId("us-east"), RegionId("eu-west"), RegionId("ap-southeast")
VERSIONS = st.one_of(st.none(), st.integers(0, 2))


def test_what_most_hold_wins_and_among_equals_the_home() -> None:
    assert chosen({US: 1, EU: 2, AP: 2}, US) == AP
    assert chosen({US: None, EU: None, AP: 2}, AP) is None
    assert chosen({US: 1, EU: 2, AP: 3}, EU) == EU
    assert chosen({US: None, EU: 2}, US) is None
    assert chosen({US: 1, EU: None}, US) == US


@given(st.dictionaries(st.sampled_from([US, EU, AP]), VERSIONS, min_size=1), st.sampled_from([US, EU, AP]))
def test_a_repair_never_takes_what_fewer_hold(holds: dict[RegionId, int | None], home: RegionId) -> None:
    region = chosen(holds, home)
    version = None if region is None else holds[region]
    counts = {each: list(holds.values()).count(each) for each in holds.values()}
    assert version in counts
    majority = [each for each, count in counts.items() if count * 2 > len(holds)]
    assert not majority or version == majority[0]
