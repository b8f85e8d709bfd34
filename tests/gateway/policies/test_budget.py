"""Budgets: whoever is cut off, dies or hears nothing, all holders together spend no more than there is."""

from dataclasses import dataclass, field
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.budget import (
    MAX_LEASES,
    Account,
    Lease,
    decode,
    encode,
    month_of,
    next_month,
    opened,
)
from gateway.policies.purse import Held, LeaseTerms, Purse

NOVEMBER_S: Final = 1_793_491_200.0 + 86_400
"""In November 2026."""
BUDGET_USD: Final = 10.0
ALMOST: Final = 1e-9


@dataclass
class Asked:
    """A write under way: what is to replace which revision."""

    account: Account
    revision: int
    now_s: float


@dataclass
class World:
    """A register, holders that exchange with it over bad links, and what was truly spent, by month."""

    rng: Random
    overrun: float
    now_s: float = NOVEMBER_S + 26.5 * 86_400
    value: bytes | None = None
    revision: int = 0
    holders: list[Purse] = field(default_factory=list)
    skews_s: dict[str, float] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    open: list[Held] = field(default_factory=list)
    spent_usd: dict[str, float] = field(default_factory=dict)
    above_usd: dict[str, float] = field(default_factory=dict)
    born: int = 0

    def bear(self) -> None:
        name = f"holder-{self.born}"
        self.born += 1
        self.holders.append(Purse(name, "us-east", LeaseTerms(0.02, 0.3)))
        self.skews_s[name] = self.rng.choice([0, -90_000, 90_000, -1, 1])

    def found(self) -> Account | None:
        return None if self.value is None else decode(self.value)

    def clock_s(self, holder: Purse) -> float:
        return self.now_s + self.skews_s[holder.holder]

    def ask(self, holder: Purse) -> None:
        """Look, and offer; one that was under way was given up and may still arrive."""
        now_s = self.clock_s(holder)
        offered = holder.offer(
            self.found(),
            budget_usd=BUDGET_USD,
            now_s=now_s,
            waiting_usd=self.rng.choice([0.0, 0.05, 3.0]),
            is_idle=self.rng.random() < 0.2,
        )
        self.asked[holder.holder] = Asked(offered, self.revision, now_s)

    def arrive(self, holder: Purse) -> None:
        """The write comes to the register; its answer may be lost, or the write itself."""
        if (asked := self.asked.pop(holder.holder, None)) is None:
            return
        fate = self.rng.random()
        if fate < 0.15 or asked.revision != self.revision:
            return
        self.value, self.revision = encode(asked.account), self.revision + 1
        if fate > 0.3:
            holder.took(asked.account, budget_usd=BUDGET_USD, now_s=asked.now_s)

    def reserve(self, holder: Purse) -> None:
        if held := holder.reserve(self.rng.uniform(0, 0.3), self.clock_s(holder)):
            self.open.append(held)

    def settle(self) -> None:
        if not self.open:
            return
        held = self.open.pop(self.rng.randrange(len(self.open)))
        actual_usd = held.estimate_usd * self.rng.choice([0.0, 0.4, 1.0, self.overrun])
        above_usd = max(0.0, actual_usd - held.estimate_usd)
        self.spent_usd[held.month] = self.spent_usd.get(held.month, 0.0) + actual_usd
        self.above_usd[held.month] = self.above_usd.get(held.month, 0.0) + above_usd
        for _ in range(self.rng.randint(1, 2)):
            held.settle(actual_usd)

    def end(self, holder: Purse) -> None:
        """Dies, or leaves in good order. Requests that it had open cost what they cost."""
        left = holder.leave(self.found()) if self.rng.random() < 0.5 else None
        if left is not None and self.rng.random() < 0.8:
            self.value, self.revision = encode(left), self.revision + 1
        self.holders.remove(holder)
        self.bear()

    def step(self) -> None:
        holder = self.rng.choice(self.holders)
        match self.rng.randrange(20):
            case 0:
                self.end(holder)
            case 1:
                self.now_s += self.rng.choice([1, 30, 600, 43_200])
            case 2 | 3 | 4 | 5:
                self.ask(holder)
            case 6 | 7 | 8 | 9:
                self.arrive(holder)
            case 10 | 11 | 12 | 13:
                self.settle()
            case _:
                self.reserve(holder)

    def check(self) -> None:
        for month, spent_usd in self.spent_usd.items():
            assert spent_usd <= BUDGET_USD + self.above_usd[month] + ALMOST
        for held in self.holders:
            assert min(held.spent_usd, held.reserved_usd, held.granted_usd, held.room_usd) >= 0
        account = self.found()
        if account is None:
            return
        above_usd = self.above_usd.get(account.month, 0.0)
        assert account.counted_usd <= BUDGET_USD + above_usd + ALMOST
        assert account.settled_usd >= 0
        for lease in account.leases.values():
            assert -ALMOST <= lease.spent_usd <= lease.granted_usd + ALMOST
        told_usd = account.spent_usd(self.now_s + 1e9)
        assert told_usd + above_usd + ALMOST >= self.spent_usd.get(account.month, 0.0)


