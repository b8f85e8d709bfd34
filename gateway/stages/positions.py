"""Where a namespace stands now, as a read would be told: what decides whether a kept answer still holds.

The index that a read would go to is asked, with the cheapest read there is, and its own position
(`x-pinecone-max-indexed-lsn`) is compared: it moves with every change of the namespace and with nothing else.
The positions of our logs would not do: they move on while the namespace rests.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from gateway.context import RequestContext
from gateway.errors import Fault, GatewayError, NotFound
from gateway.policies.cache_rules import Position
from gateway.stages import nearest_read
from gateway.stages.nearest_read import Candidate, Read, Served
from regions.names import IndexName, NamespaceRef, RegionId
from regions.replicas.base import Fetched, Replica

NOBODY: Final = "_m.nobody"
"""An id that no record has."""

FetchHandler = Callable[[RequestContext, Read[Fetched]], Awaitable[Served[Fetched]]]


class Positions(Protocol):
    """Tells where namespaces stand."""

    async def look(self, ctx: RequestContext, namespace: NamespaceRef) -> Position | None:
        """The position that a read of the caller would be judged by; None when nobody can say."""
        ...


class AskedPositions:
    """Asks the index that a read would ask."""

    def __init__(self, read: FetchHandler, replicas: Mapping[IndexName, Sequence[Candidate]]) -> None:
        self._read = read
        self._replicas: Mapping[tuple[IndexName, RegionId], Replica] = {
            (index, each.region): each.replica for index, found in replicas.items() for each in found
        }

    async def look(self, ctx: RequestContext, namespace: NamespaceRef) -> Position | None:
        try:
            served = await self._read(ctx, nearest_read.fetch(namespace, [NOBODY]))
        except NotFound:
            return None
        except GatewayError as error:
            if error.fault is Fault.CLIENT:
                raise
            return None  # retrieval will say what is wrong, or find another way
        lsn = served.value.lsn
        if lsn is None:
            return None
        incarnation = self._replicas[namespace.index, served.region].incarnation
        return Position(f"{served.region}/{incarnation}", lsn, served.region, lsn)
