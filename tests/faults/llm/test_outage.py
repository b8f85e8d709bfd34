"""Every dependency down in turn, and all at once, under load: nobody hangs and nobody is misled."""

from pathlib import Path

import pytest

from tests.faults.llm.outage import Kind, run, table

pytestmark = [pytest.mark.faults, pytest.mark.slow]


async def test_every_answer_is_complete_marked_or_a_clean_error_in_time(tmp_path: Path) -> None:
    phases = await run(tmp_path)
    report = table(phases)
    assert not [phase.wrong[:3] for phase in phases if phase.wrong], report
    assert all(phase.recovered_s is not None for phase in phases), report
    by_name = {phase.name: phase for phase in phases}
    for name in ("nothing is down", "the primary refuses"):
        assert set(by_name[name].counted) == {Kind.COMPLETE}, report
    # No model, but passages: an excerpt answers. No embedder: the words alone still find them.
    for name in ("every model refuses", "the embedder refuses", "the embedder is silent"):
        assert Kind.ERROR not in by_name[name].counted, report
