"""Many seeds, on all cores."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.moving import run_moving_seed
from tests.simulation.world import Violation, run_seed


def failure_of(seed: int) -> str | None:
    """What is wrong under this seed; None when everything holds."""
    try:
        run_seed(seed)
    except Violation as error:
        return str(error)
    return None


def moving_failure_of(seed: int, forced: int = 0) -> tuple[str | None, Counter[str]]:
    """What is wrong where homes move, and what came to pass: promotions, acknowledged writes, tails."""
    try:
        world = run_moving_seed(seed, forced=forced)
    except Violation as error:
        return str(error), Counter()
    passed = Counter(world.done)
    passed.update(acknowledged=len(world.acked), exported=len(world.tails))
    return None, passed


def campaign(seeds: Sequence[int]) -> list[str]:
    """What is wrong under each seed that fails; every text begins with its seed."""
    with _pool() as pool:
        return [found for found in pool.map(failure_of, seeds, chunksize=10) if found is not None]


def moving_campaign(seeds: Sequence[int], forced: int = 0) -> tuple[list[str], Counter[str]]:
    """The same where homes move, `forced` times by force, and what came to pass in all of them."""
    with _pool() as pool:
        told = [*pool.map(partial(moving_failure_of, forced=forced), seeds, chunksize=10)]
    passed: Counter[str] = Counter()
    for _, each in told:
        passed.update(each)
    return [found for found, _ in told if found is not None], passed


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))
