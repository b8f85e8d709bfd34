"""`python -m bench.node_kill --rounds 50`: kill -9 a node under writes; what was acknowledged must be there.

Each round starts the same node again, compares everything with what was acknowledged in all rounds before,
has writers upsert, update, delete and empty namespaces, kills it at a random moment, and checks the file. A
write that was in flight at the kill may be there or not, but whole: the state must be one that some order of
"happened" and "did not" explains. Each record's writes are serial, so per record that means: the last
acknowledged state, or the one that was in flight.
"""

import argparse
import asyncio
import random
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.node_process import NodeProcess, call

WRITERS = 4
SLOTS = 40
RESULTS = Path(__file__).parent / "results" / "node_kill.md"

State = dict[str, Any] | None
"""A record as it should be read back, or None when there is none."""


@dataclass
class Ledger:
    """What one writer knows about its own records: acknowledged, and what may have happened besides."""

    namespace: str
    acknowledged: dict[str, State] = field(default_factory=dict)
    doubtful: dict[str, State] = field(default_factory=dict)
    lsn: int = 0
    writes: int = 0


@dataclass
class Totals:
    rounds: int = 0
    writes: int = 0
    lost: int = 0
    corrupt: int = 0
    went_back: int = 0


def plan(ledger: Ledger, rng: random.Random) -> tuple[str, dict[str, Any], dict[str, State]]:
    """A write: path, body, and the states that its records have when it happened."""
    kind = rng.random()
    if kind < 0.05:
        return "/vectors/delete", {"deleteAll": True}, dict.fromkeys(ledger.acknowledged)
    if kind < 0.15:
        ids = rng.sample([f"r{n}" for n in range(SLOTS)], 5)
        return "/vectors/delete", {"ids": ids}, dict.fromkeys(ids)
    known = [id_ for id_, state in ledger.acknowledged.items() if state is not None]
    if kind < 0.3 and known:
        id_ = rng.choice(known)
        state = dict(ledger.acknowledged[id_] or {})
        state["metadata"] = state["metadata"] | {"u": rng.randrange(10**9)}
        return "/vectors/update", {"id": id_, "setMetadata": state["metadata"]}, {id_: state}
    states = {f"r{rng.randrange(SLOTS)}": _random_state(rng) for _ in range(rng.randint(1, 8))}
    vectors = [{"id": id_, **(state or {})} for id_, state in states.items()]
    return "/vectors/upsert", {"vectors": vectors}, states


def _random_state(rng: random.Random) -> State:
    return {
        "values": [float(rng.randint(1, 1000)) for _ in range(64)],
        "metadata": {"n": rng.randrange(10**9), "text": "x" * rng.randint(0, 2_000)},
    }


async def write_on(session: aiohttp.ClientSession, url: str, ledger: Ledger, rng: random.Random) -> None:
    """Write until the node is gone."""
    while True:
        path, body, states = plan(ledger, rng)
        ledger.doubtful = states
        try:
            async with session.post(
                f"{url}/i/k{path}", json=body | {"namespace": ledger.namespace}
            ) as answer:
                await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{path}: {answer.status} {await answer.text()}")
                ledger.lsn = int(answer.headers["x-pinecone-request-lsn"])
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return
        ledger.acknowledged |= states
        ledger.doubtful = {}
        ledger.writes += 1


async def compare(session: aiohttp.ClientSession, url: str, ledger: Ledger, totals: Totals) -> None:
    """Count what differs from the ledger, and let the ledger know what the doubtful writes became."""
    params = [("ids", f"r{n}") for n in range(SLOTS)] + [("namespace", ledger.namespace)]
    async with session.get(f"{url}/i/k/vectors/fetch", params=params) as response:
        found = (await response.json())["vectors"]
        if int(response.headers["x-pinecone-max-indexed-lsn"]) < ledger.lsn:
            totals.went_back += 1
    for number in range(SLOTS):
        id_ = f"r{number}"
        now = found.get(id_)
        state = None if now is None else {"values": now["values"], "metadata": now["metadata"]}
        allowed = [ledger.acknowledged.get(id_)]
        if id_ in ledger.doubtful:
            allowed.append(ledger.doubtful[id_])
        if state not in allowed:
            totals.lost += 1
        ledger.acknowledged[id_] = state
    living = [id_ for id_, state in ledger.acknowledged.items() if state is not None]
    query = {"namespace": ledger.namespace, "topK": 1_000, "vector": [1.0] * 64}
    searched = await call(session, "POST", f"{url}/i/k/query", query)
    if sorted(match["id"] for match in searched["matches"]) != sorted(living):
        totals.lost += 1
    ledger.doubtful = {}


def check_file(path: Path) -> bool:
    """Whether SQLite finds the store whole, and its counts agree with its rows."""
    with closing(sqlite3.connect(path)) as db:
        if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            return False
        wrong = db.execute(
            "SELECT count(*) FROM namespaces n"
            " WHERE records != (SELECT count(*) FROM records r WHERE r.data = n.data)"
        ).fetchone()
        return bool(wrong == (0,))


async def run(rounds: int, seed: int, folder: Path) -> Totals:
    """All rounds over one data directory."""
    rng, totals = random.Random(seed), Totals()
    ledgers = [Ledger(f"n{number}") for number in range(WRITERS)]
    node = NodeProcess(folder, memory_limit_bytes=256 << 20)
    for number in range(rounds):
        await node.start()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            if number == 0:
                body = {"name": "k", "dimension": 64, "metric": "dotproduct", "spec": {"serverless": {}}}
                await call(session, "POST", f"{node.url}/indexes", body)
            for ledger in ledgers:
                await compare(session, node.url, ledger, totals)
            async with asyncio.TaskGroup() as group:
                for ledger in ledgers:
                    chance = random.Random(rng.random())
                    group.create_task(write_on(session, node.url, ledger, chance))
                await asyncio.sleep(rng.uniform(0.05, 1.0))
                await node.kill()
        totals.rounds += 1
        totals.corrupt += not await asyncio.to_thread(check_file, folder / "node.db")
    await node.start()
    async with aiohttp.ClientSession() as session:
        for ledger in ledgers:
            await compare(session, node.url, ledger, totals)
    await node.stop()
    totals.writes = sum(ledger.writes for ledger in ledgers)
    return totals


def report(totals: Totals, seed: int) -> str:
    about = (__doc__ or "").split("\n\n", 1)[1]
    return (
        "# kill -9 of the node under writes\n\n"
        f"`python -m bench.node_kill --rounds {totals.rounds} --seed {seed}`. {about}"
        f"\n- rounds: {totals.rounds}, acknowledged writes: {totals.writes:,}\n"
        f"- acknowledged records lost or changed: **{totals.lost}**\n"
        f"- files that failed `PRAGMA integrity_check` or whose counts disagree: **{totals.corrupt}**\n"
        f"- positions that went back: **{totals.went_back}**\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-kill-") as scratch:
        outcome = asyncio.run(run(arguments.rounds, arguments.seed, Path(scratch) / "data"))
    text = report(outcome, arguments.seed)
    print(text)
    RESULTS.write_text(text)
    raise SystemExit(1 if outcome.lost or outcome.corrupt or outcome.went_back else 0)
