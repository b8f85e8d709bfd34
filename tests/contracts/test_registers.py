"""What every kind of registers must do: one suite, run for each file in `regions/registers/`.

A new kind adds its line to `MAKERS`; a kind without one fails the first test.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from uuid import uuid4

import pytest

from regions import registers
from regions.errors import Conflict
from regions.registers.base import Registers
from regions.registers.memory import MemoryRegisters
from regions.runtime import plugins
from tests.contracts.nats_process import NatsProcess
from tests.contracts.rigs import open_registers, watched

T = 10.0


@pytest.fixture(scope="module")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the module: each test has a bucket of its own."""
    server = NatsProcess(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server.url
    server.kill()


@asynccontextmanager
async def in_memory(_: pytest.FixtureRequest) -> AsyncIterator[Registers]:
    yield MemoryRegisters()


@asynccontextmanager
async def in_jetstream(request: pytest.FixtureRequest) -> AsyncIterator[Registers]:
    yield open_registers(request.getfixturevalue("nats_url"), uuid4().hex)


MAKERS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Registers]]] = {
    "memory": in_memory,
    "jetstream": in_jetstream,
}


@pytest.fixture(params=sorted(MAKERS))
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Registers]:
    async with MAKERS[request.param](request) as made:
        await made.start()
        yield made
        await made.close()


def test_every_kind_is_tested_here() -> None:
    assert plugins.kinds(registers) == sorted(MAKERS)


async def test_what_was_put_is_got_at_its_revision(kept: Registers) -> None:
    assert await kept.get("homes.docs", timeout_s=T) is None
    first = await kept.put("homes.docs", b"us-east", timeout_s=T)
    assert await kept.get("homes.docs", timeout_s=T) == ("homes.docs", b"us-east", first)
    second = await kept.put("homes.docs", b"", timeout_s=T)
    assert second > first
    assert await kept.get("homes.docs", timeout_s=T) == ("homes.docs", b"", second)


async def test_a_swap_is_done_at_the_expected_revision_only(kept: Registers) -> None:
    first = await kept.swap("a", b"1", 0, timeout_s=T)
    with pytest.raises(Conflict):
        await kept.swap("a", b"2", 0, timeout_s=T)
    await kept.put("b", b"other", timeout_s=T)
    second = await kept.swap("a", b"2", first, timeout_s=T)
    with pytest.raises(Conflict):
        await kept.swap("a", b"3", first, timeout_s=T)
    assert await kept.get("a", timeout_s=T) == ("a", b"2", second)


async def test_of_many_swaps_at_once_one_is_done(kept: Registers) -> None:
    outcomes = await asyncio.gather(
        *(kept.swap("a", bytes([n]), 0, timeout_s=T) for n in range(10)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 9
    assert sum(isinstance(outcome, int) for outcome in outcomes) == 1


async def test_a_scan_finds_the_prefix_in_order(kept: Registers) -> None:
    for key in ("leases.eu-west", "homes.docs", "leases.ap-southeast", "leases", "leasesx"):
        await kept.put(key, key.encode(), timeout_s=T)
    found = await kept.scan("leases.", timeout_s=T)
    assert [(key, value) for key, value, _ in found] == [
        ("leases.ap-southeast", b"leases.ap-southeast"),
        ("leases.eu-west", b"leases.eu-west"),
    ]
    assert [key for key, _, _ in await kept.scan("leases", timeout_s=T)] == [
        "leases",
        "leases.ap-southeast",
        "leases.eu-west",
        "leasesx",
    ]
    assert len(await kept.scan("", timeout_s=T)) == 5
    assert await kept.scan("cursors.", timeout_s=T) == []


async def test_a_watch_tells_what_is_and_then_what_changes(kept: Registers) -> None:
    one = await kept.put("marks.a", b"1", timeout_s=T)
    await kept.put("homes.a", b"not asked for", timeout_s=T)

    async def change() -> int:
        await kept.put("homes.b", b"not asked for", timeout_s=T)
        return await kept.put("marks.b", b"2", timeout_s=T)

    async with asyncio.TaskGroup() as tasks:
        seen = tasks.create_task(watched(kept, "marks.", 2))
        changed = tasks.create_task(change())
    assert seen.result() == [("marks.a", b"1", one), ("marks.b", b"2", changed.result())]


async def test_a_watch_tells_only_the_newest_of_what_came_before_it(kept: Registers) -> None:
    for n in range(5):
        await kept.put("marks.a", bytes([n]), timeout_s=T)
    assert [value for _, value, _ in await watched(kept, "marks.", 1)] == [bytes([4])]


@pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b", "a b", "a*", "a.>", "ä"])
async def test_what_is_no_key_is_refused(kept: Registers, key: str) -> None:
    with pytest.raises(ValueError, match="no register's key"):
        await kept.put(key, b"", timeout_s=T)
