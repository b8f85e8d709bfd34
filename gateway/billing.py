"""Bills: what one call of an LLM upstream came to, as a record that outlives the process. Pure.

A record is JSON with the field names below. It is known by its `id`, which is the gateway's own and not the
request's: a caller chooses its request ids. Readers pass over fields that they do not know.
"""

import re
from typing import Final

import msgspec

_ID: Final = re.compile(r"[0-9a-f]{32}")


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. Its tokens are the provider's count, or ours where it gave none.

    `id` is 32 hexadecimal digits and `at_ms` milliseconds since 1970, both given as it is written down.
    `model` is the alias that the caller named, `served` the provider's own name of what answered;
    `cached_tokens` are part of `input_tokens`. A failed attempt is billed for what it had sent of an answer.
    """

    id: str = ""
    at_ms: int = 0
    tenant: str
    request_id: str
    model: str
    upstream: str
    served: str
    outcome: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    nano_usd: int

    def stamped(self, id_: str, at_ms: int) -> "Bill":
        return msgspec.structs.replace(self, id=id_, at_ms=at_ms)


def encode(bill: Bill) -> bytes:
    """One line of JSON, without its end."""
    return msgspec.json.encode(bill)


def decode(data: bytes) -> Bill | None:
    """The bill; None when the bytes are none, or one without an id."""
    try:
        bill = msgspec.json.decode(data, type=Bill)
    except msgspec.DecodeError:
        return None
    return bill if _ID.fullmatch(bill.id) else None
