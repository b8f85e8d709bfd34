"""GuardedEmbedder: one embedding model at one or more endpoints, each under its own breaker.

Endpoints of one version give comparable vectors, so the next stands in for one that fails, in configured
order. A refusal of the texts themselves is not asked about twice. How long a question may take is bounded
apart from its deadline, because there is something better to do with the time: another endpoint, or a search
by words alone. How long passages take depends on how many there are, so their waiting is never held against
an endpoint.
"""

import math
from collections.abc import Callable, Sequence

from gateway.embedders.base import Embedded, Embedder, Kind
from gateway.errors import CircuitOpen, Fault, GatewayError
from gateway.policies.breaker import Breaker, Breakers
from gateway.policies.guard import Blame, guarded
from regions.runtime import tracing


class GuardedEmbedder:
    """An `Embedder` made of others of the same version; the first is the one that is meant."""

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Embedder],
        *,
        query_s: float,
        breakers: Breakers,
        clock: Callable[[], float],
    ) -> None:
        """Raises: ValueError: no endpoint, or their vectors cannot be compared."""
        if len({(each.version, each.dimension) for each in endpoints}) != 1:
            raise ValueError(f"{name}: endpoints of one embedder must be of one version and dimension")
        self._name, self._endpoints, self._query_s, self._clock = name, endpoints, query_s, clock
        self._breakers = [
            breakers.of(f"embedder/{name}" + (f"/{number}" if number else ""))
            for number in range(len(endpoints))
        ]

    @property
    def version(self) -> str:
        return self._endpoints[0].version

    @property
    def dimension(self) -> int:
        return self._endpoints[0].dimension

    async def start(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.start()

    async def close(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.close()

    async def embed(self, texts: Sequence[str], *, kind: Kind, timeout_s: float) -> Embedded:
        """See `Embedder.embed`: the first endpoint that answers; else what the last of them said.

        Raises: CircuitOpen: all are left alone; `retry_after_s` is when the first of them is asked again.
        """
        until_s = self._clock() + timeout_s
        last: GatewayError | None = None
        left = [each for each in zip(self._endpoints, self._breakers, strict=True) if self._takes(each[1])]
        for place, (endpoint, breaker) in enumerate(left):
            if not self._takes(breaker):  # its only probe went out while we asked another
                continue
            patience_s = max(0.0, until_s - self._clock()) / (len(left) - place)
            fair_s = math.inf
            if kind == "query":
                patience_s, fair_s = min(patience_s, self._query_s), self._query_s
            try:
                with guarded(breaker, self._clock, _blame, patience_s=patience_s, fair_s=fair_s):
                    return await self._ask(endpoint, texts, kind, patience_s)
            except GatewayError as error:
                if error.fault is Fault.CLIENT:
                    raise
                last = error
        raise last or self._all_open()

    async def _ask(self, endpoint: Embedder, texts: Sequence[str], kind: Kind, timeout_s: float) -> Embedded:
        with self._span(endpoint) as span:
            embedded = await endpoint.embed(texts, kind=kind, timeout_s=timeout_s)
            if span is not None:
                span.attributes |= {
                    "gen_ai.usage.input_tokens": embedded.tokens,
                    "gen_ai.embeddings.dimension.count": self.dimension,
                }
            return embedded

    def _span(self, endpoint: Embedder) -> tracing.span:
        attributes: tracing.Attributes = {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.request.model": endpoint.version,
            "meridian.embedder": self._name,
        }
        return tracing.span(f"embeddings {endpoint.version}", tracing.Kind.CLIENT, attributes)

    def _takes(self, breaker: Breaker) -> bool:
        return breaker.wait_s(self._clock()) == 0

    def _all_open(self) -> CircuitOpen:
        wait_s = min(breaker.wait_s(self._clock()) for breaker in self._breakers)
        return CircuitOpen(f"{self._name}: no endpoint of it is asked for a while", retry_after_s=wait_s)


def _blame(error: Exception) -> Blame:
    if not isinstance(error, GatewayError):
        return Blame.CALLER
    return Blame.DEPENDENCY if error.fault is Fault.UPSTREAM else Blame.CALLER
