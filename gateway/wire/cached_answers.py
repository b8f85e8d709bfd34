"""Answers as the prompt cache keeps them: events -> a kept answer -> bytes, and back to events. Pure.

Kept as MessagePack behind one byte of version; bytes of another version, or of none, are no answer. What is
given out again is the answer, not its stream: the same text, citations and usage, under a new id and time, in
two chunks where it came in hundreds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.cached_answer import CachedAnswer
from gateway.messages import ChatEvent, Usage
from gateway.wire import openai as wire

VERSION: Final = b"\x01"
_DECODER: Final = msgspec.msgpack.Decoder(CachedAnswer)
_CHUNK: Final = "chat.completion.chunk"
_OWN: Final = frozenset({"id", "object", "created", "choices", "usage", "model"})
"""Fields of a completion that are kept apart, or made anew."""


def completion(events: Sequence[ChatEvent]) -> Mapping[str, Any]:
    """The whole answer, from the chunks of a stream or from the one event of an answer in one piece."""
    if is_whole(events):
        return events[0].chunk
    return wire.collect(events)


def is_whole(events: Sequence[ChatEvent]) -> bool:
    """Whether it is an answer in one piece, as a provider gave it."""
    return len(events) == 1 and events[0].chunk.get("object") != _CHUNK


def parts(whole: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Its `choices` and its other fields, as a `CachedAnswer` holds them."""
    more = {name: value for name, value in whole.items() if name not in _OWN and value is not None}
    return msgspec.json.encode(whole["choices"]), msgspec.json.encode(more)


def encode(answer: CachedAnswer) -> bytes:
    return VERSION + msgspec.msgpack.encode(answer)


def decode(data: bytes) -> CachedAnswer | None:
    """None: of another version, or no kept answer at all."""
    if data[:1] != VERSION:
        return None
    try:
        return _DECODER.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def usage(answer: CachedAnswer) -> Usage:
    return Usage(answer.input_tokens, answer.output_tokens, answer.cached_tokens)


def replay(answer: CachedAnswer, *, request_id: str, created: int, is_streamed: bool) -> list[ChatEvent]:
    """The events of a kept answer; `created` in Unix seconds.

    `is_streamed`: as the chunks of a stream, usage last; else as one whole `chat.completion`, rendered.
    """
    choices: list[dict[str, Any]] = msgspec.json.decode(answer.choices)
    envelope = {
        **msgspec.json.decode(answer.more),
        "id": f"chatcmpl-{request_id}",
        "object": _CHUNK,
        "created": created,
        "model": answer.model,
    }
    told = usage(answer)
    if not is_streamed:
        whole = {
            **envelope,
            "object": "chat.completion",
            "choices": choices,
            "usage": wire.encode_usage(told),
        }
        return [ChatEvent(chunk=whole, raw=msgspec.json.encode(whole), usage=told)]
    first, last = zip(*(_halves(choice) for choice in choices), strict=True)
    text = "".join(part["delta"].get("content") or "" for part in first)
    finish = next((part["finish_reason"] for part in last if part["finish_reason"]), None)
    return [
        ChatEvent(chunk={**envelope, "choices": list(first)}, content=text),
        ChatEvent(chunk={**envelope, "choices": list(last)}, finish_reason=finish),
        ChatEvent(chunk={**envelope, "choices": [], "usage": wire.encode_usage(told)}, usage=told),
    ]


def _halves(choice: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A whole choice as its first delta, with the text, and its last, with the citations."""
    message = {name: value for name, value in choice.get("message", {}).items() if value is not None}
    cited = {"annotations": message.pop("annotations")} if "annotations" in message else {}
    first = {"index": choice.get("index", 0), "delta": message, "logprobs": choice.get("logprobs")}
    last = {"index": choice.get("index", 0), "delta": cited, "logprobs": None}
    return {**first, "finish_reason": None}, {**last, "finish_reason": choice.get("finish_reason")}
