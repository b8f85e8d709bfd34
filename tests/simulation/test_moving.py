"""Homes move under seeded faults: what a promotion promises, it keeps."""

import pytest

from tests.simulation.campaign import moving_campaign
from tests.simulation.moving import run_moving_seed

SEEDS = 60
KNOWN = (17,)
"""A change by filter is open when its home is replaced by force, which then has a tail to take out: it waits
to copy from followers that wait for it to tell the ids. Of 300 such worlds 13 fail, in this or other ways."""


@pytest.mark.slow
def test_no_promotion_breaks_a_promise() -> None:
    failures, passed = moving_campaign(range(SEEDS))
    assert failures == []
    assert passed["planned"] > SEEDS / 2


@pytest.mark.slow
def test_forced_promotions_break_promises_in_the_known_worlds_alone() -> None:
    failures, passed = moving_campaign(range(SEEDS), forced=1)
    assert [failure.split(":")[0] for failure in failures] == [f"seed {seed}" for seed in KNOWN]
    assert passed["forced"] > SEEDS / 10
    assert passed["exported"] > SEEDS


def test_the_same_seed_gives_the_same_run() -> None:
    assert run_moving_seed(3).network.trace == run_moving_seed(3).network.trace
