"""What a provider of LLM answers can do, whatever dialect its endpoint speaks.

A plug-in file holds `Config` (pydantic, frozen, extra="forbid") and `build(config, name, model, resolve)`;
`resolve` turns a secret's reference into the secret. `list_models(config, name, resolve)` gives the body of
the endpoint's own list of models (`wire.model_list`); it raises UpstreamUnavailable or UpstreamProtocolError,
and how long it may take is for the caller to say.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.messages import ChatEvent, ChatRequest
from gateway.wire.rate_limits import RateLimits
from regions.runtime.config_file import SecretRef

Resolve = Callable[[SecretRef], str]


@dataclass(frozen=True, slots=True)
class OpenedAnswer:
    """An answer whose first content has arrived: `head` holds it and what came before, `rest` follows.

    `close` frees the connection at once, also in the middle of the answer; call it exactly once. `limits`
    is what the endpoint says is left of our rate there, None when it says nothing.
    """

    head: Sequence[ChatEvent]
    rest: AsyncIterator[ChatEvent]
    close: Callable[[], Awaitable[None]]
    limits: RateLimits | None = None


class ChatProvider(Protocol):
    """One upstream: a model at an endpoint."""

    async def start(self) -> None: ...

    async def open(self, request: ChatRequest, *, stream: bool, timeout_s: float) -> OpenedAnswer:
        """Send the request, wait for the first content event; nothing is given out before it.

        `stream=False` asks for one whole answer, which is then a single event. How long `rest` may take is
        for the caller to say: cancelled, it ends the call.
        Raises: UpstreamTimeout: no content within `timeout_s`. UpstreamThrottled: 429. UpstreamUnavailable:
        not reached, broken off, 5xx. UpstreamRejected: any other refusal, with its `reason`.
        UpstreamProtocolError: not in the dialect, or it ended without saying why it was finished. The same
        may come out of `rest`, but for the timeout.
        """
        ...

    async def close(self) -> None: ...
