"""Tells whether an index is still the one that a follower filled, or one that was emptied or made anew.

An index that tells its incarnation is known by that. In every other one each follower keeps a record of its
own, outside every tenant's namespaces, and the same token in its progress. The token is written to the index
first: a progress record never expects what no index ever held.
"""

from collections.abc import Mapping
from typing import Final
from uuid import uuid4

from regions.changes import Upsert
from regions.errors import ReplicaError
from regions.names import IndexName, NamespaceRef
from regions.records import Record
from regions.replicas.base import Replica
from regions.replicator.calls import Calls

NAMESPACE: Final = "_meridian"
"""No tenant's: a tenant's begins with its id and a dot."""
_TOKEN: Final = "_m.marker"  # noqa: S105 - the name of a metadata field
_CALL_S: Final = 5.0


def name_of(home: str, shard: int) -> str:
    """The follower of a home's shard; it has the same name in every region."""
    return f"{home}.{shard}"


class Markers:
    """The markers of one follower, called `name`, in the indexes that it writes to."""

    def __init__(self, name: str, replicas: Mapping[IndexName, Replica], calls: Calls | None = None) -> None:
        """`calls` counts the markers that are being written; None: nobody has to know."""
        self._name, self._replicas = name, replicas
        self._calls = calls or Calls(settle_s=0.0)

    async def check(self, expected: Mapping[str, str]) -> tuple[dict[str, str], list[IndexName]]:
        """The tokens from now on, and the indexes that lost what they held.

        An index that cannot be asked is taken to be as it was: it is asked again soon.
        """
        tokens, wiped = dict(expected), []
        for index in self._replicas:
            known = expected.get(index)
            try:
                found = await self._read(index)
                if known is not None and found == known:
                    continue
                if known is not None:
                    wiped.append(index)
                tokens[index] = self._replicas[index].incarnation or await self._write(index)
            except ReplicaError:
                continue
        return tokens, wiped

    async def is_there(self, index: IndexName, expected: Mapping[str, str]) -> bool:
        """Whether the index has its token, if one is known. Raises: ReplicaError: it cannot be asked."""
        known = expected.get(index)
        return known is None or await self._read(index) == known

    async def _read(self, index: IndexName) -> str | None:
        place = NamespaceRef(index, NAMESPACE)
        replica = self._replicas[index]
        found = await replica.fetch(place, [self._name], timeout_s=_CALL_S)
        if replica.incarnation is not None:
            return replica.incarnation
        record = found.records.get(self._name)
        return str((record.metadata or {}).get(_TOKEN)) if record is not None else None

    async def _write(self, index: IndexName) -> str:
        token, replica = uuid4().hex, self._replicas[index]
        shape = await replica.describe(timeout_s=_CALL_S)
        values = [1.0, *[0.0] * (shape.dimension - 1)]
        marker = Record(self._name, values=values, metadata={_TOKEN: token})
        with self._calls.one():
            await replica.apply(NamespaceRef(index, NAMESPACE), Upsert([marker]), timeout_s=_CALL_S)
        return token
