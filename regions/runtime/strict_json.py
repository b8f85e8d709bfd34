"""JSON from outside, decoded strictly: typed, no repeated keys, bounded depth.

Pure. A repeated key is refused because two readers of one body may otherwise disagree about it: the
gateway would check one value and the index behind it use the other.
"""

import re
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

MAX_DEPTH: Final = 64
MAX_PARTS: Final = 500_000
"""Texts, braces and brackets of one body: 0.6 s of checking. A full upsert batch has some 30,000."""

# Keys, braces and brackets are all that matters; what lies between is skipped in one step and never tried
# again (possessive), which is four times as fast over long lists of numbers.
_TOKEN: Final = re.compile(rb'[^{}\[\]"]*+([{}\[\]]|"[^"\\]*+(?:\\.[^"\\]*+)*+"(?:\s*:)?)', re.DOTALL)


class BadJson(ValueError):
    """A body that is not the JSON it should be; the text says where and why."""


def check_keys(body: bytes | memoryview) -> None:
    """Raises: BadJson: some object repeats a key, or the body is deeper or has more parts than allowed.

    Expects JSON that parses; on anything else it may say nothing, so decode as well.
    """
    stack: list[set[bytes]] = []
    for number, found in enumerate(_TOKEN.finditer(body)):
        if number >= MAX_PARTS:
            raise BadJson(f"more than {MAX_PARTS} texts, objects and lists")
        token = found.group(1)
        match token:
            case b"{" | b"[":
                if len(stack) >= MAX_DEPTH:
                    raise BadJson(f"nested deeper than {MAX_DEPTH} levels")
                stack.append(set())
            case b"}" | b"]":
                if stack:
                    stack.pop()
            case _ if token.endswith(b":") and stack:
                key = token[:-1].rstrip()
                if b"\\" in key:
                    key = _unescape(key)
                if key in stack[-1]:
                    raise BadJson(f"the key {key.decode(errors='replace')} is repeated")
                stack[-1].add(key)


def _unescape(key: bytes) -> bytes:
    """The key without escapes, quoted again, so that "\\u0061" and "a" compare equal."""
    try:
        text: str = msgspec.json.decode(key, type=str)
    except msgspec.DecodeError:
        return key
    return b'"' + text.encode("utf-8", "surrogatepass") + b'"'


def decode(body: bytes, type_: type[T]) -> T:
    """Raises: BadJson: not JSON, not of `type_` (with its path), a repeated key, or too deep."""
    decoded = decode_once(body, type_)
    check_keys(body)
    return decoded


def decode_once(body: bytes, type_: type[T]) -> T:
    """`decode` for bytes whose keys are already checked, such as a part of a checked body."""
    try:
        return msgspec.json.decode(body, type=type_)
    except RecursionError:
        raise BadJson(f"nested deeper than {MAX_DEPTH} levels") from None
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadJson(str(error)) from None
