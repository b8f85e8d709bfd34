"""Answers of the scripted LLM that several SDKs' tests ask for."""

from typing import Any, Final

from tests.fakes.provider import DONE, ROLE, Step, chunk, usage_chunk

TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CALL_ID: Final = "call_scripted_1"


def tool_call(city: str = "Seville") -> Step:
    """A call of `weather`, its arguments in two pieces."""
    half = len(city) // 2

    def arguments(text: str) -> bytes:
        return chunk({"tool_calls": [{"index": 0, "function": {"arguments": text}}]})

    function = {"name": "weather", "arguments": ""}
    begun = {"tool_calls": [{"index": 0, "id": CALL_ID, "type": "function", "function": function}]}
    return Step(
        [
            ROLE,
            chunk(begun),
            arguments('{"city": "' + city[:half]),
            arguments(city[half:] + '"}'),
            chunk({}, "tool_calls"),
            usage_chunk(),
            DONE,
        ]
    )


def refusal(status: int, code: str | None, kind: str = "invalid_request_error") -> Step:
    """An error of the dialect."""
    body = b'{"error":{"message":"as scripted","type":"%s","param":null,"code":%s}}' % (
        kind.encode(),
        b"null" if code is None else b'"%s"' % code.encode(),
    )
    return Step([body], status, {"Content-Type": "application/json"})


def silence() -> Step:
    """Nothing, for longer than any caller here waits."""
    return Step(first_s=30)


def broken() -> Step:
    """A stream that breaks off after its first word."""
    return Step([ROLE, chunk({"content": "Georges "})], cut=True)


WORDS: Final = {
    "#tool": tool_call(),
    "#filter": refusal(400, "content_filter"),
    "#cut": broken(),
    "#silence": silence(),
}
"""What the Node script's questions ask for: it runs in a process of its own and cannot reach the script."""
