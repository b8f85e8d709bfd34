"""kill -9 of a real node under writes loses nothing that was acknowledged (50 rounds: `bench.node_kill`)."""

from pathlib import Path

import pytest

from bench.node_kill import run
from bench.node_process import NodeProcess


@pytest.mark.faults
async def test_no_acknowledged_write_is_lost_and_no_file_is_damaged(tmp_path: Path) -> None:
    totals = await run(rounds=5, seed=11, folder=tmp_path / "data")
    assert totals.writes > 50
    assert (totals.lost, totals.corrupt, totals.went_back) == (0, 0, 0)


@pytest.mark.faults
async def test_a_second_node_on_the_directory_says_so_and_leaves(tmp_path: Path) -> None:
    first, second = NodeProcess(tmp_path), NodeProcess(tmp_path)
    await first.start()
    with pytest.raises(RuntimeError, match="in use by another node"):
        await second.start()
    assert await second.stop() == 1
    assert await first.stop() == 0


@pytest.mark.faults
async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    first = NodeProcess(tmp_path / "1")
    port = (await first.start())["port"]
    second = NodeProcess(tmp_path / "2", port=port)
    with pytest.raises(RuntimeError, match=f"port {port} on 127.0.0.1 is taken"):
        await second.start()
    assert await second.stop() == 1
    assert await first.stop() == 0
