"""What regions may lose for good: an index, a log's old entries, a stream, everything.

Each is done to running regions under reads and writes, and ends converged or refused, as DESIGN says.

Indexes have their home in the first region throughout.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from bench.campaign import FAR, HOME, NEAR, PATIENCE_S, Campaign, Writer, say
from bench.readers import Reader, reading
from gateway.up import plan
from gateway.up.plan import Place
from regions.positions import Lsn, epoch_of
from regions.runtime.nats_session import Session

ANCHORS: Final = 20
WITHOUT_INDEX_S: Final = 2.0
"""How long an emptied node has no index at all: its operator is not there yet."""
CALL_S: Final = 5.0
BACK_S: Final = 45.0
"""A breaker that opened while the index was away stays so for half a minute."""


# --- A lost index --------------------------------------------------------------------------------


async def wiped_node(campaign: Campaign) -> None:
    """A node loses its disk: it comes back without the index, which is then made anew, empty."""
    place = _place(campaign, FAR)

    async def wipe() -> None:
        await campaign.rig.hold(f"{FAR} node")
        shutil.rmtree(place.node_data)
        place.node_data.mkdir()
        await campaign.rig.let_go(f"{FAR} node")
        await asyncio.sleep(WITHOUT_INDEX_S)
        await campaign.rig.make_indexes(place)

    await _wiped(campaign, place, "wiped disk", f"{FAR} node killed, its data directory deleted", wipe)


async def wiped_index(campaign: Campaign) -> None:
    """The home's own index is deleted and made anew while its node runs on."""
    place = _place(campaign, HOME)

    async def wipe() -> None:
        await campaign.rig.drop_index(place)
        await campaign.rig.make_indexes(place)

    await _wiped(campaign, place, "re-created index", f"{HOME} index deleted and made anew, empty", wipe)


async def _wiped(
    campaign: Campaign, place: Place, name: str, what: str, wipe: Callable[[], Awaitable[None]]
) -> None:
    say(what)
    namespace = name.replace(" ", "-")
    anchors = await campaign.anchors(namespace, ANCHORS)
    await campaign.rig.until_everywhere(campaign.rig.places[0], PATIENCE_S)
    readers = [Reader(campaign.rig, place, namespace, anchors, floors) for floors in (True, False)]
    async with reading(readers):
        async with campaign.writing(campaign.rig.places, 1):
            await asyncio.sleep(1)
            await wipe()
            await asyncio.sleep(4)
        seconds, checked, wrong = await campaign.until_equal()
        await campaign.rig.until_readable()
        for reader in readers:
            reader.served.clear()
        own_s = await _own_again(readers[0], place)
    problems = [*wrong[:5]]
    problems += [f"reads: {reader}" for reader in readers if reader.told.keys() != {"found"}]
    if own_s > BACK_S:
        problems.append(f"{place.region} does not read from its own replica again")
    reads = sum(reader.count("found") for reader in readers)
    counted = (
        f"{name}: copied back {seconds:.0f} s after the writes, {checked} ids equal, {reads} reads there, by "
        f"its own replica again {own_s:.0f} s later"
    )
    campaign.account.judge(name, counted, problems)


async def _own_again(reader: Reader, place: Place) -> float:
    """After how many seconds the region's own replica answers; more than `BACK_S` when it does not."""
    begun_s = asyncio.get_running_loop().time()
    while not reader.served[place.region]:
        await asyncio.sleep(0.1)
        if asyncio.get_running_loop().time() - begun_s > BACK_S:
            break
    return asyncio.get_running_loop().time() - begun_s


# --- A trimmed log -------------------------------------------------------------------------------


async def trimmed(campaign: Campaign) -> None:
    """A region's replicator is away while the home's log loses what it has not read."""
    say(f"{FAR} replicator held down; the log of {HOME} purged beyond what it has read")
    rig, home = campaign.rig, _place(campaign, HOME)
    anchors = await campaign.anchors("trimmed", ANCHORS)
    async with campaign.writing(rig.places, 1):
        await asyncio.sleep(2)
        await rig.hold(f"{FAR} replicator")
        await asyncio.sleep(4)
    missed = await campaign.anchors("trimmed-missed", ANCHORS)
    await _until_near_has_all(campaign)
    async with rig.log_server(home) as server:
        purged = await _purge(server)
    reader = Reader(rig, _place(campaign, FAR), "trimmed-missed", missed, True)
    async with reading([reader]):
        await rig.let_go(f"{FAR} replicator")
        async with campaign.writing(rig.places, 1):
            await asyncio.sleep(2)
        seconds, checked, wrong = await campaign.until_equal()
    problems = [*wrong[:5]]
    if reader.told.keys() != {"found"}:
        problems.append(f"reads: {reader}")
    counted = (
        f"trimmed log: {purged} entries purged, copied {seconds:.0f} s after the writes, {checked} ids equal"
    )
    campaign.account.judge(
        "trimmed log", f"{counted}, {len(anchors) + len(missed)} records there to stay", problems
    )


async def _until_near_has_all(campaign: Campaign) -> None:
    """The home and its near neighbour show everything that is written by now."""
    begun_s = asyncio.get_running_loop().time()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            standings = (await campaign.rig.standings(campaign.rig.places[0])).get(plan.INDEX, {})
            lags = [standings.get(region, {}).get("queryable_lag_s") for region in (HOME, NEAR)]
            waited_s = asyncio.get_running_loop().time() - begun_s
            if all(lag is not None and lag < waited_s for lag in lags):
                return
            await asyncio.sleep(0.1)


