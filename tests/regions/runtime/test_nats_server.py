"""A log server of ours: what it is told, and when it is ready."""

import os
from pathlib import Path

import pytest

from regions.runtime import lifecycle
from regions.runtime.nats_server import find_server, server_child, wait_ready
from tests.contracts.nats_process import DOMAIN, NatsProcess


def test_the_binary_is_found_and_may_be_run() -> None:
    assert os.access(find_server(), os.X_OK)


def test_the_configuration_asks_for_what_durability_needs(tmp_path: Path) -> None:
    spec = server_child("log-us-east", domain="us-east", directory=tmp_path / "log", port=4222)
    text = Path(spec.argv[-1]).read_text()
    assert spec.argv[0] == str(find_server())
    for line in ('listen: "127.0.0.1:4222"', "sync_interval: always", 'domain: "us-east"'):
        assert line in text


async def test_ready_means_that_jetstream_answers(tmp_path: Path) -> None:
    server = NatsProcess(tmp_path)
    server.start()
    try:
        await wait_ready(server.url, domain=DOMAIN, timeout_s=10)
        with pytest.raises(TimeoutError):
            await wait_ready(server.url, domain="eu-west", timeout_s=0.3)
    finally:
        server.kill()
    with pytest.raises(TimeoutError):
        await wait_ready(f"nats://127.0.0.1:{lifecycle.free_port()}", domain=DOMAIN, timeout_s=0.3)
