"""Readers that know what they must find: each asks one gateway for acknowledged records that stay."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from bench.three_regions import Rig
from gateway.up import plan
from gateway.up.plan import Place
from regions.positions import Lsn

PAUSE_S: Final = 0.02
REFUSED: Final = frozenset({409, 503, 504})
"""Not fresh enough, nobody answers, or the floor's epoch ended before it: the caller was told so."""


class Reader:
    """Fetches one anchor after the other through a gateway, by its floor or without one, and counts.

    `told`: "found", "refused" with the status, "missing" (200 and not there: below the floor, or lost), or
    "failed" (anything else).
    """

    def __init__(
        self, rig: Rig, place: Place, namespace: str, anchors: Mapping[str, Lsn], floors: bool
    ) -> None:
        self._rig, self._place, self._namespace = rig, place, namespace
        self._anchors, self._floors = anchors, floors
        self.told: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        """Answers, by the region whose replica gave them."""

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            for id_, lsn in self._anchors.items():
                self.told[await self._ask(id_, lsn)] += 1
                await asyncio.sleep(PAUSE_S)
                if stop.is_set():
                    return

    async def _ask(self, id_: str, lsn: Lsn) -> str:
        headers = dict(self._rig.headers)
        if self._floors:
            headers["x-meridian-min-lsn"] = str(lsn)
        params = {"namespace": self._namespace, "ids": id_}
        url = f"{self._place.gateway_url}/i/{plan.INDEX}/vectors/fetch"
        try:
            async with self._rig.http.get(
                url, params=params, headers=headers, timeout=aiohttp.ClientTimeout(15)
            ) as answer:
                if answer.status == 200:
                    self.served[answer.headers["x-meridian-replica"]] += 1
                    return "found" if id_ in (await answer.json())["vectors"] else "missing"
                return f"refused {answer.status}" if answer.status in REFUSED else f"failed {answer.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"failed {type(error).__name__}"

    def count(self, outcome: str) -> int:
        """How often it was told that, whatever the status."""
        return sum(count for told, count in self.told.items() if told.startswith(outcome))

    def __str__(self) -> str:
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.told.items()))
        return f"{self._place.region} {'with' if self._floors else 'without'} floors: {told}"


@asynccontextmanager
async def reading(readers: Sequence[Reader]) -> AsyncIterator[None]:
    """They read for as long as the block lasts."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for reader in readers:
            tasks.create_task(reader.run(stop))
        try:
            yield
        finally:
            stop.set()