@given(st.integers(0, 2**32), st.sampled_from([1.0, 1.0, 1.5, 4.0]))
def test_no_holders_spend_more_than_the_budget_and_what_went_above_estimates(
    seed: int, overrun: float
) -> None:
    world = World(Random(seed), overrun)
    for _ in range(world.rng.randint(1, 6)):
        world.bear()
    for _ in range(300):
        world.step()
        world.check()


def test_the_simulation_does_spend_the_budget_and_turns_months() -> None:
    world = World(Random(7), 1.0)
    for _ in range(4):
        world.bear()
    for _ in range(4_000):
        world.step()
    assert len(world.spent_usd) > 1
    assert max(world.spent_usd.values()) > BUDGET_USD * 0.3


def exchanged(purse: Purse, account: Account | None, *, waiting_usd: float = 0.0, now_s: float) -> Account:
    offered = purse.offer(account, budget_usd=BUDGET_USD, now_s=now_s, waiting_usd=waiting_usd, is_idle=False)
    purse.took(offered, budget_usd=BUDGET_USD, now_s=now_s)
    return decode(encode(offered))


def test_two_holders_share_what_there_is_and_the_last_one_gets_less_than_it_asks_for() -> None:
    one, two = Purse("one", "us-east"), Purse("two", "eu-west")
    account = exchanged(one, None, waiting_usd=8.0, now_s=NOVEMBER_S)
    account = exchanged(two, account, waiting_usd=8.0, now_s=NOVEMBER_S)
    assert one.room_usd + two.room_usd == pytest.approx(BUDGET_USD)
    assert two.reserve(8.0, NOVEMBER_S) is None
    assert two.left_usd == 0


def test_a_settled_request_gives_back_what_it_did_not_cost() -> None:
    purse = Purse("one", "us-east")
    exchanged(purse, None, waiting_usd=1.0, now_s=NOVEMBER_S)
    room_usd = purse.room_usd
    held = purse.reserve(0.5, NOVEMBER_S)
    assert held is not None
    held.settle(0.1)
    held.settle(0.4)
    assert purse.spent_usd == pytest.approx(0.1)
    assert purse.room_usd == pytest.approx(room_usd - 0.1)


def test_the_lease_of_a_holder_that_died_counts_as_spent_until_the_month_ends() -> None:
    account = exchanged(Purse("dead", "us-east"), None, waiting_usd=4.0, now_s=NOVEMBER_S)
    heir, later_s = Purse("heir", "us-east"), NOVEMBER_S + 3_600
    account = exchanged(heir, account, waiting_usd=9.0, now_s=later_s)
    assert heir.room_usd <= BUDGET_USD - 4.0
    assert account.spent_usd(later_s) >= 4.0
    next_s = NOVEMBER_S + 31 * 86_400
    account = exchanged(heir, account, waiting_usd=9.0, now_s=next_s)
    assert account.month == month_of(next_s) == "2026-12"
    assert heir.room_usd >= 9.0


