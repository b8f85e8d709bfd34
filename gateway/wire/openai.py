"""OpenAI's chat and embeddings dialect: bodies -> requests, chunks -> events, events -> answers.

Pure. The caller's fields stay raw JSON except where we must read them, so that tools, images, logprobs
and fields yet unknown pass through untouched.
"""

import base64
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeGuard

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.errors import BadRequest, UpstreamProtocolError, UpstreamUnavailable
from gateway.messages import ChatEvent, ChatRequest, EmbedRequest, RagOptions, Turn, Usage
from gateway.wire import refusals
from regions.runtime import strict_json

MAX_MESSAGES: Final = 2048
MAX_INPUTS: Final = 2048
MAX_USAGE_TOKENS: Final = 1_000_000_000
"""More tokens than any answer has: a count beyond it, or below 0, is no count."""
NULL: Final = msgspec.Raw(b"null")
_BROKEN_OFF: Final = frozenset({"error", "insufficient_system_resource"})
"""Reasons to finish that are none: some gateways' word for a failure, DeepSeek's for a lack of machines."""

_Fields = dict[str, msgspec.Raw]


_Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


# ---- requests


def decode_chat(body: bytes) -> ChatRequest:
    """Raises: BadRequest: not JSON, a field of the wrong type, or one missing; `param` names it."""
    fields = _fields(body)
    model = _model(fields)
    messages = _typed(fields, "messages", list[_Message])
    if not messages:
        raise BadRequest("messages: at least one is needed", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise BadRequest(f"messages: at most {MAX_MESSAGES} are taken", param="messages")
    stream = _optional(fields, "stream", bool) or False
    options = _optional(fields, "stream_options", _StreamOptions) or _StreamOptions()
    rag = _optional(fields, "rag", RagOptions) or RagOptions()
    if rag.top_k is not None and not 1 <= rag.top_k <= 100:
        raise BadRequest("rag.top_k: expected 1 to 100", param="rag.top_k")
    return ChatRequest(
        model=model,
        turns=[Turn(m.role, _text(m.content)) for m in messages],
        fields={name: raw for name, raw in fields.items() if name not in ("rag", "stream", "stream_options")},
        rag=rag,
        stream=stream,
        include_usage=bool(options.include_usage),
        choices=_optional(fields, "n", _Count) or 1,
        max_answer_tokens=_optional(fields, "max_completion_tokens", _Count)
        or _optional(fields, "max_tokens", _Count),
        takes_excerpt=_takes_excerpt(fields),
    )


def _takes_excerpt(fields: _Fields) -> bool:
    """Whether a few cited sentences could be an answer to this request."""
    format_ = _optional(fields, "response_format", dict[str, Any]) or {}
    choice = _optional(fields, "tool_choice", str | dict[str, Any])
    return not (
        format_.get("type", "text") != "text"
        or choice == "required"
        or isinstance(choice, dict)
        or _optional(fields, "logprobs", bool)
        or (_optional(fields, "n", _Count) or 1) > 1
    )


def decode_embeddings(body: bytes) -> EmbedRequest:
    """Raises: BadRequest: as `decode_chat`; token arrays are refused, our tokenizer is not the caller's."""
    fields = _fields(body)
    texts = _typed(fields, "input", str | list[str])
    texts = [texts] if isinstance(texts, str) else texts
    if not texts or any(not text for text in texts):
        raise BadRequest("input: expected a text or a list of texts, none of them empty", param="input")
    if len(texts) > MAX_INPUTS:
        raise BadRequest(f"input: at most {MAX_INPUTS} texts are taken", param="input")
    encoding = _optional(fields, "encoding_format", str) or "float"
    if encoding not in ("float", "base64"):
        raise BadRequest("encoding_format: expected 'float' or 'base64'", param="encoding_format")
    return EmbedRequest(_model(fields), texts, encoding, _optional(fields, "dimensions", int))


def _fields(body: bytes) -> _Fields:
    try:
        return strict_json.decode(body, _Fields)
    except strict_json.BadJson as error:
        raise BadRequest(
            f"the body is not a JSON object we can read: {error}", code="invalid_json"
        ) from error


def _model(fields: _Fields) -> str:
    model: str = _typed(fields, "model", str)
    if not model:
        raise BadRequest("model: must not be empty", param="model")
    return model


def _typed(fields: _Fields, name: str, type_: Any) -> Any:
    if name not in fields:
        raise BadRequest(f"{name}: is required", param=name, code="missing_required_parameter")
    try:
        return strict_json.decode_once(bytes(fields[name]), type_)
    except strict_json.BadJson as error:
        raise BadRequest(f"{name}: {error}", param=name, code="invalid_type") from error


def _optional(fields: _Fields, name: str, type_: Any) -> Any:
    if name not in fields or fields[name] == NULL:
        return None
    return _typed(fields, name, type_)


def _text(content: str | list[_Part] | None) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content or () if part.type == "text" and part.text)


