"""ApplyWrite: the one handler that every mutation of the product passes through.

The end of the write pipeline of a gateway that is configured without `regions`: one index, one gateway
in front of it, no log. It applies the change to the index's first configured replica. With `regions`,
`append_write` takes this place and nothing before it changes. Writes have a breaker apart from the reads':
a replica whose disk is full still answers.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.context import RequestContext
from gateway.errors import UpstreamUnavailable
from gateway.messages import Written
from gateway.policies.breaker import Breakers
from gateway.policies.guard import guarded
from gateway.stages.nearest_read import Candidate, blame, refusal
from regions.changes import Write
from regions.errors import ReplicaRejected, ReplicaUnavailable
from regions.names import IndexName, NamespaceRef
from regions.positions import NO_LSN, Lsn

FAIR_S: Final = 5.0
"""A replica that is silent for less, because its caller had no more time, has not failed."""


class ApplyWrite:
    """Apply a change to the home replica of its index."""

    def __init__(
        self, replicas: Mapping[IndexName, Sequence[Candidate]], breakers: Breakers | None = None
    ) -> None:
        self._breakers = breakers or Breakers()
        self._homes = {index: candidates[0] for index, candidates in replicas.items() if candidates}

    async def latest(self, ctx: RequestContext, namespace: NamespaceRef) -> Lsn:
        """Nothing to wait for: one index takes the writes and answers the reads."""
        return NO_LSN

    async def __call__(self, ctx: RequestContext, write: Write) -> Written:
        """Raises: UpstreamUnavailable: the home did not answer, so the outcome may be unknown; every
        change may be sent again. CircuitOpen: nothing was sent. BadRequest, NotFound, Conflict: refused.
        """
        home, left_s = self._homes[write.namespace.index], ctx.remaining_s()
        breaker = self._breakers.of(f"writes/{write.namespace.index}/{home.region}")
        try:
            with guarded(breaker, ctx.clock, blame, patience_s=left_s, fair_s=FAIR_S):
                applied = await home.replica.apply(write.namespace, write.change, timeout_s=left_s)
            return Written(applied.lsn, applied.matched)
        except ReplicaRejected as error:
            raise refusal(ctx, error) from error
        except ReplicaUnavailable as error:
            ctx.note("replica_unavailable", region=home.region, error=str(error))
            raise UpstreamUnavailable(
                f"the home of the index {write.namespace.index} did not answer",
                retry_after_s=error.retry_after_s,
            ) from error
