"""Homes move under seeded faults: what a promotion promises, it keeps."""

import pytest

from tests.simulation.campaign import moving_campaign
from tests.simulation.moving import run_moving_seed

SEEDS = 60


@pytest.mark.slow
def test_no_promotion_breaks_a_promise() -> None:
    failures, passed = moving_campaign(range(SEEDS))
    assert failures == []
    assert passed["planned"] > SEEDS / 2


def test_the_same_seed_gives_the_same_run() -> None:
    assert run_moving_seed(3).network.trace == run_moving_seed(3).network.trace
