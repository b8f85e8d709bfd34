"""The right to append at an index's home, kept until it is refused."""

from collections.abc import Callable, Mapping

from regions.errors import LogRecreated, LogUnavailable
from regions.logs.base import Fence, Log
from regions.names import IndexName, RegionId
from regions.topology import Home, Topology


class Fences:
    """One fence an index, of the epoch that the topology says is the present one."""

    def __init__(self, logs: Mapping[RegionId, Log], topology: Callable[[], Topology]) -> None:
        self._logs, self._topology = logs, topology
        self._fences: dict[IndexName, Fence] = {}

    async def fence(self, index: IndexName, *, timeout_s: float) -> tuple[Fence, Log]:
        """The fence of the index's present epoch, and the log it is of.

        Raises: LogUnavailable: nobody knows the home, or its log cannot be reached. StaleEpoch: the topology
        is not up to date. LogRecreated: the home's log is not the one that the epoch began in.
        """
        home = self._topology().homes.get(index)
        if home is None:
            raise LogUnavailable(f"the home of {index} is not known yet")
        log = self._logs[home.region]
        kept = self._fences.get(index)
        if kept is None or kept.epoch != home.epoch:
            await self._check_streams(home, log, timeout_s)
            kept = await log.open_epoch(index, home.epoch, timeout_s=timeout_s)
            self._fences[index] = kept
        return kept, log

    def forget(self, index: IndexName) -> None:
        """The fence was refused."""
        self._fences.pop(index, None)

    async def _check_streams(self, home: Home, log: Log, timeout_s: float) -> None:
        """An epoch never goes on in another stream than its own: its positions would begin anew."""
        for shard, expected in enumerate(home.term.streams):
            state = await log.state(shard, timeout_s=timeout_s)
            if state.incarnation != expected:
                raise LogRecreated(
                    f"shard {shard} of {home.region} is not the stream in which epoch {home.epoch} of "
                    f"{home.index} began: promote a region, this one or another, to open the next epoch"
                )
