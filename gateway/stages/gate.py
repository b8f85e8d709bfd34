"""Gate: a slot of this process for every request at work, given out fairly.

`policies.fair_queue` decides who is next; here requests wait for it, briefly and within their deadline. A
caller that leaves while it waits is out of the queue at once, and one that leaves in the very moment in which
it was admitted hands its slot on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Final

from gateway.allowances import Priority
from gateway.errors import Overloaded
from gateway.policies.fair_queue import Bounds, FairQueue, State, Ticket
from gateway.tenants import Tenant

LEAST_RETRY_S: Final = 1.0
MOST_RETRY_S: Final = 30.0


class Shed(StrEnum):
    """Why a request did not get a slot."""

    FULL = "queue_full"  # it came when there was no place to wait
    PUSHED_OUT = "pushed_out"  # its place went to a request of a higher class, or of a tenant with fewer
    WAITED = "waited"  # no slot came free for it in time


class Gate:
    """The slots. `tell` is called with the class and the reason of every request that is shed."""

    def __init__(
        self,
        bounds: Bounds,
        *,
        wait_s: float,
        clock: Callable[[], float],
        tell: Callable[[Priority, Shed], None],
    ) -> None:
        self._queue, self._wait_s, self._clock, self._tell = FairQueue(bounds), wait_s, clock, tell
        self._waiters: dict[Ticket, asyncio.Future[None]] = {}

    @property
    def held(self) -> int:
        """Requests at work."""
        return self._queue.held

    def waiting(self) -> Mapping[Priority, int]:
        """How many wait, by class."""
        return self._queue.waiting()

    @asynccontextmanager
    async def slot(self, tenant: Tenant, priority: Priority, deadline_s: float) -> AsyncIterator[float]:
        """Hold a slot for the block, which is told how long (s) it waited for it.

        Raises: Overloaded: at once when there is no place to wait, else after `wait_s`, at the deadline, or
        when pushed out by another, whichever is first.
        """
        began_s = self._clock()
        ticket, pushed_out = self._queue.arrive(tenant.id, tenant.weight, priority, began_s)
        if pushed_out is not None:
            self._wake(pushed_out)
        if ticket.state is State.OUT:
            raise self._shed(ticket, Shed.FULL)
        if ticket.state is State.WAITING:
            await self._turn(ticket, deadline_s)
        try:
            yield ticket.admitted_s - began_s
        finally:
            self._end(ticket)

    async def _turn(self, ticket: Ticket, deadline_s: float) -> None:
        """Wait until the ticket is admitted. Raises: Overloaded: it is out."""
        loop = asyncio.get_running_loop()
        future = self._waiters[ticket] = loop.create_future()
        wait_s = max(0.0, min(self._wait_s, deadline_s - self._clock()))
        timer = loop.call_later(wait_s, self._wake, ticket)
        try:
            await future
        except BaseException:
            if ticket.state is State.ADMITTED:
                self._end(ticket)
            elif ticket.state is State.WAITING:
                self._queue.withdraw(ticket)
            raise
        finally:
            timer.cancel()
            self._waiters.pop(ticket, None)
        if ticket.state is State.WAITING:
            self._queue.withdraw(ticket)
            raise self._shed(ticket, Shed.WAITED)
        if ticket.state is State.OUT:
            raise self._shed(ticket, Shed.PUSHED_OUT)

    def _end(self, ticket: Ticket) -> None:
        following = self._queue.end(ticket, self._clock())
        if following is not None:
            self._wake(following)

    def _wake(self, ticket: Ticket) -> None:
        future = self._waiters[ticket]
        if not future.done():  # woken or cancelled, and not yet running
            future.set_result(None)

    def _shed(self, ticket: Ticket, why: Shed) -> Overloaded:
        self._tell(ticket.priority, why)
        retry_s = min(MOST_RETRY_S, max(LEAST_RETRY_S, self._queue.clears_in_s()))
        return Overloaded("this gateway has more requests than it can serve", retry_after_s=retry_s)
