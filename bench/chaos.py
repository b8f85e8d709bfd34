"""Kills and cuts three running regions under writes, and compares what is left with what was acknowledged.

    python -m bench.chaos            kills under 60 s of writes, cuts of 20 and 100 s, a forced promotion
    python -m bench.chaos --quick    the same in about a minute

Every writer keeps a journal of what it was told, synced to disk before it goes on (`bench.journal`). In the
end, every id that was ever written is fetched from all three nodes themselves. Exit code 1 when anything was
lost or resurrected, or the backlog was not cleared in time.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import numpy as np

from bench.journal import GONE, Expected, Journal, Outcome, Wrote, expected
from bench.three_regions import Rig, running
from gateway.up import plan
from gateway.up.plan import Place
from regions.pinecone_api import REQUEST_LSN_HEADER
from regions.positions import Lsn, epoch_of, parse_lsn
from regions.runtime.children import python_module

HOME, NEAR, FAR = plan.REGIONS
CLEAR_S: Final = 5.0
PATIENCE_S: Final = 120.0
NAMESPACES: Final = 8
IDS: Final = 60
"""Of one writer."""
DELETES: Final = 0.3
PAGE: Final = 100
UNIT: Final = [1.0] + [0.0] * (plan.SHAPE.dimension - 1)
KILLS: Final = (
    f"{HOME} replicator",
    f"{FAR} node",
    f"{HOME} log",
    f"{HOME} gateway",
    f"{NEAR} replicator",
    f"{HOME} node",
    f"{FAR} gateway",
    f"{FAR} log",
)


@dataclass
class Account:
    """What the campaign found."""

    told: Counter[str] = field(default_factory=Counter)
    killed: list[str] = field(default_factory=list)
    cleared_s: list[tuple[str, float]] = field(default_factory=list)
    checked: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.wrong and all(seconds <= CLEAR_S for name, seconds in self.cleared_s if "cut" in name)


class Writer:
    """Writes its own ids through one gateway, one request after the other."""

    def __init__(self, rig: Rig, place: Place, name: str, journal: Path, rng: Random) -> None:
        self._rig, self._place, self._rng = rig, place, rng
        self._namespace = f"chaos-{rng.randrange(NAMESPACES)}"
        self._ids = [f"{name}-{n}" for n in range(IDS)]
        self._journal, self._number = Journal(journal), 0
        self._vector = np.random.default_rng(rng.randrange(1 << 32)).standard_normal(plan.SHAPE.dimension)
        self.told: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._number += 1
            is_delete = self._rng.random() < DELETES
            ids = self._rng.sample(self._ids, self._rng.randint(1, 5))
            outcome = await self._send(ids, is_delete=is_delete)
            wrote = Wrote(self._namespace, ids, self._number, is_delete, outcome)
            await asyncio.to_thread(self._journal.note, wrote)
            self.told[outcome] += 1
            if outcome is not Outcome.ACKED:
                await asyncio.sleep(0.1)
        self._journal.close()

    async def _send(self, ids: Sequence[str], *, is_delete: bool) -> Outcome:
        body: dict[str, Any]
        if is_delete:
            path, body = "delete", {"namespace": self._namespace, "ids": list(ids)}
        else:
            values = (self._vector / np.linalg.norm(self._vector)).round(4).tolist()
            vectors = [{"id": id_, "values": values, "metadata": {"n": self._number}} for id_ in ids]
            path, body = "upsert", {"namespace": self._namespace, "vectors": vectors}
        url, timeout = f"{self._place.gateway_url}/i/{plan.INDEX}/vectors/{path}", aiohttp.ClientTimeout(15)
        try:
            async with self._rig.http.post(
                url, json=body, headers=self._rig.headers, timeout=timeout
            ) as answer:
                await answer.read()
        except aiohttp.ClientConnectorError:
            return Outcome.REFUSED  # nobody listened
        except (aiohttp.ClientError, TimeoutError):
            return Outcome.UNKNOWN
        if answer.status == 503:
            return Outcome.REFUSED  # the gateway's word that nothing was written
        return Outcome.ACKED if answer.status == 200 else Outcome.UNKNOWN


class Campaign:
    """One run over one rig."""

    def __init__(self, rig: Rig, folder: Path, rng: Random) -> None:
        self._rig, self._folder, self._rng = rig, folder, rng
        self._journals: list[Path] = []
        self.account = Account()

    @asynccontextmanager
    async def writing(self, places: Sequence[Place], writers: int = 2) -> AsyncIterator[None]:
        """Writers at these gateways for as long as the block lasts."""
        stop, hands = asyncio.Event(), []
        for place in places:
            for _ in range(writers):
                name = f"w{len(self._journals)}"
                journal = self._folder / f"{name}.jsonl"
                self._journals.append(journal)
                hands.append(Writer(self._rig, place, name, journal, Random(self._rng.random())))
        async with asyncio.TaskGroup() as tasks:
            for hand in hands:
                tasks.create_task(hand.run(stop))
            try:
                yield
            finally:
                stop.set()
        for hand in hands:
            self.account.told += hand.told

    # --- What is done to the regions ---------------------------------------------------------

    async def kills(self, names: Sequence[str], load_s: float) -> None:
        """Kill one process after the other, spread over so many seconds of writes at every gateway."""
        say(f"kill -9 under {load_s:.0f} s of writes at all three gateways")
        async with self.writing(self._rig.places):
            for name in names:
                await asyncio.sleep(load_s / (len(names) + 1))
                say(f"  kill -9 {name}")
                if self._rig.kill(name):
                    self.account.killed.append(name)
            await asyncio.sleep(load_s / (len(names) + 1))
        await self._cleared("kills")

    async def cut(self, region: str, seconds: float) -> None:
        """Cut a region off while the others go on writing."""
        say(f"{region} cut off for {seconds:.0f} s, writes at the home")
        async with self.writing([place for place in self._rig.places if place.region == HOME]):
            await self._rig.cut(region)
            await asyncio.sleep(seconds)
            await self._rig.heal(region)
            # Writes go on: what was written before the heal has to arrive all the same.
            await self._cleared(f"cut of {region}, {seconds:.0f} s")
        await self._cleared("after it")

    async def _cleared(self, name: str) -> None:
        seconds = await self._rig.until_everywhere(self._rig.places[0], PATIENCE_S)
        self.account.cleared_s.append((name, seconds))
        say(f"  everything written by then is in every region after {seconds:.1f} s")

    async def promotion(self, tail: int = 20) -> None:
        """Cut the home off with writes it never ships, promote by force, and see what comes of them."""
        say(f"{HOME} cut off; {tail} writes there that nobody else gets; {NEAR} promoted by force")
        us, eu, _ = self._rig.places
        await self._rig.cut(HOME)
        lost = [f"tail-{number}" for number in range(tail)]
        for id_ in lost:
            await self._written(us, id_)
        await self._command("promote", eu, "--to", NEAR, "--forced", "--drain-s", "2")
        kept = [f"new-{number}" for number in range(tail)]
        for id_ in kept:
            await self._written(eu, id_)
        await self._rig.heal(HOME)
        seconds = await self._rig.until_everywhere(eu, PATIENCE_S)
        late = await self._written(us, "late")
        saved = self._folder / "tail.jsonl"
        await self._command("replica", eu, "tail", "--out", str(saved))
        lines = len(saved.read_text().splitlines())
        await self._command(
            "replica", eu, "resync", "--region", HOME, "--namespace", f"{plan.TENANT}.promotion"
        )
        held = await self._until_converged([*kept, "late"], lost)
        self.account.notes.append(
            f"Forced promotion: epoch {epoch_of(late)} at {NEAR}; {lines} of {tail} unshipped writes saved "
            f"to a file; everything else in every region {seconds:.1f} s after the old home was back; "
            f"after a resync of the old home: {held}."
        )
        if lines != tail or not held.startswith("equal"):
            self.account.wrong["not converged"] += 1

    async def _written(self, place: Place, id_: str) -> Lsn:
        """Upsert a record through a region's gateway until that is acknowledged; its position."""
        body = {"namespace": "promotion", "vectors": [{"id": id_, "values": UNIT, "metadata": {"n": 1}}]}
        url = f"{place.gateway_url}/i/{plan.INDEX}/vectors/upsert"
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with self._rig.http.post(url, json=body, headers=self._rig.headers) as answer:
                    if answer.status == 200:
                        return parse_lsn(answer.headers[REQUEST_LSN_HEADER])
                await asyncio.sleep(0.2)

    async def _until_converged(self, kept: Sequence[str], lost: Sequence[str]) -> str:
        """Wait until every node holds exactly the records to keep; what they hold, in words."""
        for _ in range(60):
            held = [await self._held(place, "promotion", [*kept, *lost]) for place in self._rig.places]
            if all(set(each) == set(kept) for each in held):
                return f"equal in every region, {len(kept)} records, none of the tail"
            await asyncio.sleep(0.5)
        counts = [f"{len(set(each) & set(kept))} and {len(set(each) & set(lost))}" for each in held]
        return f"of {len(kept)} records to keep and {len(lost)} of the tail there are {', '.join(counts)}"

    async def _command(self, name: str, place: Place, *args: str) -> None:
        """Run a `meridian` command with a region's file. Raises: RuntimeError: it failed."""
        words = [*args, "--config", str(place.gateway_file), "--index", plan.INDEX]
        code, said = await command(name, *words)
        say("  " + said.strip().replace("\n", "\n  "))
        if code:
            raise RuntimeError(f"meridian {name} ended with code {code}")

    # --- What is left ------------------------------------------------------------------------

    async def compare(self) -> None:
        """Fetch every id from every node, and judge what it holds."""
        wanted = expected(self._journals)
        for place in self._rig.places:
            for namespace in sorted({name for name, _ in wanted}):
                ids = [id_ for name, id_ in wanted if name == namespace]
                held = await self._held(place, namespace, ids)
                for id_ in ids:
                    self._judge(place, namespace, id_, held.get(id_, GONE), wanted[namespace, id_])

    def _judge(self, place: Place, namespace: str, id_: str, holds: int, may: Expected) -> None:
        self.account.checked += 1
        verdict = may.judge(holds)
        if verdict:
            self.account.wrong[verdict] += 1
            said = (
                f"{place.region} {namespace}/{id_}: holds {holds}, acknowledged {may.leaves} by {may.acked}"
            )
            self.account.examples.append(f"{verdict}: {said}, perhaps {sorted(may.perhaps)}")

    async def _held(self, place: Place, namespace: str, ids: Sequence[str]) -> dict[str, int]:
        """The number that each id holds in a region's own node."""
        held: dict[str, int] = {}
        for at in range(0, len(ids), PAGE):
            params = [("namespace", f"{plan.TENANT}.{namespace}"), *(("ids", i) for i in ids[at : at + PAGE])]
            url = f"{place.replica_url()}/vectors/fetch"
            async with self._rig.http.get(url, params=params, headers={"Api-Key": "node"}) as answer:
                answer.raise_for_status()
                vectors = (await answer.json())["vectors"]
            held |= {id_: int(record["metadata"]["n"]) for id_, record in vectors.items()}
        return held


