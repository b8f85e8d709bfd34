"""FairQueue: which of many tenants' requests gets a process's next slot, and which is turned away.

Between classes the order is strict: interactive, then batch, then ingestion. Within a class, a tenant that
holds fewer slots than its weight's share goes first, so that who asks within its share hardly waits. Else,
and among such, it is start-time fair queueing over many slots: each tenant's next request has a virtual
start, the lowest goes first, and being admitted moves the tenant's next start on by cost / weight. The cost
is the time that its requests of late held a slot, so two tenants of equal weight get equal slot-seconds, also
where one asks for long answers and the other for short ones. Time that nobody else wanted is not held against
a tenant: a newcomer starts where the one admitted last did.

What holds, whatever arrives and leaves:

* Work-conserving: while anything waits, every slot is held.
* Two tenants of a class that both wait all the time never differ by more than one request each in
  (cost admitted) / weight.
* What waits and what is remembered is bounded. A full queue sheds from its lowest class first, there from
  the tenant with the longest queue for its weight, there the youngest: it never helps to ask more often.

Sources: Goyal, Vin, Cheng, SIGCOMM 1996 (start-time fair queueing); Jin, Chase, Kaur, SIGMETRICS 2004
(the same over a server of depth D); McKenney, INFOCOM 1990 (drop from the longest queue).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from gateway.allowances import Priority

FIRST_COST_S: Final = 1.0
"""Of a request before any has ended."""
LEAST_COST_S: Final = 0.001
REMEMBERED: Final = 4096
"""Tenants a class whose cost is remembered while they ask nothing."""
_LEARNING: Final = 0.125
"""The last request's part in a mean."""

_RANK: Final = {priority: rank for rank, priority in enumerate(Priority)}


class State(Enum):
    """Of a ticket. WAITING becomes ADMITTED or OUT; ADMITTED becomes OUT."""

    WAITING = auto()
    ADMITTED = auto()
    OUT = auto()


@dataclass(slots=True, eq=False)
class Ticket:
    """One request's place; only the queue changes it."""

    tenant: str
    priority: Priority
    number: int
    state: State = State.WAITING
    admitted_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many may be at work, how many may wait in all, and how many of those may be one tenant's."""

    slots: int
    waiting: int
    waiting_per_tenant: int


@dataclass(slots=True)
class _Flow:
    """One tenant within one class; `start` is the virtual start of its next request (s / weight)."""

    weight: float
    start: float
    cost_s: float
    held: int = 0
    waiting: dict[Ticket, None] = field(default_factory=dict)

    def crowding(self, more: int = 0) -> float:
        """Its queue's length for its weight."""
        return (len(self.waiting) + more) / self.weight


class _Lane:
    """One class: its tenants, and the virtual time, which is the start of what was admitted last."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.virtual, self.cost_s, self.waiting = 0.0, FIRST_COST_S, 0
        self.flows: dict[str, _Flow] = {}
        """Of tenants that hold or wait for something here."""
        self.idle: dict[str, _Flow] = {}
        """Of others, remembered; the first is who left longest ago."""

    def flow(self, tenant: str, weight: float) -> _Flow:
        """The tenant's, under the weight that it has now."""
        flow = self.flows.get(tenant) or self.idle.pop(tenant, None)
        if flow is None:
            flow = _Flow(weight, self.virtual, self.cost_s)
        self.flows[tenant] = flow
        flow.weight = weight
        return flow

    def _settle(self, tenant: str) -> None:
        """Keep the tenant's flow where it belongs."""
        flow = self.flows[tenant]
        if flow.held or flow.waiting:
            return
        self.idle[tenant] = self.flows.pop(tenant)
        if len(self.idle) > REMEMBERED:
            del self.idle[next(iter(self.idle))]

    def wait(self, ticket: Ticket, flow: _Flow) -> None:
        if not flow.waiting:
            flow.start = max(flow.start, self.virtual)
        flow.waiting[ticket] = None
        self.waiting += 1

    def leave(self, ticket: Ticket) -> None:
        """A waiting request goes."""
        self._take(ticket)
        self._settle(ticket.tenant)

    def _take(self, ticket: Ticket) -> None:
        del self.flows[ticket.tenant].waiting[ticket]
        self.waiting -= 1

    def refuse(self, ticket: Ticket) -> None:
        """One that never waited goes."""
        self._settle(ticket.tenant)

    def next(self) -> Ticket:
        """Take out the oldest request of the tenant whose turn it is. Something must wait."""
        share = self._slots / sum(flow.weight for flow in self.flows.values())

        def order(head: Ticket) -> tuple[bool, float, int]:
            flow = self.flows[head.tenant]
            return flow.held + 1 > share * flow.weight, flow.start, head.number

        heads = (next(iter(flow.waiting)) for flow in self.flows.values() if flow.waiting)
        first = min(heads, key=order)
        self._take(first)
        return first

    def admit(self, ticket: Ticket, now_s: float) -> None:
        flow = self.flows[ticket.tenant]
        start = max(self.virtual, flow.start) if not self.waiting else flow.start
        self.virtual = max(self.virtual, start)
        flow.start = start + flow.cost_s / flow.weight
        flow.held += 1
        ticket.state, ticket.admitted_s = State.ADMITTED, now_s

    def end(self, ticket: Ticket, now_s: float) -> None:
        flow, took_s = self.flows[ticket.tenant], max(LEAST_COST_S, now_s - ticket.admitted_s)
        flow.held -= 1
        flow.cost_s += _LEARNING * (took_s - flow.cost_s)
        self.cost_s += _LEARNING * (took_s - self.cost_s)
        self._settle(ticket.tenant)

    def most_crowded(self) -> _Flow:
        """The tenant with the longest queue for its weight, or the youngest of such. Something waits."""
        waiting = (flow for flow in self.flows.values() if flow.waiting)
        return max(waiting, key=lambda flow: (flow.crowding(), next(reversed(flow.waiting)).number))