async def _purge(server: Session) -> int:
    """Purge every change and heartbeat that is there, and no fence, as trimming does; how many went."""
    count = 0
    for name in await _streams(server):
        info = await server.api(f"STREAM.INFO.{name}", timeout_s=CALL_S)
        shard, after = name.rpartition("-")[2], info["state"]["last_seq"] + 1
        for subject in (f"meridian.changes.{shard}.>", f"meridian.beat.{shard}"):
            body = {"filter": subject, "seq": after}
            count += (await server.api(f"STREAM.PURGE.{name}", body, timeout_s=CALL_S))["purged"]
    return count


async def _streams(server: Session) -> list[str]:
    """The streams that hold changes."""
    names: list[str] = (await server.api("STREAM.NAMES", {}, timeout_s=CALL_S))["streams"]
    return [name for name in names if name.startswith("meridian-changes-")]


# --- A lost stream -------------------------------------------------------------------------------


async def recreated_streams(campaign: Campaign) -> None:
    """The home's streams are deleted; whoever connects next makes new ones. Its registers stay."""
    home = _place(campaign, HOME)

    async def lose() -> None:
        async with campaign.rig.log_server(home) as server:
            for name in await _streams(server):
                await server.api(f"STREAM.DELETE.{name}", timeout_s=CALL_S)

    await _recreated(campaign, "re-created streams", f"the streams of {HOME} deleted", lose)


async def lost_home(campaign: Campaign) -> None:
    """The home region loses every disk: its log, its registers and its index come back empty."""
    home = _place(campaign, HOME)
    names = [f"{HOME} {each}" for each in ("log", "node", "replicator")]

    async def lose() -> None:
        await campaign.rig.hold(*names)
        shutil.rmtree(home.log_data / "store")
        shutil.rmtree(home.node_data)
        home.node_data.mkdir()
        await campaign.rig.let_go(*names)
        await campaign.rig.make_indexes(home)

    await _recreated(campaign, "lost home", f"{HOME} loses its log, its registers and its index", lose)


async def _recreated(campaign: Campaign, name: str, what: str, lose: Callable[[], Awaitable[None]]) -> None:
    """Appends are refused until a promotion opens the next epoch; nothing that was applied goes away."""
    say(what)
    rig, namespace = campaign.rig, name.replace(" ", "-")
    anchors = await campaign.anchors(namespace, ANCHORS)
    await rig.until_everywhere(rig.places[0], PATIENCE_S)
    readers = [
        Reader(rig, place, namespace, anchors, floors) for place in rig.places for floors in (True, False)
    ]
    async with reading(readers):
        await lose()
        async with campaign.writing(rig.places, 1) as early:
            await asyncio.sleep(3)
            seconds, checked, wrong = await _converged(campaign)
        await campaign.command("promote", _place(campaign, HOME), "--to", HOME)
        async with campaign.writing(rig.places, 1) as late:
            await asyncio.sleep(2)
        new = await campaign.written(_place(campaign, FAR), namespace, f"{namespace}-new")
        await rig.until_readable()
        _, checked, still = await campaign.until_equal()
    problems = [*wrong[:3], *still[:3], *_misread(readers), *_mistold(early, late)]
    old = max(anchors.values())
    if epoch_of(new) <= epoch_of(old):
        problems.append(f"a write after the promotion has epoch {epoch_of(new)}, as one before")
    statuses = await _statuses(campaign, namespace, anchors)
    if statuses != {409}:
        problems.append(f"floors of the lost streams are answered with {sorted(statuses)}, not 409")
    refused = sum(writer.told["refused"] for writer in early)
    counted = (
        f"{name}: {refused} writes refused, none taken, until epoch {epoch_of(new)} was opened; equal after "
        f"{seconds:.0f} s, {checked} ids"
    )
    campaign.account.judge(name, counted, problems)


async def _converged(campaign: Campaign) -> tuple[float, int, list[str]]:
    """Writes are all refused meanwhile, so that replicas can be compared."""
    seconds, checked, wrong = await campaign.until_equal()
    await campaign.rig.until_readable()
    return seconds, checked, wrong


def _misread(readers: Sequence[Reader]) -> list[str]:
    """Reads may be refused while nobody knows where the replicas are, and never be wrong."""
    return [
        f"reads: {reader}"
        for reader in readers
        if reader.count("missing") or reader.count("failed") or not reader.count("found")
    ]


def _mistold(early: Sequence[Writer], late: Sequence[Writer]) -> list[str]:
    taken = sum(writer.told["acked"] for writer in early)
    silent = [writer for writer in late if not writer.told["acked"]]
    found = [f"{taken} writes taken under the old epoch"] if taken else []
    return found + ([f"{len(silent)} writers got nothing written after the promotion"] if silent else [])


async def _statuses(campaign: Campaign, namespace: str, anchors: Mapping[str, Lsn]) -> set[int]:
    """What floors from before are answered with, in every region."""
    found: set[int] = set()
    for place in campaign.rig.places:
        for id_, lsn in anchors.items():
            headers = {**campaign.rig.headers, "x-meridian-min-lsn": str(lsn)}
            params: dict[str, Any] = {"namespace": namespace, "ids": id_}
            url = f"{place.gateway_url}/i/{plan.INDEX}/vectors/fetch"
            async with campaign.rig.http.get(url, params=params, headers=headers) as answer:
                found.add(answer.status)
    return found


def _place(campaign: Campaign, region: str) -> Place:
    return next(place for place in campaign.rig.places if place.region == region)
