"""What an old home never shipped is saved by itself, once and whole, over memory regions."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from regions import promotion
from regions.changes import Delete
from regions.errors import StaleEpoch
from regions.live import Live
from regions.logs.base import Append, Entry
from regions.names import IndexName
from regions.positions import Epoch
from regions.replicas.memory import MemoryReplica
from regions.tails import Saved, Tails, decode_saved, tail_key, write_tail
from tests.fakes.regions import AP, DOCS, EU, SHARDS, US, World, running


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock = asyncio.get_running_loop().time
    async with running(lambda _: MemoryReplica(DOCS, clock)) as made:
        await promotion.establish(made.places, DOCS, US)
        yield made


async def append(world: World, *ids: str, index: IndexName = DOCS) -> None:
    """To us-east, under the first epoch."""
    log = world[US].log
    fence = await log.open_epoch(index, Epoch(1), timeout_s=1)
    await log.append(fence, 0, [Append("ns", Delete([id_])) for id_ in ids], timeout_s=1)


async def replace_by_force(world: World, *unshipped: str) -> None:
    """Make eu-west the home, while us-east is away with changes that nobody else has."""
    await append(world, "shipped")
    lasts = [(await world[US].log.state(shard, timeout_s=1)).last for shard in range(SHARDS)]
    live = world.live(EU)
    async with live.running():
        assert await live.until(
            lambda t: all(
                (told := t.progress.get((region, US, shard))) is not None and told.received >= lasts[shard]
                for region in (EU, AP)
                for shard in range(SHARDS)
            ),
            5,
        )
    for region in (EU, AP):
        world[region].pause()
    if unshipped:
        await append(world, *unshipped)
        await append(world, "of another index", index=IndexName("other"))
    await world.beat()
    world[US].log.go_down()
    await promotion.force(world.places, DOCS, EU, drain_s=0.1, say=lambda _: None)


@asynccontextmanager
async def looking(
    world: World, directory: Path, say: Callable[[Saved], None] = lambda _: None
) -> AsyncIterator[Tails]:
    """The old home's region, once it knows that it was replaced."""
    live: Live = world.live(US)
    async with live.running():
        assert await live.until(lambda t: DOCS in t.homes and t.homes[DOCS].region == EU, 5)
        yield Tails(live, directory, say)


def files(directory: Path) -> list[Path]:
    return [*directory.iterdir()]


def lines(directory: Path) -> list[str]:
    """The ids that the only file has, in its order."""
    (file,) = files(directory)
    return [id_ for line in file.read_text().splitlines() for id_ in json.loads(line)["change"]["ids"]]


async def noted(world: World) -> Saved | None:
    register = await world[US].registers.get(tail_key(DOCS, 1), timeout_s=1)
    return decode_saved(register.value) if register is not None else None


async def test_a_tail_is_saved_for_its_owner_and_told_once_the_old_home_is_back(
    world: World, tmp_path: Path
) -> None:
    await replace_by_force(world, "lost", "too")
    told: list[Saved] = []
    async with looking(world, tmp_path / "tails", told.append) as tails:
        await tails.look()
        assert (told, (tmp_path / "tails").exists(), await noted(world)) == ([], False, None)
        world[US].log.come_up()
        await tails.look()
    assert lines(tmp_path / "tails") == ["lost", "too"]
    (file,) = files(tmp_path / "tails")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert told == [Saved(DOCS, 1, US, changes=2, path=str(file))] == [await noted(world)]
    with pytest.raises(StaleEpoch):  # what was saved is all there will be
        await append(world, "more")


async def test_a_tail_is_saved_once_whoever_looks_again(world: World, tmp_path: Path) -> None:
    await replace_by_force(world, "lost")
    world[US].log.come_up()
    told: list[Saved] = []
    for machine in ("one", "one", "another"):
        async with looking(world, tmp_path / machine, told.append) as tails:
            await tails.look()
            await tails.look()
    assert lines(tmp_path / "one") == ["lost"]
    assert len(told) == 1
    assert not (tmp_path / "another").exists()


async def test_a_file_that_nobody_lived_to_note_is_noted_and_not_written_again(
    world: World, tmp_path: Path
) -> None:
    await replace_by_force(world, "lost", "too")
    world[US].log.come_up()
    async with looking(world, tmp_path) as tails:
        await tails.look()
    (file,) = files(tmp_path)
    before, note = file.stat(), await noted(world)
    unsaved = msgspec.json.encode(Saved(DOCS, 1, US, error="it was killed"))
    await world[US].registers.put(tail_key(DOCS, 1), unsaved, timeout_s=1)
    async with looking(world, tmp_path) as tails:
        await tails.look()
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert await noted(world) == note


async def test_a_home_that_had_shipped_everything_leaves_no_file(world: World, tmp_path: Path) -> None:
    await replace_by_force(world)
    world[US].log.come_up()
    told: list[Saved] = []
    async with looking(world, tmp_path / "tails", told.append) as tails:
        await tails.look()
    saved = await noted(world)
    assert saved is not None
    assert saved.is_empty
    assert (told, files(tmp_path / "tails")) == ([], [])


async def test_what_the_log_dropped_of_a_tail_is_told(world: World, tmp_path: Path) -> None:
    await replace_by_force(world, "dropped", "kept")
    world[US].log.come_up()
    last = (await world[US].log.state(0, timeout_s=1)).last
    world[US].log.trim_before(0, last - 3)  # kept, the other index's fence and change, a heartbeat
    async with looking(world, tmp_path) as tails:
        await tails.look()
    saved = await noted(world)
    assert saved is not None
    assert (lines(tmp_path), saved.changes, saved.trimmed) == (["kept"], 1, 1)


async def test_a_directory_that_cannot_be_written_is_told_once_and_tried_again(
    world: World, tmp_path: Path
) -> None:
    await replace_by_force(world, "lost")
    world[US].log.come_up()
    (tmp_path / "tails").write_text("a file is in the way")
    told: list[Saved] = []
    async with looking(world, tmp_path / "tails", told.append) as tails:
        await tails.look()
        await tails.look()
        saved = await noted(world)
        assert [saved] == told
        assert saved is not None
        assert saved.error
        (tmp_path / "tails").unlink()
        await tails.look()
    assert lines(tmp_path / "tails") == ["lost"]
    assert [bool(each.error) for each in told] == [True, False]


async def test_a_crash_in_the_middle_leaves_nothing_under_the_files_name(
    world: World, tmp_path: Path
) -> None:
    await replace_by_force(world, "lost", "too")
    log = world[US].log
    log.come_up()
    state = await log.state(0, timeout_s=1)
    entries = [entry async for entry in _some(log.read(0, state.first - 1, state.incarnation), state.last)]
    path = tmp_path / "docs.jsonl"
    (tmp_path / ".docs.jsonl.partial-killed").write_text("half a line")

    async def broken() -> AsyncIterator[Entry]:
        yield entries[0]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await write_tail(path, broken())
    assert files(tmp_path) == []
    assert await write_tail(path, _all(entries)) == len(entries) == len(path.read_text().splitlines())
    with pytest.raises(FileExistsError):
        await write_tail(path, _all(entries[:1]))
    assert len(path.read_text().splitlines()) == len(entries)
    assert files(tmp_path) == [path]


async def _all(entries: list[Entry]) -> AsyncIterator[Entry]:
    for entry in entries:
        yield entry


async def _some(entries: AsyncIterator[Entry], last: int) -> AsyncIterator[Entry]:
    async for entry in entries:
        yield entry
        if entry.sequence >= last:
            return
