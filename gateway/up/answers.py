"""Ask a running gateway as a tenant does: with the official OpenAI SDK."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.up.problems import CommandFailed

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


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
    usage: Any = None
    model: str = ""
    first_at: float | None = None


async def ask(asked: Asked, on_text: Callable[[str], None]) -> Answer:
    """The whole answer; `on_text` is handed each piece as it comes.

    Raises: CommandFailed: nobody answers there, the key is not known, or the gateway refused.
    """
    import openai

    client = openai.AsyncOpenAI(
        base_url=f"{asked.gateway.rstrip('/')}/v1", api_key=asked.api_key, max_retries=0
    )
    try:
        async with client:
            return await _ask(client, asked, on_text)
    except openai.APIConnectionError as error:
        raise CommandFailed(
            f"nobody answers at {asked.gateway}: {error.__cause__ or error}",
            "start a gateway with `meridian up`, or name another with --gateway",
        ) from error
    except openai.AuthenticationError as error:
        raise CommandFailed(
            f"the gateway refused the key: {_said(error)}", "give one with --api-key"
        ) from error
    except openai.APIError as error:
        raise CommandFailed(f"the gateway refused: {_said(error)}") from error


def _said(error: Any) -> str:
    body = error.body
    return str(body.get("message") if isinstance(body, Mapping) else error.message)


async def _ask(client: "AsyncOpenAI", asked: Asked, on_text: Callable[[str], None]) -> Answer:
    from openai.types.chat import ChatCompletion

    rag = {key: value for key, value in (("index", asked.index), ("namespace", asked.namespace)) if value}
    heard, begun = _Heard(), asyncio.get_running_loop().time()
    raw = await client.chat.completions.with_raw_response.create(
        model=asked.model,
        messages=[{"role": "user", "content": asked.question}],
        stream=asked.stream,
        extra_body={"rag": rag} if rag else None,
    )
    parsed = raw.parse()
    if isinstance(parsed, ChatCompletion):
        _hear_whole(parsed, heard, on_text)
    else:
        async for chunk in parsed:
            _hear_chunk(chunk, heard, on_text)
    return _answer(heard, raw.headers, begun)


def _hear_chunk(chunk: "ChatCompletionChunk", heard: _Heard, on_text: Callable[[str], None]) -> None:
    heard.model = chunk.model or heard.model
    heard.usage = chunk.usage or heard.usage
    heard.facts.update((chunk.model_extra or {}).get("meridian") or {})
    for choice in chunk.choices:
        heard.annotations += (choice.delta.model_extra or {}).get("annotations") or []
        _hear_text(choice.delta.content, heard, on_text)


def _hear_whole(whole: "ChatCompletion", heard: _Heard, on_text: Callable[[str], None]) -> None:
    heard.model, heard.usage = whole.model, whole.usage
    heard.facts.update((whole.model_extra or {}).get("meridian") or {})
    message = whole.choices[0].message
    heard.annotations += [annotation.model_dump() for annotation in message.annotations or []]
    _hear_text(message.content, heard, on_text)


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
        input_tokens=getattr(usage, "prompt_tokens", None) or _count(facts, "input_tokens"),
        output_tokens=getattr(usage, "completion_tokens", None) or _count(facts, "output_tokens"),
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
