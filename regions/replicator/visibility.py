"""When queries see what was written: the index's own position, asked for until it is far enough."""

import asyncio
from typing import Final

from regions.errors import ReplicaError, ReplicaRejected
from regions.names import NamespaceRef
from regions.positions import Lsn
from regions.replicas.base import Replica

NOBODY: Final = "_m.nobody"
"""An id that no record has: what concerns it changes nothing."""

_FIRST_S: Final = 0.02
_LONGEST_S: Final = 1.0
_ASK_S: Final = 5.0


async def wait_visible(replica: Replica, namespace: NamespaceRef, lsn: Lsn | None) -> None:
    """Return once reads of the namespace have passed `lsn`; at once when the index tells no positions."""
    pause_s = _FIRST_S
    while lsn is not None:
        try:
            seen = (await replica.fetch(namespace, [NOBODY], timeout_s=_ASK_S)).lsn
        except ReplicaRejected as error:
            if error.status == 404:
                return  # a dropped namespace shows nothing, and nothing is what it holds
            seen = Lsn(-1)
        except ReplicaError:
            seen = Lsn(-1)
        if seen is None or seen >= lsn:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_S)
