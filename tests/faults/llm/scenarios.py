"""What a scenario is, and how one is played."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.llm.caller import Outcome
from tests.faults.llm.rig import Rig, Setup, open_rig
from tests.faults.llm.verdicts import Check, Ideal, Judged, Mode, Run, judge, whole
from tests.faults.llm.wall import Wall

Played = tuple[Sequence[Outcome], dict[str, Any]]
"""The calls that are judged, and what else was found out."""

Play = Callable[[Rig], Awaitable[Played]]


async def one_call(rig: Rig) -> Played:
    return [await rig.ask()], {}


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault, and what a good gateway makes of it.

    `survives`: the gateway is expected to answer afterwards.
    """

    id: str
    title: str
    setup: Setup
    checks: Sequence[Check] = ()
    ideal: Ideal = whole
    play: Play = one_call
    modes: Sequence[Mode] = (Mode.LIVE, Mode.WHOLE, Mode.JSON)
    max_wall_s: float = 8.0
    survives: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario in one mode: its verdict, and what was measured."""

    scenario: Scenario
    mode: Mode
    judged: Judged
    primary: int
    fallback: int
    wall_s: float
    facts: dict[str, Any] = field(default_factory=dict)


async def play(scenario: Scenario, mode: Mode, wall: Wall, directory: Path) -> Result:
    """Play a scenario on a gateway of its own, and judge it."""
    async with open_rig(wall, directory, scenario.id, mode, scenario.setup, scenario.max_wall_s) as rig:
        outcomes, facts = await scenario.play(rig)
        is_alive = not scenario.survives or await rig.is_alive()
        run = Run(mode, outcomes, rig.primary.attempts, rig.fallback.attempts, is_alive, facts)
    return Result(
        scenario,
        mode,
        judge(run, scenario.ideal, scenario.checks),
        len(run.primary),
        len(run.fallback),
        max(outcome.wall_s for outcome in outcomes),
        facts,
    )
