"""Writers, their journals, and the comparison in the end: what every chaos case stands on.

Every writer keeps a journal of what it was told, synced to disk before it goes on (`bench.journal`). Every id
that was ever written is fetched from all three nodes themselves.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import numpy as np

from bench.journal import GONE, Expected, Journal, Outcome, Wrote, expected
from bench.three_regions import Rig
from gateway.up import plan
from gateway.up.plan import Place
from regions.pinecone_api import REQUEST_LSN_HEADER
from regions.positions import Lsn, parse_lsn
from regions.runtime.children import python_module

HOME, NEAR, FAR = plan.REGIONS
CLEAR_S: Final = 5.0
PATIENCE_S: Final = 120.0
NAMESPACES: Final = 8
WRITES_PER_S: Final = 25
"""Of one writer; three ids each, on average."""
IDS: Final = 60
"""Of one writer."""
DELETES: Final = 0.3
PAGE: Final = 100
UNIT: Final = [1.0] + [0.0] * (plan.SHAPE.dimension - 1)


def say(text: str) -> None:
    print(text, flush=True)


@dataclass
class Account:
    """What the campaign found."""

    told: Counter[str] = field(default_factory=Counter)
    killed: list[str] = field(default_factory=list)
    cleared_s: list[tuple[str, float]] = field(default_factory=list)
    checked: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    cases: list[tuple[str, bool, str]] = field(default_factory=list)
    """Each case of damage: its name, whether it ended as DESIGN says, and what was counted."""

    @property
    def is_good(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """Why the run is no success, in words."""
        found = [f"{count} {verdict}" for verdict, count in self.wrong.items()]
        found += [f"{name}: {s:.1f} s" for name, s in self.cleared_s if "cut" in name and s > CLEAR_S]
        return found + [name for name, is_good, _ in self.cases if not is_good]

    def judge(self, name: str, counted: str, problems: Iterable[str]) -> None:
        """Note how a case ended, and say so."""
        found = list(problems)
        verdict = f"NOT AS DESIGNED: {'; '.join(found)}" if found else "as designed"
        self.cases.append((name, not found, f"{counted}: {verdict}"))
        say(f"  {counted}: {verdict}")


class Writer:
    """Writes its own ids through one gateway, one request after the other, `WRITES_PER_S` at most.

    At full speed writers would take whatever the machine has, and a backlog would measure the scheduler.
    """

    def __init__(self, rig: Rig, place: Place, name: str, journal: Path, rng: Random) -> None:
        self._rig, self._place, self._rng = rig, place, rng
        self._namespace = f"chaos-{rng.randrange(NAMESPACES)}"
        self._ids = [f"{name}-{n}" for n in range(IDS)]
        self._journal, self._number = Journal(journal), 0
        self._vector = np.random.default_rng(rng.randrange(1 << 32)).standard_normal(plan.SHAPE.dimension)
        self.told: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while not stop.is_set():
            await asyncio.sleep(due_s - loop.time())
            due_s = max(due_s, loop.time() - 1.0) + 1 / WRITES_PER_S
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
        self.rig, self.folder, self._rng = rig, folder, rng
        self._journals: list[Path] = []
        self.account = Account()

    # --- Writing -----------------------------------------------------------------------------

    @asynccontextmanager
    async def writing(self, places: Sequence[Place], writers: int = 2) -> AsyncIterator[Sequence[Writer]]:
        """Writers at these gateways for as long as the block lasts."""
        stop = asyncio.Event()
        hands = [
            Writer(self.rig, place, name, self._journal(name), Random(self._rng.random()))
            for place in places
            for name in (f"w{len(self._journals) + 1}" for _ in range(writers))
        ]
        async with asyncio.TaskGroup() as tasks:
            for hand in hands:
                tasks.create_task(hand.run(stop))
            try:
                yield hands
            finally:
                stop.set()
        for hand in hands:
            self.account.told += hand.told

    def _journal(self, name: str) -> Path:
        self._journals.append(self.folder / f"{name}.jsonl")
        return self._journals[-1]

    async def anchors(self, namespace: str, count: int) -> dict[str, Lsn]:
        """Records that stay from now on, noted in a journal like every other; the position of each."""
        journal = Journal(self._journal(f"anchors-{len(self._journals)}"))
        found: dict[str, Lsn] = {}
        for id_ in (f"{namespace}-{n}" for n in range(count)):
            found[id_] = await self.written(self.rig.places[0], namespace, id_)
            journal.note(Wrote(namespace, [id_], 1, is_delete=False, outcome=Outcome.ACKED))
        journal.close()
        return found

    async def written(self, place: Place, namespace: str, id_: str) -> Lsn:
        """Upsert a record, number 1, through a region's gateway until that is acknowledged; its position."""
        body = {"namespace": namespace, "vectors": [{"id": id_, "values": UNIT, "metadata": {"n": 1}}]}
        url = f"{place.gateway_url}/i/{plan.INDEX}/vectors/upsert"
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with self.rig.http.post(url, json=body, headers=self.rig.headers) as answer:
                    if answer.status == 200:
                        return parse_lsn(answer.headers[REQUEST_LSN_HEADER])
                await asyncio.sleep(0.2)

    # --- Kills and cuts ----------------------------------------------------------------------

    async def kills(self, names: Sequence[str], load_s: float) -> None:
        """Kill one process after the other, spread over so many seconds of writes at every gateway."""
        say(f"kill -9 under {load_s:.0f} s of writes at all three gateways")
        async with self.writing(self.rig.places):
            for name in names:
                await asyncio.sleep(load_s / (len(names) + 1))
                say(f"  kill -9 {name}")
                if self.rig.kill(name):
                    self.account.killed.append(name)
            await asyncio.sleep(load_s / (len(names) + 1))
        await self.cleared("kills")

    async def cut(self, region: str, seconds: float) -> None:
        """Cut a region off while the others go on writing."""
        say(f"{region} cut off for {seconds:.0f} s, writes at the home")
        async with self.writing([place for place in self.rig.places if place.region == HOME]):
            await self.rig.cut(region)
            await asyncio.sleep(seconds)
            await self.rig.heal(region)
            # Writes go on: what was written before the heal has to arrive all the same.
            await self.cleared(f"cut of {region}, {seconds:.0f} s")
        await self.cleared("after it")

    async def cleared(self, name: str) -> None:
        """Wait until what is written by now is everywhere, and note how long that took."""
        seconds = await self.rig.until_everywhere(self.rig.places[0], PATIENCE_S)
        self.account.cleared_s.append((name, seconds))
        say(f"  everything written by then is in every region after {seconds:.1f} s")

    # --- What is left ------------------------------------------------------------------------

    async def compare(self) -> None:
        """Fetch every id from every node, and judge what it holds."""
        found, checked = await self._compared()
        self.account.checked += checked
        for verdict, line in found:
            self.account.wrong[verdict] += 1
            self.account.examples.append(f"{verdict}: {line}")

    async def until_equal(self, patience_s: float = PATIENCE_S) -> tuple[float, int, list[str]]:
        """Compare until nothing is wrong in any node: how many seconds, ids compared, what stayed wrong.

        Nobody may be writing.
        """
        begun_s = asyncio.get_running_loop().time()
        while True:
            try:
                found, checked = await self._compared()
            except aiohttp.ClientError as error:
                found, checked = [("silent", str(error))], 0
            waited_s = asyncio.get_running_loop().time() - begun_s
            if not found or waited_s > patience_s:
                return waited_s, checked, [f"{verdict}: {line}" for verdict, line in found]
            await asyncio.sleep(0.5)

    async def _compared(self) -> tuple[list[tuple[str, str]], int]:
        """What is wrong, as (verdict, line), and how many ids were compared."""
        wanted = expected(self._journals)
        wrong: list[tuple[str, str]] = []
        for place in self.rig.places:
            for namespace in sorted({name for name, _ in wanted}):
                ids = [id_ for name, id_ in wanted if name == namespace]
                held = await self.held(place, namespace, ids)
                for id_ in ids:
                    wrong += _judged(place, namespace, id_, held.get(id_, GONE), wanted[namespace, id_])
        return wrong, len(wanted) * len(self.rig.places)

    async def held(self, place: Place, namespace: str, ids: Sequence[str]) -> dict[str, int]:
        """The number that each id holds in a region's own node. Raises: aiohttp.ClientError."""
        held: dict[str, int] = {}
        for at in range(0, len(ids), PAGE):
            params = [("namespace", f"{plan.TENANT}.{namespace}"), *(("ids", i) for i in ids[at : at + PAGE])]
            url = f"{place.replica_url()}/vectors/fetch"
            async with self.rig.http.get(url, params=params, headers={"Api-Key": "node"}) as answer:
                answer.raise_for_status()
                vectors = (await answer.json())["vectors"]
            held |= {id_: int(record["metadata"]["n"]) for id_, record in vectors.items()}
        return held

    async def command(self, name: str, place: Place, *args: str) -> None:
        """Run a `meridian` command with a region's file. Raises: RuntimeError: it failed."""
        words = [*args, "--config", str(place.gateway_file), "--index", plan.INDEX]
        process = await asyncio.create_subprocess_exec(
            *python_module("gateway", name, *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        say("  " + said.decode().strip().replace("\n", "\n  "))
        if process.returncode:
            raise RuntimeError(f"meridian {name} ended with code {process.returncode}")


def _judged(place: Place, namespace: str, id_: str, holds: int, may: Expected) -> list[tuple[str, str]]:
    verdict = may.judge(holds)
    if not verdict:
        return []
    said = f"{place.region} {namespace}/{id_}: holds {holds}, acknowledged {may.leaves} by {may.acked}"
    return [(verdict, f"{said}, perhaps {sorted(may.perhaps)}")]