def encode_chat(
    fields: Mapping[str, msgspec.Raw], *, model: str, messages: msgspec.Raw | None, stream: bool
) -> bytes:
    """The body for an upstream: the caller's fields, its model's own name, our messages if given.

    A stream always asks for usage: what is not counted cannot be billed.
    """
    body: dict[str, Any] = dict(fields)
    body["model"] = model
    if messages is not None:
        body["messages"] = messages
    body["stream"] = stream
    if stream:
        body["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(body)


def add_messages(messages: msgspec.Raw, before: Sequence[Mapping[str, str]]) -> msgspec.Raw:
    """The caller's messages, untouched, behind ours."""
    own: list[Any] = msgspec.json.decode(messages, type=list[msgspec.Raw])
    return msgspec.Raw(msgspec.json.encode([*before, *own]))


# ---- answers


def decode_usage(raw: Mapping[str, Any] | None) -> Usage | None:
    """Usage in either provider's words: OpenAI's `prompt_tokens_details`, DeepSeek's hit and miss.

    None also for what is no usage, such as a negative count: the answer is then counted by ourselves
    rather than lost, or billed at a price that is none.
    """
    if not isinstance(raw, Mapping):
        return None
    details = raw.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    given, made = raw.get("prompt_tokens"), raw.get("completion_tokens")
    hit, miss = raw.get("prompt_cache_hit_tokens"), raw.get("prompt_cache_miss_tokens")
    if given is None and _is_count(hit) and _is_count(miss):
        given = hit + miss
    if not (_is_count(given) and _is_count(made)):
        return None
    cached = cached if _is_count(cached) else hit
    return Usage(int(given), int(made), int(cached) if _is_count(cached) else 0)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) in (int, float) and 0 <= value <= MAX_USAGE_TOKENS


