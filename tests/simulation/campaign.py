"""Many seeds, on all cores."""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.world import Violation, run_seed


def failure_of(seed: int) -> str | None:
    """What is wrong under this seed; None when everything holds."""
    try:
        run_seed(seed)
    except Violation as error:
        return str(error)
    return None


def campaign(seeds: Sequence[int]) -> list[str]:
    """What is wrong under each seed that fails; every text begins with its seed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        return [found for found in pool.map(failure_of, seeds, chunksize=10) if found is not None]
