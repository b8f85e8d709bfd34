"""A stand-in for the network between places: a TCP relay whose links have a delay and can be cut.

A *link* joins two places; it has a one-way delay, and is whole or cut. A *door* is a port whose connections
are relayed to another port over a link. What holds:

- Bytes arrive in order, none earlier than the delay after they were sent; opening takes a round trip first.
- A cut link is silent, as a network is: nothing arrives and nobody is told. What was sent before or during
  the cut arrives when the link is healed, as TCP sends again what was lost.
- At most `MAX_HELD_BYTES` a direction are on their way; beyond that the sender is slowed down.

It runs in a process of its own (`python -m regions.runtime.relay FILE`), so that nothing else that keeps an
event loop busy is seen as delay. It is told what to do by lines of text on its control port, each answered
by `ok` or by a line that says what is wrong::

    cut LINK | heal LINK | delay LINK MILLISECONDS
"""

import asyncio
import os
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, cast

import msgspec

from regions.runtime import lifecycle
from regions.runtime.parent import bind_to_parent

HOST: Final = "127.0.0.1"
MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""Per direction of a connection: several times what 50 MB/s over 110 ms has under way."""


class Door(msgspec.Struct, frozen=True):
    """Connections to `port` go to `to_port`, over `link`; both on loopback."""

    port: int
    to_port: int
    link: str


class RelayConfig(msgspec.Struct, frozen=True):
    """The relay's file. `delays_ms` is the one-way delay of each link, in milliseconds."""

    control_port: int
    delays_ms: dict[str, float]
    doors: list[Door]