def encode_usage(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def decode_chunk(data: bytes, raw: bytes | None) -> ChatEvent:
    """One `chat.completion.chunk`, or a whole `chat.completion`, as an event.

    Raises: UpstreamProtocolError: not a JSON object of the dialect, or an error object of no known kind.
    UpstreamRejected, UpstreamThrottled, UpstreamUnavailable: an error object, or a finish, that says so.
    """
    try:
        chunk = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError(f"the upstream sent an event that is not JSON: {error}") from error
    # Some servers tell an error without its wrapping: {"object": "error", "message": …, "code": …}.
    bare = chunk if "choices" not in chunk and isinstance(chunk.get("message"), str) else None
    if told := chunk.get("error") or bare:
        raise refusals.in_answer(told, data) or UpstreamProtocolError(
            "the upstream reported an error inside its answer", detail=refusals.excerpt(data)
        )
    try:
        event = _event(chunk, raw)
    except (AttributeError, TypeError, ValueError) as error:
        raise UpstreamProtocolError(f"the upstream sent an event of an unknown shape: {error}") from error
    if event.finish_reason in _BROKEN_OFF:
        raise UpstreamUnavailable(f"the upstream broke off its answer: {event.finish_reason}")
    return event


def as_chunk(event: ChatEvent) -> ChatEvent:
    """A whole `chat.completion` as the only chunk of a stream."""
    choices = []
    for choice in event.chunk.get("choices") or ():
        delta = dict(choice.get("message") or {})
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
        choices.append({**{k: v for k, v in choice.items() if k != "message"}, "delta": delta})
    chunk = {**event.chunk, "object": "chat.completion.chunk", "choices": choices}
    return dataclasses.replace(event, chunk=chunk, raw=None)


def _event(chunk: dict[str, Any], raw: bytes | None) -> ChatEvent:
    content, reasoning, has_tool_call, finish = "", "", False, None
    for choice in chunk.get("choices") or ():
        _check_choice(choice)
        delta = choice.get("delta") or choice.get("message") or {}
        content += delta.get("content") or delta.get("refusal") or ""
        reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
        calls = delta.get("tool_calls") or delta.get("function_call") or delta.get("audio")
        has_tool_call = has_tool_call or bool(calls)
        finish = choice.get("finish_reason") or finish
    return ChatEvent(
        chunk=chunk,
        raw=raw,
        content=content,
        has_tool_call=has_tool_call,
        reasoning=reasoning,
        finish_reason=finish,
        usage=decode_usage(chunk.get("usage")),
    )


def _check_choice(choice: Mapping[str, Any]) -> None:
    """Raises: TypeError: a part that later steps rely on is of another kind than the dialect's."""
    if type(choice.get("index", 0)) is not int:
        raise TypeError("a choice's index is no integer")
    if not isinstance(choice.get("finish_reason") or "", str):
        raise TypeError("a choice's finish_reason is no text")
    if not isinstance(choice.get("logprobs") or {}, dict):
        raise TypeError("a choice's logprobs are no object")
    delta = choice.get("delta") or choice.get("message") or {}
    for call in delta.get("tool_calls") or ():
        if not isinstance(call, dict):
            raise TypeError("a tool call is no object")


def open_choices(event: ChatEvent, open_: set[int], begun: set[int]) -> None:
    """Keep account of the choices that have begun and of those among them that are not finished."""
    for choice in event.chunk.get("choices") or ():
        index = choice.get("index", 0)
        if choice.get("finish_reason"):
            begun.add(index)
            open_.discard(index)
        elif index not in begun:
            begun.add(index)
            open_.add(index)


def collect(events: Iterable[ChatEvent]) -> dict[str, Any]:
    """One `chat.completion` out of the chunks of a stream.

    Text grows, lists that carry an `index` merge by it, everything else takes its latest value, so that
    tool calls, logprobs and fields yet unknown survive.
    """
    completion: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        for name, value in event.chunk.items():
            if name == "choices":
                for choice in value or ():
                    _merge_choice(choices.setdefault(choice.get("index", 0), {}), choice)
            elif value is not None:
                completion[name] = value
    completion["object"] = "chat.completion"
    completion["choices"] = [_joined(choices[index]) for index in sorted(choices)]
    return completion


class _Text(list[str]):
    """A text that grows: its pieces, joined once at the end, because adding strings is quadratic."""


def _joined(value: Any) -> Any:
    match value:
        case _Text():
            return "".join(value)
        case dict():
            return {name: _joined(part) for name, part in value.items()}
        case list():
            return [_joined(part) for part in value]
        case _:
            return value


def _merge_choice(into: dict[str, Any], choice: Mapping[str, Any]) -> None:
    message = into.setdefault("message", {"role": "assistant", "content": None})
    _grow(message, choice.get("delta") or {})
    into.setdefault("finish_reason", None)
    into.setdefault("logprobs", None)
    for name, value in choice.items():
        if name == "logprobs" and value is not None:
            into["logprobs"] = into["logprobs"] or {}
            _grow(into["logprobs"], value)
        elif name != "delta" and value is not None:
            into[name] = value


def _grow(into: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        old = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif isinstance(value, str) and name in _GROWING:
            if isinstance(old, _Text):
                old.append(value)
            else:
                into[name] = _Text((old, value) if isinstance(old, str) else (value,))
        elif isinstance(value, dict) and isinstance(old, dict):
            _grow(old, value)
        elif isinstance(value, list) and isinstance(old, list):
            _grow_list(old, value)
        elif isinstance(value, list):
            into[name] = []
            _grow_list(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, dict) else value


_GROWING: Final = frozenset({"content", "refusal", "reasoning_content", "reasoning", "arguments"})


def _grow_list(into: list[Any], items: Iterable[Any]) -> None:
    for item in items:
        index = item.get("index") if isinstance(item, dict) else None
        same = (o for o in into if isinstance(o, dict) and o.get("index") == index)
        old = None if index is None else next(same, None)
        if old is not None:
            _grow(old, item)
        elif isinstance(item, dict):
            into.append({})
            _grow(into[-1], item)
        else:
            into.append(item)


def encode_embeddings(
    model: str, vectors: NDArray[np.float32], encoding: str, input_tokens: int
) -> dict[str, Any]:
    """The embeddings answer; `vectors`: (n, dim) float32, base64 is little-endian float32."""
    rows: list[Any] = (
        [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
        if encoding == "base64"
        else vectors.tolist()
    )
    return {
        "object": "list",
        "model": model,
        "data": [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)],
        "usage": {"prompt_tokens": input_tokens, "total_tokens": input_tokens},
    }


def encode_models(aliases: Iterable[str], created: int) -> dict[str, Any]:
    """The models list."""
    return {"object": "list", "data": [encode_model(alias, created) for alias in aliases]}


def encode_model(alias: str, created: int) -> dict[str, Any]:
    return {"id": alias, "object": "model", "created": created, "owned_by": "meridian"}
