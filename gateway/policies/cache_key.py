"""Under which key an answer is kept: equal for requests that mean the same, and for no others. Pure.

A keyed digest (blake2b) of everything that an answer depends on: tenant and grants, the route that is asked,
what retrieval does, and every field of the caller's body. What is written in another way but means the same
is made equal first, and only where that is safe:

* JSON: the order of an object's keys, space between tokens, escapes, 1.0 for 1, and null for a field that is
  not given.
* Text of system, developer and user messages: canonically equivalent Unicode (NFC, not NFKC), line ends,
  empty lines before it, white space after it; and content that is one part of text is that text. Space in
  front may be an indentation, and white space inside may be meant, so both count.
* Text of assistants and tools is compared as it stands: a model goes on from the last letter of a prefill.

Left out are the fields of `IGNORED`: who asks, and how the answer is handed over.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Final

import msgspec
import orjson

VERSION: Final = 1
"""Of the key's make-up: a change of it must not find what was kept before."""
IGNORED: Final = frozenset(
    {
        *("stream", "stream_options", "user", "safety_identifier", "metadata", "store"),
        *("prompt_cache_key", "prompt_cache_retention"),
    }
)
_NORMALISED_ROLES: Final = frozenset({"system", "developer", "user"})
_MAX_EXACT: Final = 1 << 53


class Unkeyable(ValueError):
    """The request cannot be brought into one form: a number beyond 64 bits, half a surrogate pair."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What an answer depends on beside the caller's body.

    `grants`: what the caller's key may name. `route` and `retrieval` are fingerprints of what would be asked
    and searched, embedding version included; the rest are the settled `rag` options and the tier hint.
    """

    tenant: str
    grants: str
    route: str
    mode: str
    complexity: str = ""
    retrieval: str = ""
    index: str = ""
    namespace: str = ""
    top_k: int = 0
    filter: Any = None
    min_score: float | None = None
    include_context: bool = False


def cache_key(fields: Mapping[str, msgspec.Raw], scope: Scope, secret: bytes) -> str:
    """The key: 48 hexadecimal digits. Raises: Unkeyable."""
    try:
        body = {name: _plain(msgspec.json.decode(raw)) for name, raw in fields.items() if name not in IGNORED}
        told = {name: value for name, value in body.items() if value is not None}
        if isinstance(messages := told.get("messages"), list):
            told["messages"] = [_message(message) for message in messages]
        whole = orjson.dumps([VERSION, _plain(asdict(scope)), told], option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unkeyable(str(error)) from error
    return blake2b(whole, key=secret, digest_size=24).hexdigest()


def fingerprint(value: Any, size: int = 16) -> str:
    """A short name for a JSON value; equal values, whatever the order of their keys, have equal names."""
    return blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=size).hexdigest()


def _plain(value: Any) -> Any:
    """The value with whole numbers as integers."""
    match value:
        case float() if value.is_integer() and abs(value) <= _MAX_EXACT:
            return int(value)
        case dict():
            return {name: _plain(part) for name, part in value.items()}
        case list():
            return [_plain(part) for part in value]
        case _:
            return value


def _message(message: Any) -> Any:
    if not isinstance(message, dict) or message.get("role") not in _NORMALISED_ROLES:
        return message
    content = message.get("content")
    if isinstance(content, list):
        content = [_part(part) for part in content]
        if len(content) == 1 and content[0].keys() == {"type", "text"} and content[0]["type"] == "text":
            content = content[0]["text"]
    elif isinstance(content, str):
        content = _text(content)
    return {**message, "content": content}


def _part(part: Any) -> Any:
    text = part.get("text")
    return {**part, "text": _text(text)} if isinstance(text, str) else part


def _text(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return text.lstrip("\n").rstrip()
