"""Reading a stream while its connection goes."""

from pathlib import Path

import pytest

from regions.registers.jetstream import Config, JetStreamRegisters
from regions.runtime.nats_reader import Reading
from regions.runtime.nats_session import Connector, NoAnswer
from tests.contracts.nats_process import NatsProcess
from tests.contracts.rigs import US


async def test_a_connection_lost_before_the_first_message_is_no_answer(tmp_path: Path) -> None:
    server = NatsProcess(tmp_path)
    server.start()
    try:
        registers = JetStreamRegisters(Config(urls=[server.url]), region=US, token=None)
        await registers.put("a", b"1", timeout_s=5)
        session = await Connector([server.url], name="reader", domain=US).open()
        reading = await Reading.open(session, "KV_meridian", after=0, timeout_s=5)
        await session.client.close()
        with pytest.raises(NoAnswer, match="lost"):
            await reading.next()
        await reading.close()
        await registers.close()
    finally:
        server.kill()
