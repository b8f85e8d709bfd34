"""One trace from the edge to the node and through two attempts, as a real collector receives it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from regions.runtime import children
from tests.fakes.collector import Collector, Got, running_collector
from tests.fakes.embeddings import DIMENSION, ScriptedEmbeddings
from tests.fakes.provider import ScriptedProvider, Step, answer
from tests.gateway.running import PEPPER, Running, running_gateway, tenants_file
from tests.regions.node.running import NodeClient, make_index, running_node

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CALLERS_TRACE, CALLERS_SPAN = CALLER.split("-")[1:3]
SECRET_WORDS = "xyzzy-plugh-question"
QUESTION = [{"role": "user", "content": f"Who won the prize? {SECRET_WORDS}"}]


def node_file(directory: Path, collector: str) -> Path:
    directory.mkdir()
    file = directory / "node.yaml"
    tracing = {"endpoint": collector, "sample_ratio": 0, "export_every_s": 0.05}
    file.write_text(yaml.safe_dump({"data_dir": str(directory / "data"), "tracing": tracing}))
    return file


@asynccontextmanager
async def node_process(directory: Path, collector: str) -> AsyncIterator[str]:
    """`meridian node` as a process of its own, traced."""
    argv = children.python_module("gateway", "node", "--config", str(node_file(directory, collector)))
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, env=os.environ)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        yield msgspec.json.decode(line)["url"]
    finally:
        process.terminate()
        await process.wait()


def config(node_url: str, models: str, collector: str, **tracing: Any) -> dict[str, Any]:
    """`models` is where both the LLM and the embedder answer."""
    section = {"kind": "openai", "base_url": models, "model": "gpt-4o"}
    upstreams = [{**section, "account": "one"}, {**section, "account": "two", "tier": "cheaper"}]
    return {
        "indexes": {
            "docs": {
                "dimension": DIMENSION,
                "embedder": "scripted",
                "replicas": [{"region": "us-east", "kind": "pinecone", "url": f"{node_url}/i/docs"}],
            }
        },
        "embedders": {
            "scripted": {"kind": "openai", "base_url": models, "model": "words", "dimension": DIMENSION}
        },
        "models": {"big": {"upstreams": upstreams}},
        "tracing": {"endpoint": collector, "export_every_s": 0.05, "sample_ratio": 0, **tracing},
    }


def models_of(provider: ScriptedProvider) -> web.Application:
    """Chat and embeddings at one address."""
    app, embeddings = provider.application(), ScriptedEmbeddings()
    app.router.add_post("/v1/embeddings", embeddings.answer)
    return app


async def test_a_trace_goes_from_the_edge_to_the_node_and_through_both_attempts(tmp_path: Path) -> None:
    provider = ScriptedProvider([Step(status=500)])
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(running_collector())
        node_url = await stack.enter_async_context(node_process(tmp_path / "node", collector.url))
        server = await stack.enter_async_context(TestServer(models_of(provider)))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await make_index(NodeClient(node_url, session), "docs", DIMENSION)
        tenants_file(tmp_path, index="docs")
        gateway = await stack.enter_async_context(
            running_gateway(tmp_path, config(node_url, str(server.make_url("/v1")), collector.url))
        )
        answered = await ask(
            gateway, {"traceparent": CALLER, "tracestate": "vendor=1", "baggage": "user=bob"}
        )
        await collector.until(lambda c: bool(c.named("POST /v1/chat/completions") and c.named("search")))

    assert answered["choices"][0]["message"]["content"].startswith("Answered well.")
    trace = [span for span in collector.spans if span.trace_id == CALLERS_TRACE]
    (edge,) = named(trace, "POST /v1/chat/completions")
    assert (edge.parent_id, edge.service, edge.region) == (CALLERS_SPAN, "meridian-gateway", "us-east")
    assert edge.attributes["meridian.outcome"] == "ok"
    assert edge.attributes["http.response.status_code"] == 200
    (embed,) = [span for span in trace if span.name.startswith("embeddings ")]
    assert embed.parent_id == edge.span_id
    assert embed.attributes["gen_ai.operation.name"] == "embeddings"
    (retrieval,) = named(trace, "retrieval docs")
    assert retrieval.parent_id == edge.span_id
    (query,) = named(trace, "query docs")
    assert query.parent_id == retrieval.span_id
    assert query.attributes["db.system.name"] == "pinecone"
    assert query.attributes["db.operation.name"] == "query"
    assert query.attributes["db.collection.name"] == "docs"
    (at_node,) = named(trace, "POST /i/{index}/query")
    assert (at_node.parent_id, at_node.service) == (query.span_id, "meridian-node")
    (search,) = named(trace, "search")
    assert search.parent_id == at_node.span_id
    failed, second = sorted(named(trace, "chat gpt-4o"), key=lambda span: span.start_ns)
    assert failed.is_error
    assert failed.attributes["error.type"] == "unavailable"
    assert not second.is_error
    assert [name for name, _ in second.events] == ["gen_ai.first_token"]
    assert second.attributes["gen_ai.usage.input_tokens"] == 100
    assert second.attributes["gen_ai.usage.output_tokens"] == 10
    assert second.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert second.attributes["gen_ai.response.model"] == "scripted-1"
    assert second.attributes["server.address"] == "127.0.0.1"
    assert second.attributes["gen_ai.provider.name"] == "openai"
    assert {failed.parent_id, second.parent_id} == {edge.span_id}
    known = {each.span_id for each in trace} | {CALLERS_SPAN}
    assert not [span.name for span in trace if span.parent_id not in known]
    heard = [(seen.headers.get("traceparent"), seen.headers.get("tracestate")) for seen in provider.seen]
    assert heard == [(f"00-{CALLERS_TRACE}-{each.span_id}-01", "vendor=1") for each in (failed, second)]
    assert not [seen for seen in provider.seen if "baggage" in {name.lower() for name in seen.headers}]
    assert SECRET_WORDS not in repr(collector.spans)


def named(spans: list[Got], name: str) -> list[Got]:
    return [span for span in spans if span.name == name]


async def chat(gateway: Running, headers: dict[str, str], **fields: Any) -> aiohttp.ClientResponse:
    body = {"model": "big", "messages": QUESTION, **fields}
    return await gateway.session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)


async def ask(gateway: Running, headers: dict[str, str]) -> dict[str, Any]:
    response = await chat(gateway, headers)
    assert response.status == 200, await response.text()
    found: dict[str, Any] = await response.json()
    return found


@asynccontextmanager
async def traced(directory: Path, provider: ScriptedProvider) -> AsyncIterator[tuple[Running, Collector]]:
    """A gateway that samples nothing by itself, over a node in this process."""
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(running_collector())
        (directory / "node").mkdir()
        node = await stack.enter_async_context(running_node(directory / "node"))
        await make_index(node, "docs", DIMENSION)
        server = await stack.enter_async_context(TestServer(models_of(provider)))
        tenants_file(directory, index="docs")
        sections = config(
            node.url, str(server.make_url("/v1")), collector.url, headers={"x-key": "file:pepper"}
        )
        yield await stack.enter_async_context(running_gateway(directory, sections)), collector


async def test_what_went_well_is_forgotten_and_what_fell_short_is_kept(tmp_path: Path) -> None:
    failures = [Step(status=500) for _ in range(6)]
    provider = ScriptedProvider([Step(answer("Well.")), *failures])
    async with traced(tmp_path, provider) as (gateway, collector):
        await ask(gateway, {})
        unknown = await chat(gateway, {"x-request-id": "unknown"}, model="unheard-of")
        assert unknown.status == 404
        fell_short = await ask(gateway, {"x-request-id": "short"})
        assert fell_short["degraded"]["kind"] == "snippets"
        broken = await chat(gateway, {"x-request-id": "broken"}, rag={"mode": "off"})
        assert broken.status == 503
        await collector.until(lambda c: len(c.named("POST /v1/chat/completions")) == 2)
        accept = {"Accept": "application/openmetrics-text"}
        metrics = await (await gateway.session.get(f"{gateway.operators_url}/metrics", headers=accept)).text()
    short, error = collector.named("POST /v1/chat/completions")
    assert short.attributes["meridian.request_id"] == "short"
    assert short.attributes["meridian.kept"] == "degraded"
    assert not short.is_error
    assert len([span for span in collector.named("chat gpt-4o") if span.trace_id == short.trace_id]) == 3
    assert error.attributes["meridian.request_id"] == "broken"
    assert (error.attributes["meridian.kept"], error.is_error) == ("error", True)
    assert error.attributes["http.response.status_code"] == 503
    assert exemplars(metrics, "meridian_request_seconds")
    assert exemplars(metrics, "meridian_request_seconds") <= {short.trace_id, error.trace_id}
    assert 'meridian_trace_spans_total{outcome="exported"}' in metrics
    assert collector.headers[0]["x-key"] == PEPPER
    assert SECRET_WORDS not in repr(collector.spans)


async def test_a_streams_span_lasts_as_long_as_the_stream_and_knows_its_first_token(tmp_path: Path) -> None:
    provider = ScriptedProvider([Step(answer("One", " two", " three."), gap_s=0.05)])
    async with traced(tmp_path, provider) as (gateway, collector):
        response = await chat(gateway, {"traceparent": CALLER}, stream=True)
        assert b"[DONE]" in await response.read()
        await collector.until(lambda c: bool(c.named("POST /v1/chat/completions")))
    (span,) = collector.named("chat gpt-4o")
    ((event, _),) = span.events
    assert event == "gen_ai.first_token"
    first_s = span.attributes["gen_ai.response.time_to_first_chunk"]
    assert span.end_ns - span.start_ns >= first_s * 1e9 + 0.1e9
    (packed,) = collector.named("pack")
    assert packed.trace_id == CALLERS_TRACE


def exemplars(exposition: str, family: str) -> set[str]:
    """The trace ids that a histogram's buckets point to."""
    return {
        sample.exemplar.labels["trace_id"]
        for metric in text_string_to_metric_families(exposition)  # type: ignore[no-untyped-call]
        if metric.name == family
        for sample in metric.samples
        if sample.exemplar is not None
    }


def test_where_nothing_is_traced_the_exporter_is_not_even_imported() -> None:
    """Other libraries import parts of the SDK, but not these."""
    program = (
        "import sys, gateway.app, gateway.replication, regions.node.main; "
        "heavy = ('opentelemetry.exporter', 'opentelemetry.sdk.trace', 'regions.runtime.otlp'); "
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
