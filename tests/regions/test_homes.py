"""The registers' side of homes: who gets a majority, and what half a promotion means."""

import asyncio

import pytest

from regions import homes
from regions.errors import Conflict, LogUnavailable
from regions.names import IndexName, RegionId
from regions.registers.memory import MemoryRegisters
from regions.topology import Home, Term

US, EU, AP = RegionId("us-east"), RegionId("eu-west"), RegionId("ap-southeast")
DOCS = IndexName("docs")
FIRST = Home(DOCS, [Term(1, US)])


@pytest.fixture
def registers() -> dict[RegionId, MemoryRegisters]:
    return {region: MemoryRegisters() for region in (US, EU, AP)}


async def look(registers: dict[RegionId, MemoryRegisters]) -> homes.Seen:
    return await homes.look(registers, DOCS, timeout_s=1)


async def test_a_home_is_decided_while_one_region_is_away_and_told_to_it_later(
    registers: dict[RegionId, MemoryRegisters],
) -> None:
    registers[AP].go_down()
    await homes.propose(registers, await look(registers), FIRST, timeout_s=1)
    assert (await look(registers)).decided == FIRST
    registers[AP].come_up()
    seen = await look(registers)
    assert seen.records[AP] == (None, 0)
    await homes.spread(registers, seen, timeout_s=1)
    assert (await look(registers)).records[AP][0] == FIRST


async def test_a_minority_can_neither_look_nor_decide(registers: dict[RegionId, MemoryRegisters]) -> None:
    seen = await look(registers)
    registers[EU].go_down()
    registers[AP].go_down()
    with pytest.raises(LogUnavailable):
        await look(registers)
    with pytest.raises(Conflict):
        await homes.propose(registers, seen, FIRST, timeout_s=1)
    registers[EU].come_up()
    registers[AP].come_up()
    assert (await look(registers)).decided is None


async def test_two_promotions_at_once_never_both_win(registers: dict[RegionId, MemoryRegisters]) -> None:
    await homes.propose(registers, await look(registers), FIRST, timeout_s=1)
    seen = await look(registers)
    tried = [
        homes.propose(
            registers,
            seen,
            FIRST.successor(Term(2, region), [0], is_forced=False),
            timeout_s=1,
        )
        for region in (EU, AP)
    ]
    outcomes = await asyncio.gather(*tried, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) <= 1
    after = (await look(registers)).decided
    assert after is not None
    won = [region for region, outcome in zip((EU, AP), outcomes, strict=True) if outcome is None]
    assert after.region == (won[0] if won else US)


async def test_what_a_broken_promotion_left_is_written_over_under_a_higher_epoch(
    registers: dict[RegionId, MemoryRegisters],
) -> None:
    await homes.propose(registers, await look(registers), FIRST, timeout_s=1)
    seen = await look(registers)
    half = FIRST.successor(Term(2, EU), [0], is_forced=False)
    lone = homes.Seen(DOCS, 3, {US: seen.records[US]})
    with pytest.raises(Conflict):
        await homes.propose(registers, lone, half, timeout_s=1)
    seen = await look(registers)
    assert seen.decided is not None
    assert (seen.decided.region, seen.next_epoch) == (US, 3)
    whole = seen.decided.successor(Term(seen.next_epoch, AP), [0], is_forced=False)
    await homes.propose(registers, seen, whole, timeout_s=1)
    assert (await look(registers)).decided == whole
