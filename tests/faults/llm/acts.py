"""The ways in which a scripted endpoint answers: well, and each way that peers were caught out by.

Every answer that is whole is the same sixty words, so that a caller's answer can be compared with it.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tests.faults.llm.wall import Act, Call

ANSWER: Final = (
    "A gateway earns trust on the day its provider fails and not before then since any relay looks fine "
    "while streams flow and clocks agree so we cut the wire stall the tokens bend the chunks and count what "
    "reaches the caller because an honest error is worth more than half an answer that pretends to be whole "
    "in silence"
)
WORDS: Final = tuple(ANSWER.split(" "))
USAGE: Final = {
    "prompt_tokens": 100,
    "completion_tokens": 60,
    "total_tokens": 160,
    "prompt_tokens_details": {"cached_tokens": 40},
}
TOKEN_S: Final = 0.001
"""Between two tokens of a healthy stream."""
FOREVER_S: Final = 60.0
"""Longer than any scenario: a gateway that waits for the end of it hangs."""
SSE: Final = "text/event-stream"
DONE: Final = b"data: [DONE]\n\n"


def piece(number: int) -> str:
    """A word of the answer, with the space before it."""
    return WORDS[number] if number == 0 else f" {WORDS[number]}"


def chunk(call: Call, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """One `chat.completion.chunk` of the model that was asked for, as an SSE event."""
    body = {
        "id": "chatcmpl-wall",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": call.body["model"],
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


async def role(call: Call) -> None:
    await call.part(chunk(call, {"role": "assistant", "content": ""}))


async def words(call: Call, start: int, end: int, gap_s: float = TOKEN_S) -> None:
    for number in range(start, end):
        await call.part(chunk(call, {"content": piece(number)}))
        await asyncio.sleep(gap_s)


async def close_well(call: Call, usage: dict[str, Any] | None = None, *, done: bool = True) -> None:
    """The finish, the usage where it was asked for, and [DONE]."""
    await call.part(chunk(call, {}, "stop"))
    if (call.body.get("stream_options") or {}).get("include_usage"):
        await call.part(chunk(call, {}, choices=[], usage=usage or USAGE))
    if done:
        await call.part(DONE)
    await call.end()


async def json_answer(call: Call, status: int, body: Any, **headers: str) -> None:
    await call.head(status, "application/json", **headers)
    await call.part(msgspec.json.encode(body))
    await call.end()


def completion(call: Call, usage: dict[str, Any] | None = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": ANSWER}
    return {
        "id": "chatcmpl-wall",
        "object": "chat.completion",
        "created": 1,
        "model": call.body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage or USAGE,
    }


def well(*, first_s: float = 0.0, gap_s: float = TOKEN_S, usage: dict[str, Any] | None = None) -> Act:
    """A whole answer: headers at once, the first token after `first_s`, the others `gap_s` apart."""

    async def act(call: Call) -> None:
        if not call.body.get("stream"):
            await asyncio.sleep(first_s)
            return await json_answer(call, 200, completion(call, usage))
        await call.head(200, SSE)
        await role(call)
        await asyncio.sleep(first_s)
        await words(call, 0, len(WORDS), gap_s)
        return await close_well(call, usage)

    return act


def unless_prefilled(act: Act = well()) -> Act:  # noqa: B008  an act is a value
    """Refuses a conversation that ends with the assistant's own words, as newer models do."""

    async def guarded(call: Call) -> None:
        if call.body["messages"][-1]["role"] == "assistant":
            error = {"message": "prefill is not supported", "type": "invalid_request_error"}
            await json_answer(call, 400, {"error": {**error, "param": "messages", "code": "prefill"}})
        else:
            await act(call)

    return guarded


def refuse(status: int, code: str | None = None, message: str = "as scripted", **headers: str) -> Act:
    """An error of the dialect."""

    async def act(call: Call) -> None:
        kind = "invalid_request_error" if status == 400 else "server_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        await json_answer(call, status, {"error": error}, **headers)

    return act


async def reset(call: Call) -> None:
    """The connection is reset before any byte of an answer."""
    call.reset()


async def silence(call: Call) -> None:
    """The request is taken, and nothing ever comes."""
    await asyncio.sleep(FOREVER_S)


async def comments(call: Call) -> None:
    """Headers and the role, then keep-alive comments for ever."""
    await call.head(200, SSE)
    await role(call)
    while True:
        await call.part(b": keep-alive\n\n")
        await asyncio.sleep(0.05)


async def empty_events(call: Call) -> None:
    """Role, empty deltas and metadata for ever, but no content."""
    await call.head(200, SSE)
    while True:
        await role(call)
        await call.part(chunk(call, {"content": ""}))
        await call.part(chunk(call, {}, choices=[], usage=USAGE))
        await asyncio.sleep(0.1)


