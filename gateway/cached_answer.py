"""An answer of the prompt cache, as it is kept. A value."""

import msgspec


class CachedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it is kept. Times are Unix seconds.

    `made_s` is when its request came: it knows nothing newer. `choices` are those of a whole
    `chat.completion`, `more` its other fields, both as JSON. `cost_usd` is what making it cost.
    """

    made_s: float
    ttl_s: float
    generation: str
    lsn: int
    region: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: float
    choices: bytes
    more: bytes
