"""Homes, floors and standings, as values."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.errors import EpochAhead, LsnSuperseded
from regions.names import IndexName, NamespaceRef, RegionId
from regions.positions import NO_LSN, Epoch, make_lsn
from regions.replicator.canary import Canary
from regions.replicator.watermarks import Gate, Mark, Progress, key_of
from regions.topology import Home, Term, Topology, decide, decode_home, encode_home, majority, shard_of

US, EU, AP = RegionId("us-east"), RegionId("eu-west"), RegionId("ap-southeast")
DOCS = IndexName("docs")
NAMESPACE = NamespaceRef(DOCS, "tenant0000000001.a")
SHARD = shard_of(NAMESPACE, 4)
REGIONS = st.sampled_from([US, EU, AP])


@st.composite
def homes(draw: st.DrawFn) -> Home:
    count = draw(st.integers(1, 4))
    epochs = sorted(draw(st.sets(st.integers(1, 20), min_size=count, max_size=count)))
    terms = [Term(epoch, draw(REGIONS), ends=[draw(st.integers(0, 99))]) for epoch in epochs]
    return Home(DOCS, terms)


def test_a_namespace_stays_in_its_shard_for_ever() -> None:
    assert [shard_of(NamespaceRef(DOCS, name), 4) for name in ("a", "b", "c", "d", "e")] == [1, 0, 1, 0, 1]
    assert {shard_of(NamespaceRef(DOCS, str(n)), 4) for n in range(100)} == {0, 1, 2, 3}


@given(homes())
def test_a_home_survives_its_bytes(home: Home) -> None:
    assert decode_home(encode_home(home)) == home


@given(homes(), st.integers(1, 5))
def test_what_all_hold_is_decided_and_what_a_minority_holds_is_not(home: Home, regions: int) -> None:
    decided = decide([home] * regions, regions)
    assert decided is not None
    assert (decided.epoch, decided.region) == (home.epoch, home.region)
    assert decide([home] * (majority(regions) - 1), regions) is None


@given(homes(), REGIONS, st.integers(1, 5))
def test_a_promotion_at_one_of_three_changes_nothing(home: Home, to: RegionId, step: int) -> None:
    half = home.successor(Term(home.epoch + step, to), [5], is_forced=False)
    decided = decide([half, home, home], 3)
    assert decided is not None
    assert (decided.epoch, decided.region) == (home.epoch, home.region)
    assert not decided.term.is_forced


@given(homes(), REGIONS, REGIONS)
def test_of_two_promotions_without_a_majority_neither_counts(
    home: Home, one: RegionId, two: RegionId
) -> None:
    first = home.successor(Term(home.epoch + 1, one), [5], is_forced=False)
    second = home.successor(Term(home.epoch + 2, two), [5], is_forced=False)
    for records in ([first, second, home], [second, first]):
        decided = decide(records, 3)
        assert decided is not None
        assert (decided.epoch, decided.region) == (home.epoch, home.region)


@given(st.lists(homes(), max_size=3), st.lists(homes(), max_size=3))
def test_two_looks_never_see_two_homes_of_one_epoch(some: list[Home], others: list[Home]) -> None:
    one, two = decide(some, 3), decide(some + others[: 3 - len(some)], 3)
    if one is not None and two is not None and one.epoch == two.epoch:
        assert one.region == two.region


def test_a_floor_of_the_present_epoch_is_needed_as_it_is() -> None:
    home = Home(DOCS, [Term(3, US)])
    assert home.needed(make_lsn(Epoch(3), 7), 0) == make_lsn(Epoch(3), 7)
    assert home.needed(NO_LSN, 0) == NO_LSN


def test_a_floor_within_its_epoch_is_held_by_whoever_came_to_the_next() -> None:
    home = Home(DOCS, [Term(1, US, ends=[10, 0]), Term(2, EU)])
    assert home.needed(make_lsn(Epoch(1), 10), 0) == NO_LSN


@pytest.mark.parametrize(("epoch", "sequence", "shard"), [(1, 11, 0), (1, 1, 1), (2, 1, 0), (1, 1, 7)])
def test_a_floor_beyond_its_epochs_end_is_superseded(epoch: int, sequence: int, shard: int) -> None:
    home = Home(DOCS, [Term(1, US, ends=[10, 0]), Term(3, EU)])
    with pytest.raises(LsnSuperseded):
        home.needed(make_lsn(Epoch(epoch), sequence), shard)


def test_a_floor_of_a_later_epoch_is_ahead() -> None:
    with pytest.raises(EpochAhead):
        Home(DOCS, [Term(1, US)]).needed(make_lsn(Epoch(2), 1), 0)


def test_what_an_old_home_took_beyond_its_end_is_no_history() -> None:
    home = Home(DOCS, [Term(1, US, ends=[10, 0], is_forced=True), Term(2, EU)])
    assert home.is_history(US, 1, 0, 10)
    assert not home.is_history(US, 1, 0, 11)
    assert not home.is_history(US, 1, 1, 1)
    assert home.is_history(EU, 2, 0, 10**9)
    assert not home.is_history(US, 2, 0, 5)
    assert not home.is_history(AP, 3, 0, 5)


def topology(progress: Progress | None, home: Home | None = None) -> Topology:
    told = {} if progress is None else {(EU, US, shard): progress for shard in range(4)}
    return Topology(
        EU,
        [US, EU],
        4,
        {DOCS: [EU]},
        {DOCS: home or Home(DOCS, [Term(2, US)])},
        told,
        clock_s={US: 1_000.0},
    )


def told(**changes: object) -> Progress:
    fields = {"received": 50, "received_s": 1_090.0, "epochs": {DOCS: 2}, **changes}
    return Progress("w", "i", **fields)  # type: ignore[arg-type]


def test_a_replica_stands_where_its_follower_says_under_the_present_epoch() -> None:
    standing = topology(told()).standing(NAMESPACE, EU, 100.0)
    assert standing.is_readable
    assert standing.lsn == standing.applied == make_lsn(Epoch(2), 50)
    assert standing.staleness_s == pytest.approx(10)


def test_a_namespace_that_is_behind_has_its_own_age_and_position() -> None:
    mark = Mark(40, 30, unapplied_s=1_080.0, unqueryable_s=1_070.0)
    standing = topology(told(behind={key_of(NAMESPACE): mark})).standing(NAMESPACE, EU, 100.0)
    assert (standing.lsn, standing.applied) == (make_lsn(Epoch(2), 30), make_lsn(Epoch(2), 40))
    assert (standing.staleness_s, standing.applied_lag_s, standing.received_lag_s) == (30, 20, 10)
    other = topology(told(behind={key_of(NAMESPACE): mark})).standing(NamespaceRef(DOCS, "other"), EU, 100.0)
    assert other.staleness_s == 10


@pytest.mark.parametrize(
    ("progress", "why"),
    [
        (None, "nothing is known"),
        (told(is_resyncing=True), "resyncing"),
        (told(epochs={DOCS: 1}), "epoch 2"),
        (told(gates={DOCS: Gate(2, 49)}), "epoch 2"),
        (told(behind={key_of(NAMESPACE): Mark(1, 1, parked="too large")}), "parked: too large"),
        (told(behind={key_of(NAMESPACE): Mark(1, 1, is_copying=True)}), "copied"),
        (told(behind={key_of(NAMESPACE): Mark(1, 1, admit_at=9)}), "copied"),
    ],
)
def test_what_may_not_be_read_says_why(progress: Progress | None, why: str) -> None:
    standing = topology(progress).standing(NAMESPACE, EU, 100.0)
    assert not standing.is_readable
    assert why in standing.why


def test_reads_go_on_while_a_promotion_drains() -> None:
    assert topology(told(gates={DOCS: Gate(3, 49)})).standing(NAMESPACE, EU, 100.0).is_readable


def test_an_index_is_as_stale_as_its_worst_namespace_that_is_not_parked() -> None:
    behind = {
        f"{DOCS}/late": Mark(40, 40, unapplied_s=1_060.0, unqueryable_s=1_060.0),
        f"{DOCS}/parked": Mark(1, 1, unapplied_s=900.0, unqueryable_s=900.0, parked="no"),
        "other/late": Mark(1, 1, unapplied_s=800.0, unqueryable_s=800.0),
    }
    (standing,) = topology(told(behind=behind)).index_standings(DOCS, 100.0)
    assert standing.is_readable
    assert (standing.staleness_s, standing.received_lag_s) == (40, 10)
    (unknown,) = topology(None).index_standings(DOCS, 100.0)
    assert not unknown.is_readable


@pytest.mark.parametrize(
    ("canary", "staleness_s"),
    [
        (Canary(), 10),
        (Canary(delay_s=0.2), 10),
        (Canary(delay_s=25.0), 25),
        (Canary(delay_s=0.2, unseen_s=2_070.0), 30),
        (Canary(unseen_s=2_099.0), 10),
    ],
)
def test_an_index_is_never_taken_to_be_fresher_than_its_canary_says(
    canary: Canary, staleness_s: float
) -> None:
    """The canary's time is of its own region's log, not of the home's."""
    known = replace(topology(told()), clock_s={US: 1_000.0, EU: 2_000.0}, canaries={(DOCS, EU): canary})
    standing = known.standing(NAMESPACE, EU, 100.0)
    (whole,) = known.index_standings(DOCS, 100.0)
    assert standing.staleness_s == whole.staleness_s == pytest.approx(staleness_s)
    assert standing.applied_lag_s == whole.applied_lag_s == 10
    assert standing.lsn == make_lsn(Epoch(2), 50)


def test_of_an_index_without_a_canary_nothing_is_told() -> None:
    assert topology(told()).canary_lag_s(DOCS, EU, 100.0) is None
