"""What a new region does first: take in the bundled corpus, and answer a question as soon as it can."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.data import corpus_path
from gateway.ingest.gateway_client import GatewayClient, GatewayFailed
from gateway.ingest.run import IngestOptions, Tally, run_ingest
from gateway.up import plan
from gateway.up.answers import Asked, ask
from gateway.up.plan import Plan
from gateway.up.problems import CommandFailed
from gateway.up.processes import Processes
from gateway.up.report import Report

BATCH: Final = 40
IN_FLIGHT: Final = 3
"""Small batches: the first passages are wanted soon. Enough of them that the embedder never waits."""

FIRST_PASSAGES: Final = 200
"""Enough to answer from: the question is asked once these are in."""

QUESTION: Final = "who got the first nobel prize in physics"
"""Answered by the first passages of the corpus."""


class Demo:
    """Fills a region and asks it, over its public port, as a tenant does."""

    def __init__(self, region: Plan, key: str, processes: Processes, report: Report) -> None:
        self._region, self._key = region, key
        self._processes, self._report = processes, report

    async def run(self, question: str, *, is_demo_only: bool) -> None:
        """Ask once the first passages are in; take in the rest after that, unless only the demo is wanted.

        Ingestion stands still while the question is answered: it would take both cores from a model that
        runs here. It keeps no state, so standing still is being cancelled and started again.
        """
        total = await asyncio.to_thread(count_lines, corpus_path())
        there = await asyncio.to_thread(self._count)
        if there < min(FIRST_PASSAGES, total):
            with self._report.phase(f"first {FIRST_PASSAGES} passages in"):
                await self._ingest_first()
        else:
            self._report.line(f"  {there} of {total} passages are in")
        await self._ask(question)
        if is_demo_only:
            return
        if there < total:
            begun = asyncio.get_running_loop().time()
            with self._report.progress("taking in the corpus", total) as moved:
                await self._ingest(lambda tally: moved(tally.records))
            took = asyncio.get_running_loop().time() - begun
            self._report.phase_took(f"whole corpus in: {total} passages", took)
        self._how_to_go_on(question)

    def _count(self) -> int:
        """Passages that the demo's namespace holds already."""
        from pinecone import Pinecone

        control = self._region.gateway_url
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
        url = self._region.gateway_url
        try:
            async with GatewayClient(url, self._key, index=plan.INDEX, namespace=plan.NAMESPACE) as client:
                tally = await run_ingest(client, options, heard)
        except GatewayFailed as error:
            raise CommandFailed(f"the corpus was not taken in: {error}") from error
        for refusal in tally.refused:
            self._report.line(f"  refused: {refusal}")

    async def _ask(self, question: str) -> None:
        report = self._report
        report.line()
        report.line(f"Q: {question}")
        asked = Asked(question, self._region.gateway_url, self._key, plan.MODEL)
        answer = await ask(asked, report.text)
        report.sources(answer)
        report.phase_took("first answer, from the start", report.elapsed_s())
        report.memory(self._processes.resident_bytes())

    def _how_to_go_on(self, question: str) -> None:
        report, url = self._report, self._region.gateway_url
        report.memory(self._processes.resident_bytes())
        for line in GO_ON.format(
            url=url, operators=self._region.operators_url, key=self._key, model=plan.MODEL, question=question
        ).splitlines():
            report.line(line)


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


GO_ON: Final = """
  gateway    {url}        OpenAI dialect under {url}/v1, Pinecone dialect at {url}
  operators  {operators}        /readyz /metrics
  key        {key}

curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\
  -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "{question}"}}]}}'

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{key}")
print(client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "{question}"}}]
).choices[0].message.content)

Ctrl-C stops everything."""
