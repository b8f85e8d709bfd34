"""FairQueue: no slot idles while somebody waits, shares follow weights, and nothing in it grows."""

import random
from collections import Counter
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from gateway.allowances import Priority
from gateway.policies import fair_queue
from gateway.policies.fair_queue import Bounds, FairQueue, State, Ticket

INTERACTIVE, BATCH, INGESTION = Priority
TENANTS = ("a", "b", "c")


class Process(RuleBasedStateMachine):
    """Any requests come, leave and end, in any order."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.bounds = Bounds(slots=3, waiting=6, waiting_per_tenant=3)
        self.queue = FairQueue(self.bounds)
        self.all: list[Ticket] = []
        self.now_s = 0.0

    @rule(
        target=tickets,
        tenant=st.sampled_from(TENANTS),
        weight=st.sampled_from((0.5, 1.0, 4.0)),
        priority=st.sampled_from(Priority),
    )
    def arrive(self, tenant: str, weight: float, priority: Priority) -> Ticket:
        before = self.waiting()
        ticket, out = self.queue.arrive(tenant, weight, priority, self.now_s)
        self.all.append(ticket)
        if out is not None:
            assert out in before
            assert out.state is State.OUT
            assert list(Priority).index(out.priority) >= list(Priority).index(priority)
        if ticket.state is State.OUT:
            own = [each for each in before if each.tenant == tenant]
            assert len(before) == self.bounds.waiting or len(own) == self.bounds.waiting_per_tenant
            # Whoever is turned away leaves nobody of a lower class in the queue that was full for it.
            lower = [
                each
                for each in (before if len(own) < self.bounds.waiting_per_tenant else own)
                if list(Priority).index(each.priority) > list(Priority).index(priority)
            ]
            assert not lower
        return ticket

    @rule(ticket=consumes(tickets), took_s=st.floats(0, 100))
    def leave_or_end(self, ticket: Ticket, took_s: float) -> None:
        self.now_s += took_s
        if ticket.state is State.WAITING:
            self.queue.withdraw(ticket)
        elif ticket.state is State.ADMITTED:
            before = self.waiting()
            following = self.queue.end(ticket, self.now_s)
            assert (following is None) == (not before)
            if following is not None:
                assert following in before
                assert following.priority is min((t.priority for t in before), key=list(Priority).index)

    def waiting(self) -> list[Ticket]:
        return [ticket for ticket in self.all if ticket.state is State.WAITING]

    @invariant()
    def counts_are_those_of_the_tickets(self) -> None:
        held = sum(ticket.state is State.ADMITTED for ticket in self.all)
        assert self.queue.held == held <= self.bounds.slots
        assert sum(self.queue.waiting().values()) == len(self.waiting()) <= self.bounds.waiting
        own = Counter(ticket.tenant for ticket in self.waiting())
        assert all(count <= self.bounds.waiting_per_tenant for count in own.values())

    @invariant()
    def no_slot_idles_while_somebody_waits(self) -> None:
        assert not self.waiting() or self.queue.held == self.bounds.slots


Process.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyTraffic = Process.TestCase


def serve(queue: FairQueue, held: list[Ticket], now_s: float) -> Ticket:
    """End the oldest at work; who comes after it."""
    following = queue.end(held.pop(0), now_s)
    assert following is not None
    held.append(following)
    return following


def backlog(bounds: Bounds, weights: Sequence[float], now_s: float = 0.0) -> tuple[FairQueue, list[Ticket]]:
    """A queue whose slots another holds, while each of the tenants "0", "1"… has one request waiting."""
    queue = FairQueue(bounds)
    held = [queue.arrive("first", 1.0, INTERACTIVE, now_s)[0] for _ in range(bounds.slots)]
    for number, weight in enumerate(weights):
        assert queue.arrive(str(number), weight, INTERACTIVE, now_s)[0].state is State.WAITING
    return queue, held


@given(
    weights=st.lists(st.floats(0.1, 10), min_size=2, max_size=5),
    slots=st.integers(1, 5),
    turns=st.integers(1, 150),
)
def test_tenants_that_always_wait_get_their_weights_share_within_one_request(
    weights: list[float], slots: int, turns: int
) -> None:
    queue, held = backlog(Bounds(slots, 100, 100), weights)
    got, now_s = Counter[str](), 0.0
    for _ in range(turns):
        now_s += 1.0 / slots  # so that each holds its slot for one second
        ticket = serve(queue, held, now_s)
        got[ticket.tenant] += 1
        queue.arrive(ticket.tenant, weights[int(ticket.tenant)], INTERACTIVE, now_s)
    for one, its in enumerate(weights):
        for other, theirs in enumerate(weights):
            apart = got[str(one)] / its - got[str(other)] / theirs
            assert abs(apart) <= (1 / its + 1 / theirs) * 1.001


def test_equal_weights_get_equal_time_however_long_their_requests_are() -> None:
    long_s, short_s = 10.0, 1.0
    queue = FairQueue(Bounds(slots=1, waiting=10, waiting_per_tenant=5))
    ticket, now_s = queue.arrive("long", 1.0, BATCH, 0.0)[0], 0.0
    spent_s = Counter[str]()
    queue.arrive("long", 1.0, BATCH, 0.0)
    queue.arrive("short", 1.0, BATCH, 0.0)
    for turn in range(600):
        took_s = long_s if ticket.tenant == "long" else short_s
        now_s += took_s
        queue.arrive(ticket.tenant, 1.0, BATCH, now_s)
        following = queue.end(ticket, now_s)
        assert following is not None
        if turn > 100:  # by then it knows how long theirs take
            spent_s[ticket.tenant] += round(took_s)
        ticket = following
    assert spent_s["long"] / spent_s["short"] == pytest.approx(1.0, rel=0.1)


@given(st.integers(1, 50))
def test_a_newcomer_is_next_whatever_another_has_waiting(flood: int) -> None:
    queue = FairQueue(Bounds(slots=2, waiting=100, waiting_per_tenant=100))
    held = [queue.arrive("noisy", 1.0, INTERACTIVE, 0.0)[0] for _ in range(2)]
    for _ in range(flood):
        queue.arrive("noisy", 1.0, INTERACTIVE, 0.0)
    quiet, _ = queue.arrive("quiet", 1.0, INTERACTIVE, 0.0)
    # One that was there before may have an equal start, and goes first by its age.
    assert quiet in (serve(queue, held, 1.0), serve(queue, held, 1.0))


@given(slots=st.integers(2, 32), flood=st.integers(1, 60), seed=st.randoms(use_true_random=False))
def test_a_tenant_below_its_share_of_the_slots_is_always_next(
    slots: int, flood: int, seed: random.Random
) -> None:
    queue = FairQueue(Bounds(slots, waiting=200, waiting_per_tenant=100))
    held = [queue.arrive("noisy", 1.0, INTERACTIVE, 0.0)[0] for _ in range(slots)]
    for _ in range(flood):
        queue.arrive("noisy", 1.0, INTERACTIVE, 0.0)
    for second in range(1, slots // 2 + 1):
        quiet, _ = queue.arrive("quiet", 1.0, INTERACTIVE, float(second))
        seed.shuffle(held)
        while (ended := held.pop()).tenant == "quiet":
            held.insert(0, ended)
        assert queue.end(ended, second + 0.5) is quiet
        held.append(quiet)


def test_idle_time_is_no_credit_and_time_that_nobody_wanted_no_debt() -> None:
    queue = FairQueue(Bounds(slots=1, waiting=10, waiting_per_tenant=5))
    for second in range(100):  # "busy" alone for a long time
        ticket, _ = queue.arrive("busy", 1.0, INTERACTIVE, float(second))
        queue.end(ticket, second + 1.0)
    held = [queue.arrive("idle", 1.0, INTERACTIVE, 100.0)[0]]
    for _ in range(3):
        queue.arrive("idle", 1.0, INTERACTIVE, 100.0)
        queue.arrive("busy", 1.0, INTERACTIVE, 100.0)
    order = [serve(queue, held, 101.0 + turn).tenant for turn in range(6)]
    assert abs(order[:4].count("idle") - order[:4].count("busy")) <= 1


def test_classes_are_served_in_order_and_shed_from_the_last() -> None:
    queue = FairQueue(Bounds(slots=1, waiting=3, waiting_per_tenant=3))
    held, _ = queue.arrive("a", 1.0, INTERACTIVE, 0.0)
    ingesting, _ = queue.arrive("a", 1.0, INGESTION, 0.0)
    batch, _ = queue.arrive("b", 1.0, BATCH, 0.0)
    later, _ = queue.arrive("b", 1.0, INGESTION, 0.0)
    asking, out = queue.arrive("c", 1.0, INTERACTIVE, 0.0)
    assert out is later  # two tenants with one each: the younger goes
    assert queue.arrive("d", 1.0, INGESTION, 0.0)[0].state is State.OUT
    order = [queue.end(held, 1.0)]
    assert order == [asking]
    assert queue.end(asking, 2.0) is batch
    assert queue.end(batch, 3.0) is ingesting
    assert queue.end(ingesting, 4.0) is None
    assert queue.held == 0


def test_a_full_queue_makes_room_for_who_has_less_in_it() -> None:
    queue = FairQueue(Bounds(slots=1, waiting=4, waiting_per_tenant=4))
    queue.arrive("noisy", 1.0, INTERACTIVE, 0.0)
    flood = [queue.arrive("noisy", 1.0, INTERACTIVE, 0.0)[0] for _ in range(4)]
    quiet, out = queue.arrive("quiet", 1.0, INTERACTIVE, 0.0)
    assert quiet.state is State.WAITING
    assert out is flood[-1]
    assert queue.arrive("noisy", 1.0, INTERACTIVE, 0.0)[0].state is State.OUT


def test_a_tenants_own_ingestion_makes_room_for_its_own_questions() -> None:
    queue = FairQueue(Bounds(slots=1, waiting=10, waiting_per_tenant=2))
    queue.arrive("a", 1.0, INTERACTIVE, 0.0)
    ingesting = [queue.arrive("a", 1.0, INGESTION, 0.0)[0] for _ in range(2)]
    asking, out = queue.arrive("a", 1.0, INTERACTIVE, 0.0)
    assert (asking.state, out) == (State.WAITING, ingesting[1])


def test_ten_thousand_tenants_leave_a_bounded_memory() -> None:
    queue = FairQueue(Bounds(slots=2, waiting=2, waiting_per_tenant=1))
    for number in range(10_000):
        ticket, _ = queue.arrive(f"t{number}", 1.0, INTERACTIVE, float(number))
        queue.end(ticket, number + 0.5)
    lane = queue._lanes[INTERACTIVE]
    assert not lane.flows
    assert len(lane.idle) == fair_queue.REMEMBERED
    assert queue.held == 0


def test_what_waits_tells_how_long_it_will_take() -> None:
    queue, _ = backlog(Bounds(2, 10, 5), [1.0, 1.0, 1.0, 1.0])
    assert queue.clears_in_s() == pytest.approx(4 * fair_queue.FIRST_COST_S / 2)
