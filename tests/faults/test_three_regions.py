"""Three regions as real processes: a write travels, its reader sees it, and no kill or cut loses it."""

import asyncio
from pathlib import Path
from random import Random
from typing import Final

import pytest

from bench.campaign import Campaign
from bench.three_regions import Rig, running
from gateway.up import plan
from gateway.up.plan import Place
from regions.pinecone_api import REQUEST_LSN_HEADER

HOME, NEAR, FAR = plan.REGIONS
FIRST_PORT: Final = 25_401
VECTOR: Final = [1.0] + [0.0] * (plan.SHAPE.dimension - 1)


async def write(rig: Rig, place: Place, id_: str) -> str:
    """Upsert a record through a region's gateway; the position of the write."""
    body = {"namespace": "own", "vectors": [{"id": id_, "values": VECTOR}]}
    url = f"{place.gateway_url}/i/{plan.INDEX}/vectors/upsert"
    async with rig.http.post(url, json=body, headers=rig.headers) as answer:
        assert answer.status == 200, await answer.text()
        return answer.headers[REQUEST_LSN_HEADER]


async def read(rig: Rig, place: Place, id_: str, floor: str) -> tuple[bool, str]:
    """Whether a region's gateway finds the record, and whose replica it asked."""
    params = {"namespace": "own", "ids": id_}
    headers = {**rig.headers, "x-meridian-min-lsn": floor}
    url = f"{place.gateway_url}/i/{plan.INDEX}/vectors/fetch"
    async with rig.http.get(url, params=params, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return id_ in (await answer.json())["vectors"], answer.headers["x-meridian-replica"]


@pytest.mark.slow
@pytest.mark.faults
async def test_three_regions_lose_nothing_when_killed_and_cut(tmp_path: Path) -> None:
    async with asyncio.timeout(180), running(tmp_path / "regions", first_port=FIRST_PORT) as rig:
        us, eu, ap = rig.places

        # A write through eu-west, whose home is us-east, is read at once in ap-southeast by its floor.
        floor = await write(rig, eu, "first")
        assert (await read(rig, ap, "first", floor))[0]
        # In a moment every region has it itself.
        await rig.until_everywhere(us, 30)
        for place in rig.places:
            assert await read(rig, place, "first", floor) == (True, place.region)

        # A node is killed: the next read in its region is a neighbour's answer, in the same request.
        assert rig.kill(f"{FAR} node")
        found, replica = await read(rig, ap, "first", floor)
        assert found
        assert replica in (HOME, NEAR)

        # Kills and a cut under writes: what was acknowledged is there, and nothing else.
        campaign = Campaign(rig, tmp_path, Random(1))
        await campaign.kills([f"{HOME} log", f"{NEAR} replicator", f"{HOME} gateway"], 6)
        await campaign.cut(NEAR, 2)
        await campaign.compare()
        assert campaign.account.told["acked"] > 0
        assert campaign.account.checked > 0
        assert not campaign.account.wrong, campaign.account.examples
