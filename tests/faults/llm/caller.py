"""One chat call as a caller sees it: what came, when, and how it ended."""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp
import msgspec


class Ending(StrEnum):
    """How a call ended."""

    SUCCESS = "success"  # what an SDK would hand on as an answer, whole or not
    ERROR = "error"  # an error of the dialect, as a status or inside the stream
    BROKEN = "broken"  # the connection broke, or what came was not in the dialect
    HANG = "hang"  # it had not ended when the scenario's time was over


@dataclass(slots=True)
class Outcome:
    """What one call came to. `first_s` is when the first content came, `wall_s` when it ended."""

    ending: Ending = Ending.HANG
    status: int = 0
    text: str = ""
    model: str = ""
    usage: dict[str, Any] | None = None
    finish: str | None = None
    has_done: bool = False
    error: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    comments: int = 0
    began_ms: float = 0.0
    first_s: float | None = None
    wall_s: float = 0.0

    @property
    def code(self) -> str:
        return str(self.error.get("code"))


async def call(
    session: aiohttp.ClientSession,
    url: str,
    body: dict[str, Any],
    headers: dict[str, str],
    *,
    max_s: float,
) -> Outcome:
    """Make the call and watch it, for no longer than `max_s`."""
    outcome = Outcome()
    clock = asyncio.get_running_loop().time
    started_s = clock()
    try:
        async with asyncio.timeout(max_s):
            async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
                outcome.status = response.status
                outcome.headers = {name.lower(): value for name, value in response.headers.items()}
                if response.content_type == "text/event-stream":
                    await _read_stream(response, outcome, started_s)
                else:
                    _read_whole(await response.read(), outcome)
    except TimeoutError:
        outcome.ending = Ending.HANG
    except (aiohttp.ClientError, msgspec.DecodeError, KeyError, TypeError):
        outcome.ending = Ending.BROKEN
    outcome.wall_s = clock() - started_s
    return outcome


def _read_whole(body: bytes, outcome: Outcome) -> None:
    decoded = msgspec.json.decode(body, type=dict[str, Any])
    if outcome.status != 200:
        outcome.error = decoded["error"]
        outcome.ending = Ending.ERROR
        return
    [choice] = decoded["choices"]
    outcome.text = choice["message"]["content"]
    outcome.finish, outcome.model, outcome.usage = choice["finish_reason"], decoded["model"], decoded["usage"]
    outcome.facts = {name: decoded[name] for name in ("meridian", "degraded") if name in decoded}
    outcome.has_done = True
    outcome.ending = Ending.SUCCESS


async def _read_stream(response: aiohttp.ClientResponse, outcome: Outcome, started_s: float) -> None:
    clock = asyncio.get_running_loop().time
    async for line in response.content:
        line = line.rstrip(b"\r\n")
        if line.startswith(b":"):
            outcome.comments += 1
        if not line.startswith(b"data: "):
            continue
        if line == b"data: [DONE]":
            outcome.has_done = True
            continue
        event = msgspec.json.decode(line[6:], type=dict[str, Any])
        if "error" in event:
            outcome.error = event["error"]
            continue
        _take(event, outcome)
        if outcome.text and outcome.first_s is None:
            outcome.first_s = clock() - started_s
    outcome.ending = Ending.ERROR if outcome.error else Ending.SUCCESS


def _take(event: dict[str, Any], outcome: Outcome) -> None:
    outcome.model = event["model"] or outcome.model
    outcome.usage = event.get("usage") or outcome.usage
    outcome.facts |= {name: event[name] for name in ("meridian", "degraded") if name in event}
    for choice in event["choices"]:
        outcome.text += choice["delta"].get("content") or ""
        outcome.finish = choice["finish_reason"] or outcome.finish
