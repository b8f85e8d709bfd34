"""A journal in memory, for simulation and tests: the contract of `base.py`, gone with its process.

`go_down`, `come_up`: the server cannot be reached, and can again. `lose_next_ack`: the next append is stored
and its answer lost. `trim_before`: the oldest records go. `recreate`: the stream was deleted and made anew.
"""

from collections.abc import AsyncGenerator, Callable, Sequence

from pydantic import BaseModel, ConfigDict

from regions.errors import AppendUnknown, LogRecreated, LogTrimmed, LogUnavailable
from regions.journals.base import JournalState, Record, check
from regions.names import RegionId
from regions.runtime.lifecycle import wall_clock


class Config(BaseModel):
    """Nothing to say."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def build(config: Config, *, region: RegionId, name: str, resolve: Callable[..., str]) -> "MemoryJournal":
    """A journal that is gone with the process."""
    del config, name, resolve
    return MemoryJournal(region, wall_clock)


class MemoryJournal:
    """`regions.journals.base.Journal` in a list; any number of clients may share it, as they do a server."""

    def __init__(self, region: RegionId, clock: Callable[[], float]) -> None:
        self._region, self._clock = region, clock
        self._made, self._first = 1, 1
        self._records: list[Record] = []
        self._is_up, self._loses_ack = True, False

    @property
    def region(self) -> RegionId:
        return self._region

    async def start(self) -> None:
        self._check_up()

    async def append(self, records: Sequence[bytes], *, timeout_s: float) -> int:
        check(records)
        self._check_up()
        for data in records:
            self._records.append(Record(self._last + 1, self._clock(), bytes(data)))
        if self._loses_ack:
            self._loses_ack = False
            raise AppendUnknown(f"the journal of {self._region}: no answer in {timeout_s} s")
        return self._last

    async def state(self, *, timeout_s: float) -> JournalState:
        self._check_up()
        return JournalState(str(self._made), self._first, self._last)

    async def read(self, after: int, incarnation: str) -> AsyncGenerator[Record, None]:
        self._check_up()
        if incarnation != str(self._made) or after > self._last:
            raise LogRecreated(f"the journal of {self._region} is another one, or ends before {after}")
        if after + 1 < self._first:
            raise LogTrimmed(0, after, self._first)
        for record in self._records[after + 1 - self._first :]:
            self._check_up()
            yield record

    async def close(self) -> None:
        """What was appended stays, as on a server."""

    def go_down(self) -> None:
        """From now on every call raises LogUnavailable."""
        self._is_up = False

    def come_up(self) -> None:
        """Answer again, with everything that was stored."""
        self._is_up = True

    def lose_next_ack(self) -> None:
        """Store the next append, and do not say so."""
        self._loses_ack = True

    def trim_before(self, first: int) -> None:
        """Let every record before that one go."""
        self._records = [record for record in self._records if record.sequence >= first]
        self._first = max(self._first, first)

    def recreate(self) -> None:
        """Begin anew, empty."""
        self._made, self._first, self._records = self._made + 1, 1, []

    @property
    def _last(self) -> int:
        return self._first + len(self._records) - 1

    def _check_up(self) -> None:
        if not self._is_up:
            raise LogUnavailable(f"the journal of {self._region} cannot be reached")