class Link:
    """Its delay and whether it is cut; its pipes are woken when either changes."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.whole = asyncio.Event()
        self.whole.set()
        self._pipes: set[_Pipe] = set()

    @property
    def is_cut(self) -> bool:
        return not self.whole.is_set()

    def cut(self) -> None:
        self.whole.clear()

    def heal(self) -> None:
        self.whole.set()
        for pipe in tuple(self._pipes):
            pipe.deliver()

    def join(self, pipe: "_Pipe") -> None:
        self._pipes.add(pipe)

    def leave(self, pipe: "_Pipe") -> None:
        self._pipes.discard(pipe)


class _Pipe:
    """One direction of a connection: what was read at one end waits here until it is due at the other."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes]] = deque()  # an empty piece is the end
        self._held = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_sink_full = False
        self._is_source_paused = False
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        link.join(self)

    def take(self, piece: bytes) -> None:
        """A piece that was read; empty when the sender has gone."""
        self._waiting.append((self._loop.time() + self._link.delay_s, piece))
        self._held += len(piece)
        if self._held > MAX_HELD_BYTES and self.source is not None and not self._is_source_paused:
            self.source.pause_reading()
            self._is_source_paused = True
        if self._timer is None:
            self.deliver()

    def begin(self, sink: asyncio.Transport) -> None:
        """There is somebody to hand over to: what came before is sent only now."""
        self.sink = sink
        due_s = self._loop.time() + self._link.delay_s
        self._waiting = deque((due_s, piece) for _, piece in self._waiting)
        self.deliver()

    def deliver(self) -> None:
        """Hand over what is due, and come back when the next piece is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self.sink is not None and not self._link.is_cut and not self._is_sink_full:
            due_s, piece = self._waiting[0]
            if due_s > self._loop.time():
                self._timer = self._loop.call_at(due_s, self.deliver)
                return
            self._waiting.popleft()
            self._hand_over(self.sink, piece)

    def _hand_over(self, sink: asyncio.Transport, piece: bytes) -> None:
        if not piece:
            self._link.leave(self)
            sink.close()
            return
        sink.write(piece)
        self._held -= len(piece)
        if self._is_source_paused and self._held < MAX_HELD_BYTES // 2 and self.source is not None:
            self._is_source_paused = False
            if not self.source.is_closing():
                self.source.resume_reading()

    def sink_full(self, is_full: bool) -> None:
        self._is_sink_full = is_full
        self.deliver()

    def drop(self) -> None:
        """The receiver is gone: nothing more can be handed over."""
        self._waiting.clear()
        self._held = 0
        self._link.leave(self)
        if self._timer is not None:
            self._timer.cancel()


class _End(asyncio.Protocol):
    """One end of a connection: what it reads goes `out`, what it is to write comes `back`.

    An end that closes its sending side closes the connection: neither HTTP nor NATS closes by halves.
    """

    def __init__(self, out: _Pipe, back: _Pipe, opened: set["_End"]) -> None:
        self._out, self._back, self._opened = out, back, opened
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._opened.add(self)
        self._out.source = cast(asyncio.Transport, transport)
        self._back.begin(self._out.source)

    def abort(self) -> None:
        if self._back.sink is not None:
            self._back.sink.abort()

    def data_received(self, data: bytes) -> None:
        self._out.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._opened.discard(self)
        self.gone.set()
        self._back.drop()
        self._out.take(b"")

    def pause_writing(self) -> None:
        self._back.sink_full(True)

    def resume_writing(self) -> None:
        self._back.sink_full(False)


class Relay:
    """The links and doors of one relay, for as long as its block lasts."""

    def __init__(self, config: RelayConfig) -> None:
        """Raises: ValueError: a door leads over a link that there is not."""
        missing = {door.link for door in config.doors} - config.delays_ms.keys()
        if missing:
            raise ValueError(f"doors lead over unknown links: {', '.join(sorted(missing))}")
        self._config = config
        self._opened: set[_End] = set()
        self.links = {name: Link(delay_ms / 1000) for name, delay_ms in config.delays_ms.items()}

    async def serve(self, stop: asyncio.Event) -> None:
        """Relay until `stop`. Raises: PortTaken."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
            for door in self._config.doors:
                sock = stack.enter_context(lifecycle.bind(HOST, door.port))
                server = await loop.create_server(partial(self._entered, door, tasks), sock=sock)
                stack.callback(server.close)
            sock = stack.enter_context(lifecycle.bind(HOST, self._config.control_port))
            control = await asyncio.start_server(self._control, sock=sock)
            stack.callback(control.close)
            await stop.wait()
            for link in self.links.values():
                link.heal()  # or connections that wait to be opened would wait for ever
        for end in tuple(self._opened):
            end.abort()
            await end.gone.wait()

    def _entered(self, door: Door, tasks: asyncio.TaskGroup) -> _End:
        link = self.links[door.link]
        there, back = _Pipe(link), _Pipe(link)
        tasks.create_task(self._open(door, link, there, back))
        return _End(there, back, self._opened)

    async def _open(self, door: Door, link: Link, there: _Pipe, back: _Pipe) -> None:
        """Open the far side of a connection: after a round trip, as TCP's handshake takes."""
        await asyncio.sleep(2 * link.delay_s)
        await link.whole.wait()
        if there.source is None or there.source.is_closing():
            there.drop()
            return
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: _End(back, there, self._opened), HOST, door.to_port
            )
        except OSError:
            there.drop()
            back.take(b"")  # nobody listens there: the one who asked is told as by a reset

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(f"{self.tell(line.decode().split())}\n".encode())
            await writer.drain()
        writer.close()

    def tell(self, words: Sequence[str]) -> str:
        """Do as a line of the control port says; `ok`, or what is wrong with it."""
        match words:
            case ["cut", name] if name in self.links:
                self.links[name].cut()
            case ["heal", name] if name in self.links:
                self.links[name].heal()
            case ["delay", name, text] if name in self.links and text.replace(".", "", 1).isdecimal():
                self.links[name].delay_s = float(text) / 1000
            case _:
                return f"not understood: {' '.join(words)}; links: {', '.join(self.links)}"
        return "ok"


async def control(port: int, lines: Iterable[str]) -> None:
    """Tell a running relay. Raises: ValueError: it refused a line. OSError: it is not there."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        for line in lines:
            writer.write(f"{line}\n".encode())
            answer = (await reader.readline()).decode().strip()
            if answer != "ok":
                raise ValueError(answer)
    finally:
        writer.close()


def main() -> None:
    """`python -m regions.runtime.relay FILE`: relay as the file (JSON of `RelayConfig`) says."""
    bind_to_parent(os.environ)
    config = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=RelayConfig)
    lifecycle.run(lambda stop: Relay(config).serve(stop))


if __name__ == "__main__":
    main()
