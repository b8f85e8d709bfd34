"""The changes that one tenure has under way at its region's indexes, and until when they may take effect.

Who ends a tenure by itself asks here whether its successor has to wait: only a call whose answer is lost may
still change something, and for no longer than the settle time.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from regions.errors import ReplicaError, ReplicaUnavailable


class Calls:
    """Counts them; once closed, no further one begins. Times are the loop's."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._under_way, self._settled_s = 0, 0.0
        self._is_closed = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def is_settled(self) -> bool:
        """Whether nothing that was sent can change anything any more."""
        return not self._under_way and asyncio.get_running_loop().time() >= self._settled_s

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around a call on an index. Raises: ReplicaUnavailable: it may not begin any more."""
        if self._is_closed:
            raise ReplicaUnavailable("this replicator is about to end", may_land=False)
        self._under_way += 1
        self._is_idle.clear()
        try:
            yield
        except ReplicaUnavailable as error:
            if error.may_land:
                self._note_unsettled()
            raise
        except ReplicaError:
            raise  # the index's own no
        except BaseException:
            self._note_unsettled()  # given up by us, perhaps on its way
            raise
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._is_idle.set()

    async def close(self, patience_s: float) -> None:
        """Let no call begin any more, and those under way end, for so long."""
        self._is_closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._is_idle.wait()

    def _note_unsettled(self) -> None:
        self._settled_s = asyncio.get_running_loop().time() + self._settle_s