def test_a_lost_answer_leaves_the_smaller_of_both_amounts() -> None:
    purse = Purse("one", "us-east")
    exchanged(purse, None, waiting_usd=4.0, now_s=NOVEMBER_S)
    before_usd = purse.granted_usd
    purse.offer(None, budget_usd=BUDGET_USD, now_s=NOVEMBER_S, waiting_usd=8.0, is_idle=False)
    assert purse.granted_usd == before_usd
    purse.offer(None, budget_usd=BUDGET_USD, now_s=NOVEMBER_S, waiting_usd=0.0, is_idle=True)
    assert purse.granted_usd == 0


def test_a_busy_holder_leases_more_and_a_quiet_one_less() -> None:
    purse, account, now_s = Purse("one", "us-east"), None, NOVEMBER_S
    account = exchanged(purse, account, now_s=now_s)
    first_usd = purse.lease_usd
    for _ in range(5):
        held = purse.reserve(purse.room_usd * 0.9, now_s)
        assert held is not None
        held.settle(held.estimate_usd)
        assert purse.is_low
        account, now_s = exchanged(purse, account, now_s=now_s + 1), now_s + 1
    busy_usd = purse.lease_usd
    assert busy_usd > first_usd * 4
    for _ in range(5):
        now_s += purse.terms.fit_s + 1
        account = exchanged(purse, account, now_s=now_s)
    assert purse.lease_usd < busy_usd / 4


@pytest.mark.parametrize("cost", [0.02, 0.3, 1.0])
def test_a_steady_spender_waits_for_its_first_lease_and_for_no_other(cost: float) -> None:
    purse, account, now_s, waits = Purse("one", "us-east"), None, NOVEMBER_S, 0
    for _ in range(100):
        now_s += 20
        held = purse.reserve(0.03, now_s)
        if held is None:
            waits += 1
            account = exchanged(purse, account, waiting_usd=0.03, now_s=now_s)
            held = purse.reserve(0.03, now_s)
        assert held is not None
        held.settle(held.estimate_usd * cost)
        if purse.is_low:
            account = exchanged(purse, account, now_s=now_s)
    assert waits == 1


def test_an_account_keeps_a_bounded_number_of_leases_and_loses_no_money() -> None:
    leases = {f"{n:04}": Lease("us-east", 0.01, 0.0, expires_s=float(n)) for n in range(MAX_LEASES + 50)}
    account = Account("2026-11", 1.0, leases)
    kept = opened(account, "2026-11", NOVEMBER_S)
    assert len(kept.leases) == MAX_LEASES
    assert kept.counted_usd == pytest.approx(account.counted_usd)


def test_the_month_after_december_is_january() -> None:
    assert [next_month(m) for m in ("2026-11", "2026-12")] == ["2026-12-01", "2027-01-01"]


def test_a_new_month_begins_with_nothing_spent_whatever_the_old_one_still_settles() -> None:
    purse, december_s = Purse("one", "us-east"), NOVEMBER_S + 31 * 86_400
    account = exchanged(purse, None, waiting_usd=5.0, now_s=NOVEMBER_S)
    held = purse.reserve(2.0, NOVEMBER_S)
    assert held is not None
    assert purse.reserve(1.0, december_s) is None, "the lease is November's"
    left = purse.leave(Account("2026-12", 1.0, account.leases))
    assert left is not None
    assert left.settled_usd == 1.0, "December's account does not pay for November"
    account = exchanged(purse, account, waiting_usd=BUDGET_USD, now_s=december_s)
    held.settle(2.0)
    assert (purse.month, purse.spent_usd, purse.reserved_usd) == ("2026-12", 0.0, 0.0)
    assert purse.reserve(BUDGET_USD, december_s) is not None


def test_a_holder_whose_clock_is_behind_stays_in_the_month_of_its_lease() -> None:
    purse, december_s = Purse("one", "us-east"), NOVEMBER_S + 31 * 86_400
    exchanged(purse, None, waiting_usd=5.0, now_s=december_s)
    assert purse.reserve(1.0, NOVEMBER_S) is not None
    assert exchanged(purse, None, now_s=NOVEMBER_S).month == "2026-12"
