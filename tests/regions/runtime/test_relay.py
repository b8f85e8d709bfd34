"""The relay, between real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from regions.runtime.lifecycle import free_port
from regions.runtime.relay import HOST, MAX_HELD_BYTES, Door, Relay, RelayConfig, control

DELAY_MS = 50.0


@dataclass(frozen=True)
class Rig:
    relay: Relay
    door: int
    control: int
    echoed: list[bytes]


@asynccontextmanager
async def relaying(delay_ms: float = DELAY_MS, *, to_nobody: bool = False) -> AsyncIterator[Rig]:
    """A relay before a server that sends back what it gets."""
    echoed: list[bytes] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            echoed.append(piece)
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    there = free_port() if to_nobody else server.sockets[0].getsockname()[1]
    door, steering, stop = free_port(), free_port(), asyncio.Event()
    relay = Relay(RelayConfig(steering, {"ab": delay_ms}, [Door(door, there, "ab")]))
    async with server, asyncio.TaskGroup() as tasks:
        tasks.create_task(relay.serve(stop))
        while not await accepts(steering):  # noqa: ASYNC110 - nobody sets an event for us
            await asyncio.sleep(0.005)
        yield Rig(relay, door, steering, echoed)
        stop.set()


async def accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


async def took_s(rig: Rig, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    begun = asyncio.get_running_loop().time()
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    return asyncio.get_running_loop().time() - begun


async def test_a_round_trip_takes_twice_the_delay_and_opening_one_more() -> None:
    async with relaying() as rig, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(HOST, rig.door)
        assert await took_s(rig, reader, writer) >= 4 * DELAY_MS / 1000
        assert 2 * DELAY_MS / 1000 <= await took_s(rig, reader, writer) < 1
        writer.close()


async def test_the_delay_can_be_set_while_it_runs() -> None:
    async with relaying(delay_ms=0) as rig, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(HOST, rig.door)
        await took_s(rig, reader, writer)
        await control(rig.control, ["delay ab 40"])
        assert await took_s(rig, reader, writer) >= 0.08
        writer.close()


async def test_a_cut_link_is_silent_and_loses_nothing_once_healed() -> None:
    async with relaying(delay_ms=0) as rig, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(HOST, rig.door)
        await took_s(rig, reader, writer)
        await control(rig.control, ["cut ab"])
        late_reader, late_writer = await asyncio.open_connection(HOST, rig.door)
        for each in (writer, late_writer):
            each.write(b"during the cut")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.readexactly(1)
        assert rig.echoed == [b"x"]
        await control(rig.control, ["heal ab"])
        assert await late_reader.readexactly(14) == b"during the cut"
        assert b"".join(rig.echoed).count(b"during the cut") == 2
        writer.close()
        late_writer.close()


async def test_much_at_once_arrives_whole_and_in_order_though_little_is_held() -> None:
    blob = bytes(range(256)) * (2 * MAX_HELD_BYTES // 256)
    async with relaying(delay_ms=5) as rig, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        reader, writer = await asyncio.open_connection(HOST, rig.door)
        writer.write(blob)
        tasks.create_task(writer.drain())
        assert await reader.readexactly(len(blob)) == blob
        writer.close()


async def test_who_asks_where_nobody_listens_is_told() -> None:
    async with relaying(delay_ms=0, to_nobody=True) as rig, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(HOST, rig.door)
        assert await reader.read() == b""
        writer.close()


async def test_an_end_that_goes_takes_the_other_along() -> None:
    async with relaying(delay_ms=0) as rig, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(HOST, rig.door)
        await took_s(rig, reader, writer)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_orders_that_make_no_sense_are_refused() -> None:
    async with relaying() as rig, asyncio.timeout(5):
        for line in ("cut nowhere", "delay ab soon", "explode"):
            with pytest.raises(ValueError, match="links: ab"):
                await control(rig.control, [line])


def test_a_door_over_a_link_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown links: cd"):
        Relay(RelayConfig(1, {}, [Door(1, 2, "cd")]))