async def role_then_reset(call: Call) -> None:
    """Role, empty and metadata events, then a reset."""
    await call.head(200, SSE)
    await role(call)
    await call.part(chunk(call, {"content": ""}))
    await call.part(chunk(call, {}, choices=[], usage=USAGE))
    call.reset()


def cut(after: int) -> Act:
    """The stream dies after so many words, in the middle of a chunk."""

    async def act(call: Call) -> None:
        await call.head(200, SSE)
        await role(call)
        await words(call, 0, after)
        torn = chunk(call, {"content": piece(after)})
        await call.send(f"{len(torn):x}\r\n".encode() + torn[: len(torn) // 2])
        await asyncio.sleep(0.02)  # or the reset overtakes what was sent
        call.reset()

    return act


def end_early(after: int, *, done: bool = False) -> Act:
    """HTTP ends well after so many words, but no finish_reason was given."""

    async def act(call: Call) -> None:
        await call.head(200, SSE)
        await role(call)
        await words(call, 0, after)
        if done:
            await call.part(DONE)
        await call.end()

    return act


def stall(after: int) -> Act:
    """Silence after so many words, the connection open."""

    async def act(call: Call) -> None:
        await call.head(200, SSE)
        await role(call)
        await words(call, 0, after)
        await asyncio.sleep(FOREVER_S)

    return act


def stall_with_comments(after: int) -> Act:
    """The same, hidden behind keep-alive comments and empty deltas."""

    async def act(call: Call) -> None:
        await call.head(200, SSE)
        await role(call)
        await words(call, 0, after)
        while True:
            await call.part(b": keep-alive\n\n" + chunk(call, {"content": ""}))
            await asyncio.sleep(0.05)

    return act


def drip(gap_s: float) -> Act:
    """One letter at a time, each soon enough for a timer of gaps."""

    async def act(call: Call) -> None:
        await call.head(200, SSE)
        await role(call)
        for letter in ANSWER:
            await call.part(chunk(call, {"content": letter}))
            await asyncio.sleep(gap_s)
        await close_well(call)

    return act


def malformed(at: int) -> Act:
    """One event in the middle is no JSON; the rest is as it should be, but for the word it held."""

    async def act(call: Call) -> None:
        await call.head(200, SSE)
        await role(call)
        await words(call, 0, at)
        await call.part(b'data: {"id":"chatcmpl-wall","choices":[{"index":0,"del\n\n')
        await words(call, at + 1, len(WORDS))
        await close_well(call)

    return act


async def no_done(call: Call) -> None:
    """Everything but [DONE]; HTTP ends well."""
    await call.head(200, SSE)
    await role(call)
    await words(call, 0, len(WORDS))
    await close_well(call, done=False)


async def no_done_and_open(call: Call) -> None:
    """Everything but [DONE], and the connection stays open."""
    await call.head(200, SSE)
    await role(call)
    await words(call, 0, len(WORDS))
    await call.part(chunk(call, {}, "stop"))
    await call.part(chunk(call, {}, choices=[], usage=USAGE))
    await asyncio.sleep(FOREVER_S)


def error_event(after: int = 0) -> Act:
    """An error inside a 200: before any content, or after so many words."""

    async def act(call: Call) -> None:
        await call.head(200, SSE)
        if after:
            await role(call)
            await words(call, 0, after)
        await call.part(b'data: {"error":{"message":"overloaded","type":"server_error","code":null}}\n\n')
        await call.end()

    return act


async def html(call: Call) -> None:
    """A proxy's page instead of an answer, with status 200."""
    await call.head(200, "text/html")
    await call.part(b"<html><body><h1>Welcome to our load balancer</h1></body></html>")
    await call.end()


async def html_as_stream(call: Call) -> None:
    """The same page, under the content type that was asked for."""
    await call.head(200, SSE if call.body.get("stream") else "application/json")
    await call.part(b"<html><body><h1>Welcome to our load balancer</h1></body></html>")
    await call.end()


async def filtered(call: Call) -> None:
    """A content filter ends the answer after some words, and says so."""
    await call.head(200, SSE)
    await role(call)
    await words(call, 0, 10)
    await call.part(chunk(call, {}, "content_filter"))
    await call.part(DONE)
    await call.end()


def until(switch: asyncio.Event, before: Act, after: Act) -> Sequence[Act]:
    """One act until a switch is set, another from then on."""

    async def act(call: Call) -> None:
        await (after if switch.is_set() else before)(call)

    return (act,)
