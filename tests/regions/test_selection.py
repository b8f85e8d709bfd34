"""Which replica is asked first, and which never."""

from hypothesis import given
from hypothesis import strategies as st

from regions.names import RegionId
from regions.positions import NO_LSN, Lsn
from regions.selection import Bounds, rank
from regions.topology import Standing

REGIONS = [RegionId(name) for name in ("ap-southeast", "eu-west", "us-east")]
HERE = RegionId("eu-west")

standings = st.lists(
    st.builds(
        Standing,
        region=st.sampled_from(REGIONS),
        why=st.sampled_from(["", "parked: no"]),
        lsn=st.integers(0, 20).map(Lsn),
        staleness_s=st.floats(0, 200),
    ),
    unique_by=lambda s: s.region,
)
answers = st.dictionaries(st.sampled_from(REGIONS), st.floats(0.001, 1))


@given(standings, answers, st.floats(1, 100), st.integers(0, 20).map(Lsn))
def test_nothing_unreadable_or_below_the_floor_is_ever_asked(
    given: list[Standing], answer_s: dict[RegionId, float], bound_s: float, needed: Lsn
) -> None:
    ranked = rank(given, answer_s, HERE, Bounds(bound_s, needed), needed)
    usable = [s for s in given if s.is_readable and s.lsn >= needed]
    assert sorted([*ranked.fresh, *ranked.stale], key=lambda s: s.region) == sorted(
        usable, key=lambda s: s.region
    )
    assert all(s.staleness_s <= bound_s for s in ranked.fresh)
    assert all(s.staleness_s > bound_s for s in ranked.stale)
    assert [s.staleness_s for s in ranked.stale] == sorted(s.staleness_s for s in ranked.stale)


@given(standings, answers)
def test_the_nearest_fresh_one_is_first_whatever_the_order_it_came_in(
    given: list[Standing], answer_s: dict[RegionId, float]
) -> None:
    bounds = Bounds(90)
    ranked = rank(given, answer_s, HERE, bounds)
    assert rank(given[::-1], answer_s, HERE, bounds) == ranked
    times = [answer_s.get(s.region, 10.0) for s in ranked.fresh]
    assert times == sorted(times)


@given(standings, answers, st.sampled_from(REGIONS))
def test_a_preferred_region_comes_first_where_it_is_fresh_enough(
    given: list[Standing], answer_s: dict[RegionId, float], prefer: RegionId
) -> None:
    ranked = rank(given, answer_s, HERE, Bounds(90), prefer=prefer)
    if prefer in {s.region for s in ranked.fresh}:
        assert ranked.fresh[0].region == prefer


def test_our_own_region_wins_among_those_never_measured() -> None:
    found = [Standing(region, "", NO_LSN) for region in REGIONS]
    assert [s.region for s in rank(found, {}, HERE, Bounds(90)).fresh] == [
        "eu-west",
        "ap-southeast",
        "us-east",
    ]