async def command(*args: str) -> tuple[int, str]:
    """A `meridian` command's exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *python_module("gateway", *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


def say(text: str) -> None:
    print(text, flush=True)


def report(account: Account) -> str:
    """The account as Markdown."""
    told, wrong = account.told, account.wrong
    cleared = "\n".join(f"| {name} | {seconds:.1f} s |" for name, seconds in account.cleared_s)
    lines = [
        "# Three regions, killed and cut under writes",
        "",
        f"{told['acked']} writes acknowledged, {told['refused']} refused, {told['unknown']} unanswered.",
        f"Killed with SIGKILL: {', '.join(account.killed)}.",
        "",
        f"{account.checked} ids compared over three replicas: "
        f"**{wrong['lost']} acknowledged writes lost, {wrong['resurrected']} resurrected**.",
        "",
        "| after | everything in every region after |",
        "|---|---|",
        cleared,
        *(f"\n{note}" for note in account.notes),
        *(f"\n    {example}" for example in account.examples[:20]),
    ]
    return "\n".join(lines) + "\n"


async def run(args: argparse.Namespace) -> Account:
    with tempfile.TemporaryDirectory(prefix="meridian-chaos-") as folder:
        say("starting three regions")
        async with running(Path(folder) / "regions", say=say) as rig:
            campaign = Campaign(rig, Path(folder), Random(args.seed))
            if args.quick:
                await campaign.kills(KILLS[:4], 20)
                await campaign.cut(NEAR, 5)
            else:
                await campaign.kills(KILLS, 60)
                await campaign.cut(NEAR, 20)
                await campaign.cut(FAR, 100)
            await campaign.compare()
            await campaign.promotion()
            return campaign.account


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="half the kills and one short cut")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, help="write it there too, as Markdown")
    args = parser.parse_args()
    account = asyncio.run(run(args))
    text = report(account)
    say(text)
    if args.report:
        args.report.write_text(text)
    return 0 if account.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
