"""What new regions do first: take in the bundled corpus, and answer a question as soon as they can."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.data import corpus_path
from gateway.ingest.gateway_client import GatewayClient, GatewayFailed
from gateway.ingest.run import IngestOptions, Tally, run_ingest
from gateway.up import plan
from gateway.up.answers import Asked, ask
from gateway.up.plan import Place, Plan
from gateway.up.problems import CommandFailed
from gateway.up.processes import Processes
from gateway.up.report import Report

BATCH: Final = 40
IN_FLIGHT: Final = 3
"""Small batches: the first passages are wanted soon. Enough of them that the embedder never waits."""

FIRST_PASSAGES: Final = 200
"""Enough to answer from: the question is asked once these are in."""

PATIENCE_S: Final = 60.0
POLL_S: Final = 0.1
SAY_EVERY_S: Final = 1.0

QUESTION: Final = "who got the first nobel prize in physics"
"""Answered by the first passages of the corpus."""


class Demo:
    """Fills the regions through the first one and asks each, over its public port, as a tenant does."""

    def __init__(self, regions: Plan, key: str, processes: Processes, report: Report) -> None:
        self._places, self._key = regions.places, key
        self._processes, self._report = processes, report

    async def run(self, question: str, *, is_demo_only: bool) -> None:
        """Ask once the first passages are in; take in the rest after that, unless only the demo is wanted.

        Ingestion stands still while the question is answered: it would take both cores from a model that
        runs here. It keeps no state, so standing still is being cancelled and started again.
        """
        total = await asyncio.to_thread(count_lines, corpus_path())
        await self._until_home_is_known()
        await self._until_everywhere("what an earlier start wrote is in every region")
        there = await asyncio.to_thread(self._count)
        if there < min(FIRST_PASSAGES, total):
            with self._report.phase(f"first {FIRST_PASSAGES} passages in"):
                await self._ingest_first()
        else:
            self._report.line(f"  {there} of {total} passages are in")
        await self._until_everywhere()
        await self._ask_everywhere(question)
        if is_demo_only:
            return
        if there < total:
            begun = asyncio.get_running_loop().time()
            with self._report.progress("taking in the corpus", total) as moved:
                await self._ingest(lambda tally: moved(tally.records))
            took = asyncio.get_running_loop().time() - begun
            self._report.phase_took(f"whole corpus in: {total} passages", took)
            await self._until_everywhere()
        self._how_to_go_on(question)

    @property
    def _home(self) -> Place:
        return self._places[0]

    # --- Filling -----------------------------------------------------------------------------

    def _count(self) -> int:
        """Passages that the demo's namespace holds already."""
        from pinecone import Pinecone

        control = self._home.gateway_url
        with Pinecone(api_key=self._key, host=control) as client, client.index(plan.INDEX) as index:
            namespaces = index.describe_index_stats().namespaces
        there = namespaces.get(plan.NAMESPACE)
        return there.vector_count if there else 0

    async def _ingest_first(self) -> None:
        """Take in the corpus until enough of it is there to answer from."""
        enough = asyncio.Event()

        def heard(tally: Tally) -> None:
            if tally.records >= FIRST_PASSAGES:
                enough.set()

        async with asyncio.TaskGroup() as tasks:
            filling = tasks.create_task(self._ingest(heard))
            await _either(enough, filling)
            filling.cancel()

    async def _ingest(self, heard: Callable[[Tally], None]) -> None:
        """Take in the corpus; what is there already costs a comparison only."""
        options = IngestOptions([corpus_path()], in_flight=IN_FLIGHT, batch_records=BATCH)
        url = self._home.gateway_url
        try:
            async with GatewayClient(url, self._key, index=plan.INDEX, namespace=plan.NAMESPACE) as client:
                tally = await run_ingest(client, options, heard)
        except GatewayFailed as error:
            raise CommandFailed(f"the corpus was not taken in: {error}") from error
        for refusal in tally.refused:
            self._report.line(f"  refused: {refusal}")

    # --- Waiting -----------------------------------------------------------------------------

    async def _until_home_is_known(self) -> None:
        """Every gateway knows where writes go, and every replica can be read."""
        with self._report.phase(f"home of {plan.INDEX!r} is {self._home.region}; every replica can be read"):
            async with asyncio.timeout(PATIENCE_S):
                for place in self._places:
                    # Nobody sets an event for us.
                    while not _is_readable(await standings(place), len(self._places)):  # noqa: ASYNC110
                        await asyncio.sleep(POLL_S)

    async def _until_everywhere(self, name: str = "all of it in every region") -> None:
        """Wait until every replica shows all that is written by now, and say how far each is.

        A replica whose lag is shorter than the time since now has everything from before now.
        """
        loop = asyncio.get_running_loop()
        begun, said_s = loop.time(), 0.0
        while True:
            standing = await standings(self._home)
            waited_s = loop.time() - begun
            lags = {region: each.get("queryable_lag_s") for region, each in standing.items()}
            line = ", ".join(
                f"{region} {'?' if lag is None else f'{lag:.1f} s'}" for region, lag in lags.items()
            )
            if all(lag is not None and lag < waited_s for lag in lags.values()):
                self._report.phase_took(name, waited_s)
                self._report.line(f"  lag: {line}")
                return
            if waited_s > PATIENCE_S:
                raise CommandFailed(
                    f"after {waited_s:.0f} s the regions still lag: {line}", "their logs say why"
                )
            if waited_s - said_s > SAY_EVERY_S:
                said_s = waited_s
                self._report.line(f"  lag: {line}")
            await asyncio.sleep(POLL_S)

    # --- Asking ------------------------------------------------------------------------------

    async def _ask_everywhere(self, question: str) -> None:
        report = self._report
        report.line()
        report.line(f"Q: {question}")
        for place in self._places:
            asked = Asked(question, place.gateway_url, self._key, plan.MODEL)
            if place == self._home:
                report.sources(await ask(asked, report.text))
                report.phase_took("first answer, from the start", report.elapsed_s())
            else:
                report.receipt(await ask(asked, _unheard))
        report.memory(self._processes.resident_bytes())

    def _how_to_go_on(self, question: str) -> None:
        report = self._report
        report.memory(self._processes.resident_bytes())
        report.line()
        for place in self._places:
            url, operators = place.gateway_url, place.operators_url
            report.line(f"  {place.region:<13} {url}        operators {operators}  /readyz /metrics")
        url = self._home.gateway_url
        for line in GO_ON.format(url=url, key=self._key, model=plan.MODEL, question=question).splitlines():
            report.line(line)


async def standings(place: Place) -> Mapping[str, Mapping[str, Any]]:
    """How far the replicas of the demo's index are, as a region's gateway sees them; {} when it is silent."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=2)
    url = f"{place.operators_url}/readyz"
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            told: Mapping[str, Any] = await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return {}
    found: Mapping[str, Mapping[str, Any]] = told.get("replicas", {}).get(plan.INDEX, {})
    return found


def _is_readable(standing: Mapping[str, Mapping[str, Any]], count: int) -> bool:
    return len(standing) == count and all(each.get("state") == "readable" for each in standing.values())


def _unheard(_: str) -> None:
    """The same answer was shown before."""


async def _either(event: asyncio.Event, task: "asyncio.Task[None]") -> None:
    """Until the event is set or the task is done."""
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(event.wait())
        await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


def count_lines(path: Path) -> int:
    """Lines of a file that are not empty."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


GO_ON: Final = """  key           {key}

Each region has the OpenAI dialect under /v1 and the Pinecone dialect at /.

curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\
  -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "{question}"}}]}}'

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{key}")
print(client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "{question}"}}]
).choices[0].message.content)

Ctrl-C stops everything."""