class FairQueue:
    """The slots of one process and who waits for them."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._lanes = {priority: _Lane(bounds.slots) for priority in Priority}
        self._arrived = 0
        self.held = 0

    def waiting(self) -> Mapping[Priority, int]:
        """How many wait, by class."""
        return {priority: lane.waiting for priority, lane in self._lanes.items()}

    def arrive(
        self, tenant: str, weight: float, priority: Priority, now_s: float
    ) -> tuple[Ticket, Ticket | None]:
        """A new request's ticket: admitted, waiting or out; and the one that was put out for it, if any."""
        self._arrived += 1
        ticket, lane = Ticket(tenant, priority, self._arrived), self._lanes[priority]
        flow = lane.flow(tenant, weight)
        if self.held < self._bounds.slots:
            self.held += 1
            lane.admit(ticket, now_s)
            return ticket, None
        out = self._out_for(ticket, flow)
        if out is ticket:
            ticket.state = State.OUT
            lane.refuse(ticket)
            return ticket, None
        if out is not None:
            self.withdraw(out)
        lane.wait(ticket, flow)
        return ticket, out

    def withdraw(self, ticket: Ticket) -> None:
        """A waiting request leaves: nothing is owed for it."""
        self._lanes[ticket.priority].leave(ticket)
        ticket.state = State.OUT

    def end(self, ticket: Ticket, now_s: float) -> Ticket | None:
        """An admitted request gives its slot back; the one that gets it, if any waits."""
        self._lanes[ticket.priority].end(ticket, now_s)
        ticket.state = State.OUT
        lane = next((lane for lane in self._lanes.values() if lane.waiting), None)
        if lane is None:
            self.held -= 1
            return None
        following = lane.next()
        lane.admit(following, now_s)
        return following

    def clears_in_s(self) -> float:
        """How long what waits now will take to be admitted, at the pace of late."""
        work_s = sum(lane.waiting * lane.cost_s for lane in self._lanes.values())
        return work_s / self._bounds.slots

    def _out_for(self, ticket: Ticket, flow: _Flow) -> Ticket | None:
        """Who has to go so that the ticket can wait: nobody, another, or itself."""
        own = sum(len(lane.flows[ticket.tenant].waiting) for lane in self._lanes_of(ticket.tenant))
        if own >= self._bounds.waiting_per_tenant:
            return self._own_of_lower_class(ticket) or ticket
        if sum(lane.waiting for lane in self._lanes.values()) < self._bounds.waiting:
            return None
        lowest = next((p for p in reversed(Priority) if self._lanes[p].waiting), ticket.priority)
        if _RANK[lowest] < _RANK[ticket.priority] or not self._lanes[lowest].waiting:
            return ticket
        crowded = self._lanes[lowest].most_crowded()
        if lowest is ticket.priority and crowded.crowding() <= flow.crowding(more=1):
            return ticket
        return next(reversed(crowded.waiting))

    def _own_of_lower_class(self, ticket: Ticket) -> Ticket | None:
        """The tenant's own youngest request of the lowest class, if that is lower than the ticket's."""
        for priority in reversed(Priority):
            if _RANK[priority] <= _RANK[ticket.priority]:
                return None
            flow = self._lanes[priority].flows.get(ticket.tenant)
            if flow is not None and flow.waiting:
                return next(reversed(flow.waiting))
        return None

    def _lanes_of(self, tenant: str) -> Iterator[_Lane]:
        return (lane for lane in self._lanes.values() if tenant in lane.flows)
