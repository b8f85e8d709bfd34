"""Ask a running gateway as a tenant does, over its OpenAI dialect.

Why not the official SDK: it takes two seconds to import, more than the answer; `tests/compat/` drives the
gateway with it.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.up.problems import CommandFailed
from gateway.wire import sse

if TYPE_CHECKING:
    import aiohttp


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and where it goes; what is None is left to the tenant's defaults."""

    question: str
    gateway: str
    api_key: str
    model: str
    index: str | None = None
    namespace: str | None = None
    stream: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that the answer cites."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and its receipt. `ttft_ms` is what the caller saw; None where nothing was said."""

    text: str
    sources: tuple[Source, ...]
    model: str
    region: str | None
    replica: str | None
    ttft_ms: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    degraded: str | None


@dataclass(slots=True)
class _Heard:
    """What has arrived of an answer so far."""

    text: list[str] = field(default_factory=list)
    annotations: list[Mapping[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    is_finished: bool = False
    first_at: float | None = None


async def ask(asked: Asked, on_text: Callable[[str], None]) -> Answer:
    """The whole answer; `on_text` is handed each piece as it comes.

    Raises: CommandFailed: nobody answers there, the key is not known, the gateway refused or broke off.
    """
    import aiohttp

    url = f"{asked.gateway.rstrip('/')}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {asked.api_key}"}
    timeout = aiohttp.ClientTimeout(total=None, connect=5, sock_read=120)
    heard, begun = _Heard(), asyncio.get_running_loop().time()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.post(url, json=_body(asked)) as response,
        ):
            if response.status != 200:
                raise _refusal(response.status, await response.read())
            if asked.stream:
                await _hear_stream(response.content, heard, on_text)
            else:
                _hear(await response.json(), "message", heard, on_text)
            return _answer(heard, response.headers, begun)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CommandFailed(
            f"no answer from {asked.gateway}: {str(error) or 'it took too long'}",
            "start a gateway with `meridian up`, or name another with --gateway",
        ) from error


def _body(asked: Asked) -> dict[str, Any]:
    rag = {key: value for key, value in (("index", asked.index), ("namespace", asked.namespace)) if value}
    body = {
        "model": asked.model,
        "messages": [{"role": "user", "content": asked.question}],
        "stream": asked.stream,
    }
    return {**body, "rag": rag} if rag else body


def _refusal(status: int, body: bytes) -> CommandFailed:
    try:
        said = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = f"status {status}, and no reason that could be read"
    advice = "give a key with --api-key, or set MERIDIAN_API_KEY" if status == 401 else ""
    return CommandFailed(f"the gateway refused: {said}", advice)


async def _hear_stream(
    content: "aiohttp.StreamReader", heard: _Heard, on_text: Callable[[str], None]
) -> None:
    """Raises: CommandFailed: the stream ended in an error, or before its end."""
    splitter = sse.SseSplitter()
    async for piece in content.iter_any():
        for event in splitter.feed(piece):
            data = sse.data_of(event)
            if data == b"[DONE]":
                heard.is_finished = True
            elif data is not None:
                chunk = json.loads(data)
                if "error" in chunk:
                    raise CommandFailed(f"the answer broke off: {chunk['error'].get('message')}")
                _hear(chunk, "delta", heard, on_text)
    if not heard.is_finished:
        raise CommandFailed("the answer broke off before its end", "ask again")


def _hear(body: Mapping[str, Any], part: str, heard: _Heard, on_text: Callable[[str], None]) -> None:
    """Take in a whole answer (`part` is "message") or a chunk of one ("delta")."""
    heard.model = body.get("model") or heard.model
    heard.usage.update(body.get("usage") or {})
    heard.facts.update(body.get("meridian") or {})
    for choice in body.get("choices", ()):
        said = choice.get(part) or {}
        heard.annotations += said.get("annotations") or []
        _hear_text(said.get("content"), heard, on_text)


def _hear_text(text: str | None, heard: _Heard, on_text: Callable[[str], None]) -> None:
    if text:
        if heard.first_at is None:
            heard.first_at = asyncio.get_running_loop().time()
        heard.text.append(text)
        on_text(text)


def _answer(heard: _Heard, headers: Mapping[str, str], begun: float) -> Answer:
    facts, usage = heard.facts, heard.usage
    ttft_ms = None if heard.first_at is None else (heard.first_at - begun) * 1000
    cost = facts.get("cost_usd", headers.get("x-meridian-cost-usd"))
    degraded = facts.get("degraded") or headers.get("x-meridian-degraded")
    return Answer(
        text="".join(heard.text),
        sources=tuple(_sources(heard.annotations)),
        model=facts.get("model") or heard.model,
        region=facts.get("region") or headers.get("x-meridian-region"),
        replica=facts.get("replica") or headers.get("x-meridian-replica"),
        ttft_ms=ttft_ms,
        input_tokens=usage.get("prompt_tokens", _count(facts, "input_tokens")),
        output_tokens=usage.get("completion_tokens", _count(facts, "output_tokens")),
        cost_usd=None if cost is None else float(cost),
        degraded=_reason(degraded),
    )


def _count(facts: Mapping[str, Any], name: str) -> int | None:
    usage = facts.get("usage")
    return usage.get(name) if isinstance(usage, Mapping) else None


def _reason(degraded: object) -> str | None:
    if isinstance(degraded, Mapping):
        return "; ".join(f"{key}={value}" for key, value in degraded.items()) or None
    return str(degraded) if degraded else None


def _sources(annotations: Sequence[Mapping[str, Any]]) -> list[Source]:
    """The cited passages in the order of their first mention."""
    cited = [annotation.get("url_citation") or {} for annotation in annotations]
    sources = [Source(str(c.get("title") or ""), str(c.get("url") or "")) for c in cited]
    return list(dict.fromkeys(sources))


def receipt(answer: Answer) -> list[str]:
    """What there is to know about an answer, as short phrases."""
    known = [
        ("region {}", answer.region),
        ("replica {}", answer.replica),
        ("model {}", answer.model),
        ("first token {:.0f} ms", answer.ttft_ms),
        ("{} tokens in", answer.input_tokens),
        ("{} out", answer.output_tokens),
        ("{:.6f} USD", answer.cost_usd),
        ("degraded: {}", answer.degraded),
    ]
    return [phrase.format(value) for phrase, value in known if value is not None]
