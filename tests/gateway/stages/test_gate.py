"""Gate: slots never leak, whoever leaves when; waits are bounded, refusals come at once."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable

import pytest

from gateway.allowances import Priority
from gateway.errors import Overloaded
from gateway.policies.fair_queue import Bounds
from gateway.stages.gate import Gate, Shed
from gateway.tenants import Tenant

INTERACTIVE, BATCH, INGESTION = Priority
A, B = (Tenant(id=f"tenant000000000{n}", name=n) for n in "ab")
BOUNDS = Bounds(slots=1, waiting=4, waiting_per_tenant=2)
FAR_S = 1e9


class Rig:
    """A gate, and what it shed."""

    def __init__(self, bounds: Bounds = BOUNDS, wait_s: float = 20.0) -> None:
        self.shed = Counter[tuple[Priority, Shed]]()
        self.gate = Gate(bounds, wait_s=wait_s, clock=asyncio.get_running_loop().time, tell=self._tell)

    def _tell(self, priority: Priority, why: Shed) -> None:
        self.shed[priority, why] += 1

    async def hold(
        self,
        tenant: Tenant,
        until: asyncio.Event,
        priority: Priority = INTERACTIVE,
        deadline_s: float = FAR_S,
    ) -> float:
        """Hold a slot until told; how long it was waited for."""
        async with self.gate.slot(tenant, priority, deadline_s) as waited_s:
            await until.wait()
        return waited_s

    async def until_waiting(self, count: int) -> None:
        async with asyncio.timeout(5):
            while sum(self.gate.waiting().values()) != count:  # noqa: ASYNC110 - the gate tells nobody
                await asyncio.sleep(0)


async def refused(asking: Awaitable[float]) -> None:
    with pytest.raises(Overloaded):
        await asking


async def test_a_request_waits_for_the_slot_of_another() -> None:
    rig, first_ends = Rig(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.hold(A, first_ends))
        waiting = tasks.create_task(rig.hold(B, first_ends))
        await rig.until_waiting(1)
        assert rig.gate.held == 1
        first_ends.set()
    assert waiting.result() > 0
    assert rig.gate.held == 0
    assert not rig.shed


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    rig, end = Rig(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        held = [tasks.create_task(rig.hold(A, end)) for _ in range(3)]
        await rig.until_waiting(2)
        with pytest.raises(Overloaded) as refused:
            await rig.hold(A, end)
        assert refused.value.retry_after_s is not None
        assert 1 <= refused.value.retry_after_s <= 30
        end.set()
    assert len(held) == 3
    assert rig.shed == {(INTERACTIVE, Shed.FULL): 1}


@pytest.mark.parametrize(("wait_s", "deadline_in_s"), [(0.02, FAR_S), (20.0, 0.02), (20.0, -1.0)])
async def test_a_wait_ends_with_its_bound_or_with_the_deadline(wait_s: float, deadline_in_s: float) -> None:
    rig, end = Rig(wait_s=wait_s), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.hold(A, end))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await rig.hold(B, end, deadline_s=asyncio.get_running_loop().time() + deadline_in_s)
        assert rig.gate.waiting()[INTERACTIVE] == 0
        end.set()
    assert rig.shed == {(INTERACTIVE, Shed.WAITED): 1}


async def test_a_question_takes_the_place_of_waiting_ingestion() -> None:
    rig, end = Rig(Bounds(slots=1, waiting=1, waiting_per_tenant=1)), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.hold(A, end))
        await asyncio.sleep(0)
        ingesting = tasks.create_task(refused(rig.hold(A, end, INGESTION)))
        await rig.until_waiting(1)
        asking = tasks.create_task(rig.hold(B, end))
        await ingesting
        end.set()
    assert asking.done()
    assert rig.shed == {(INGESTION, Shed.PUSHED_OUT): 1}


async def test_a_caller_that_leaves_is_out_of_the_queue_at_once() -> None:
    rig, end = Rig(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.hold(A, end))
        leaving = tasks.create_task(rig.hold(B, end))
        await rig.until_waiting(1)
        leaving.cancel()
        await rig.until_waiting(0)
        end.set()
    assert rig.gate.held == 0
    assert not rig.shed


async def test_a_slot_given_to_who_is_just_leaving_goes_on_to_the_next() -> None:
    rig, first_ends, end = Rig(), asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.hold(A, first_ends))
        leaving = tasks.create_task(rig.hold(A, end))
        await rig.until_waiting(1)
        next_one = tasks.create_task(rig.hold(B, end))
        await rig.until_waiting(2)
        first_ends.set()
        await rig.until_waiting(1)  # the slot is given; its new holder has not run yet
        leaving.cancel()
        end.set()
    assert next_one.done()
    assert rig.gate.held == 0


async def test_no_slot_leaks_when_many_come_and_leave_at_any_moment() -> None:
    rng, rig = random.Random(7), Rig(Bounds(slots=3, waiting=10, waiting_per_tenant=6), wait_s=0.005)
    served = Counter[str]()

    async def visit(tenant: Tenant) -> None:
        try:
            async with rig.gate.slot(tenant, rng.choice(list(Priority)), FAR_S):
                assert rig.gate.held <= 3
                for _ in range(rng.randrange(6)):
                    await asyncio.sleep(0)
                served[tenant.id] += 1
        except Overloaded:
            served["refused"] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3000):
            task = tasks.create_task(visit(rng.choice((A, B))))
            if rng.random() < 0.4:
                asyncio.get_running_loop().call_later(rng.random() * 0.004, task.cancel)
            if rng.random() < 0.5:
                await asyncio.sleep(0)
    assert rig.gate.held == 0
    assert set(rig.gate.waiting().values()) == {0}
    assert not rig.gate._waiters
    assert served[A.id] > 100
    assert served[B.id] > 100
    # And all three slots can still be had.
    end = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(rig.hold(A, end))
        await asyncio.sleep(0)
        assert rig.gate.held == 3
        end.set()
