"""Every scenario, in every mode: whole answers where they are held back, nothing worse than safe where not.

All are played once, some at a time, on gateways of their own; `make faults` prints the same as a table.
"""

import pytest
import pytest_asyncio

from tests.faults.llm.campaign import SCENARIOS, is_good, run
from tests.faults.llm.scenarios import Result, Scenario
from tests.faults.llm.verdicts import Mode

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PAIRS = [(scenario, mode) for scenario in SCENARIOS for mode in scenario.modes]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Mode], Result]:
    played = await run(SCENARIOS, tmp_path_factory.mktemp("faults"))
    return {(result.scenario.id, result.mode): result for result in played}


@pytest.mark.parametrize(("scenario", "mode"), PAIRS, ids=[f"{s.id}-{mode}" for s, mode in PAIRS])
async def test_a_caller_gets_what_we_promise(
    scenario: Scenario, mode: Mode, results: dict[tuple[str, Mode], Result]
) -> None:
    result = results[scenario.id, mode]
    assert is_good(result), f"{scenario.title}: {result.judged.verdict}: {'; '.join(result.judged.why)}"
