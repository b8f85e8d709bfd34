"""A scripted OpenAI-compatible endpoint on a real socket: what it answers next is what the test put in.

Steps are taken one a request; when they run out, it answers well. A conversation whose last message is a key
of `words` gets that step instead: for callers that cannot reach the script.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """One `chat.completion.chunk` as an SSE event."""
    body = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "scripted-1",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
ROLE = chunk({"role": "assistant", "content": ""})
DONE = b"data: [DONE]\n\n"


def usage_chunk() -> bytes:
    """The last chunk of a stream that was asked for its usage."""
    return chunk({}, choices=[], usage=USAGE)


def answer(*pieces: str) -> list[bytes]:
    """A whole good answer in these pieces."""
    return [ROLE, *(chunk({"content": p}) for p in pieces), chunk({}, "stop"), usage_chunk(), DONE]


@dataclass
class Step:
    """How one request is answered: status and headers, then the parts with `gap_s` between them.

    `cut` breaks the connection off after the parts; `hold` never ends the answer. A caller that asks for no
    stream gets a step of the usual kind as JSON; one with another Content-Type as it stands.
    """

    parts: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    gap_s: float = 0.0
    first_s: float = 0.0
    cut: bool = False
    hold: bool = False


@dataclass
class Seen:
    """One request as it came."""

    body: dict[str, Any]
    headers: dict[str, str]


class ScriptedProvider:
    """The endpoint; `seen` is every request, `left` is set when a caller went before its answer ended."""

    def __init__(self, steps: Sequence[Step] = (), good: Callable[[], Step] | None = None) -> None:
        self.steps = list(steps)
        self.seen: list[Seen] = []
        self.left = asyncio.Event()
        self.tells_usage = True
        self.words: dict[str, Step] = {}
        self._good = good or (lambda: Step(answer("Answered", " well.")))

    def application(self) -> web.Application:
        app = web.Application(client_max_size=0)
        app.router.add_post("/v1/chat/completions", self._on_chat)
        return app

    async def _on_chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(Seen(body, dict(request.headers)))
        step = self.words.get(str(body["messages"][-1].get("content")))
        step = step or (self.steps.pop(0) if self.steps else self._good())
        try:
            return await self._perform(request, step, streams=bool(body.get("stream")))
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise

    async def _perform(self, request: web.Request, step: Step, *, streams: bool) -> web.StreamResponse:
        await asyncio.sleep(step.first_s)
        if not streams and step.status == 200 and step.headers.get("Content-Type") == "text/event-stream":
            return web.json_response(self._whole(step))
        response = web.StreamResponse(status=step.status, headers=step.headers)
        await response.prepare(request)
        for part in step.parts:
            await response.write(part)
            await asyncio.sleep(step.gap_s)
        if step.hold:
            await asyncio.Event().wait()
        if step.cut:
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write_eof()
        return response

    def _whole(self, step: Step) -> dict[str, Any]:
        deltas = [
            msgspec.json.decode(part[6:])["choices"][0]["delta"] for part in step.parts if b'"delta"' in part
        ]
        text = "".join(delta.get("content") or "" for delta in deltas)
        return {
            "id": "chatcmpl-scripted",
            "object": "chat.completion",
            "created": 1,
            "model": "scripted-1",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
            ],
            **({"usage": USAGE} if self.tells_usage else {}),
            "x_unknown_field": {"kept": True},
        }
