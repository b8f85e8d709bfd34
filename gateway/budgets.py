"""Budgets of tenants, as one gateway process keeps to them: a purse a tenant, leases taken in the background.

A request reserves from the purse without asking anyone. Only when that holds too little does it wait for the
account, which stands in the registers of the tenant's budget home; when that cannot be reached, what the
purse holds is spent, and then there is none. What the accounts and leases mean stands in `policies.budget`.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

import msgspec
import structlog

from gateway.allowances import Budget
from gateway.errors import QuotaExceeded
from gateway.policies import budget as policy
from gateway.policies.purse import Held, LeaseTerms, Purse
from regions.errors import Conflict, LogUnavailable
from regions.names import RegionId
from regions.registers.base import Register, Registers

CALL_S: Final = 2.0
"""What one call on a register may take."""
ASK_S: Final = 5.0
"""How long a request waits for a lease. One takes two round trips as a rule, and as many more as others take
leases at the same moment; a home that does not answer ends the wait after `CALL_S`."""
LEAVE_S: Final = 5.0
"""For giving leases back at the end, while others that end do the same."""
RENEW_S: Final = 30.0
"""Between two reports of what was spent, while something is."""
IDLE_S: Final = 300.0
"""A purse that nobody reserved from for so long is given back."""
REFUSED_S: Final = 5.0
"""For so long an account that had too little is taken to have no more."""
AGAIN_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Between attempts to reach a home that is down."""
TRIES: Final = 20
"""Of one exchange, when others change the account at the same time."""
UNREACHABLE: Final = "budget_unreachable"
"""The reason of a refusal that is for want of an answer, not of money."""

Now = Callable[[RegionId], float]
"""Unix time by the clock of a region's servers: one clock an account."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What this process knows of a tenant's month, in USD: `ratio` is spent to budget, `lease_usd` in hand.

    `refusals` counts by reason since the process began.
    """

    tenant: str
    month: str
    budget_usd: float
    ratio: float
    lease_usd: float
    is_home_up: bool
    refusals: Mapping[str, int]


class Budgets:
    """Every tenant's purse. It is `running` for as long as requests spend."""

    def __init__(
        self,
        holder: str,
        region: RegionId,
        registers: Mapping[RegionId, Registers],
        *,
        default_home: RegionId,
        now: Now,
        log: structlog.stdlib.BoundLogger,
        rng: Random,
        terms: LeaseTerms | None = None,
    ) -> None:
        self._holder, self._region, self._registers = holder, region, registers
        self._default_home, self._now, self._log, self._rng = default_home, now, log, rng
        self._terms = terms or LeaseTerms()
        self._kept: dict[tuple[str, RegionId], _Kept] = {}
        self._keepers: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Budgets"]:
        """Until the block ends; then what is left of every lease is given back."""
        async with asyncio.TaskGroup() as keepers:
            self._keepers = keepers
            try:
                yield self
            finally:
                self._keepers = None
                for kept in self._kept.values():
                    kept.task.cancel()
        async with asyncio.TaskGroup() as leaving:
            for kept in self._kept.values():
                leaving.create_task(self._leave(kept))

    async def reserve(self, tenant: str, budget: Budget, estimate_usd: float, *, wait_s: float) -> Held:
        """Set an estimate aside, waiting for a lease when there is need. Raises: QuotaExceeded."""
        kept = self._of(tenant, budget)
        kept.used_s = asyncio.get_running_loop().time()
        now_s = self._now(kept.home)
        held = kept.purse.reserve(estimate_usd, now_s)
        if held is None:
            held = await self._reserve_more(kept, estimate_usd, min(wait_s, ASK_S))
        if kept.purse.is_low:
            kept.asked.set()
        return held

    def check(self, tenant: str, budget: Budget, estimate_usd: float) -> None:
        """Raises: QuotaExceeded: it is known, without asking anyone, that there is no money for it."""
        kept = self._of(tenant, budget)
        if estimate_usd > kept.purse.room_usd and self._is_known_to_lack(kept, estimate_usd):
            raise self._refused(kept)

    def known_ratio(self, tenant: str, budget: Budget) -> float:
        """What is known to be spent, as a part of the budget."""
        return self._of(tenant, budget).purse.known_usd() / budget.monthly_usd

    def spending(self) -> list[Spending]:
        """What is known of every tenant that spent here: of its present account, if that was moved."""
        present = {
            tenant: Spending(
                tenant,
                kept.purse.month,
                kept.budget_usd,
                kept.purse.known_usd() / kept.budget_usd,
                kept.purse.room_usd,
                kept.is_home_up,
                kept.refusals,
            )
            for (tenant, _), kept in sorted(self._kept.items(), key=lambda item: item[1].used_s)
        }
        return list(present.values())

    def _of(self, tenant: str, budget: Budget) -> "_Kept":
        home = self._default_home if budget.home is None else RegionId(budget.home)
        kept = self._kept.get((tenant, home))
        if kept is None:
            if self._keepers is None:
                raise RuntimeError("only what is running can spend")
            purse = Purse(self._holder, self._region, self._terms)
            kept = self._kept[tenant, home] = _Kept(tenant, home, purse, budget.monthly_usd)
            kept.task = self._keepers.create_task(self._keep(kept))
        kept.budget_usd = budget.monthly_usd  # it may have changed since
        return kept

    async def _reserve_more(self, kept: "_Kept", estimate_usd: float, wait_s: float) -> Held:
        """Wait for exchanges with the account until there is room, or known to be none."""
        by_s = asyncio.get_running_loop().time() + wait_s
        is_late = False
        kept.waiting[waiter := object()] = estimate_usd
        try:
            while not is_late and not self._is_known_to_lack(kept, estimate_usd):
                is_late = not await kept.exchanged(by_s)
                if (held := kept.purse.reserve(estimate_usd, self._now(kept.home))) is not None:
                    return held
        finally:
            del kept.waiting[waiter]
        raise self._refused(kept, is_late=is_late)

    def _is_known_to_lack(self, kept: "_Kept", estimate_usd: float) -> bool:
        """Whether asking the account now would be of no use."""
        if not kept.is_home_up:
            return True
        purse, age_s = kept.purse, asyncio.get_running_loop().time() - kept.seen_s
        is_this_month = purse.month >= policy.month_of(self._now(kept.home))
        is_fresh = age_s < REFUSED_S and kept.seen_budget_usd == kept.budget_usd and is_this_month
        return is_fresh and estimate_usd > purse.room_usd + purse.left_usd

    def _refused(self, kept: "_Kept", *, is_late: bool = False) -> QuotaExceeded:
        refusal = self._refusal(kept, is_late=is_late)
        kept.refusals[refusal.reason] += 1
        return refusal

    def _refusal(self, kept: "_Kept", *, is_late: bool) -> QuotaExceeded:
        if is_late or not kept.is_home_up:
            return QuotaExceeded(
                "this tenant's budget cannot be checked now, and what was set aside for it here is spent",
                reason=UNREACHABLE,
                detail=f"the account in {kept.home} does not answer",
            )
        month = max(kept.purse.month, policy.month_of(self._now(kept.home)))
        return QuotaExceeded(
            f"this tenant's budget for {month} is spent, or too little is left of it for this request; "
            f"the next month begins on {policy.next_month(month)} (UTC)"
        )

    # --- What is done in the background -------------------------------------------------------

    async def _keep(self, kept: "_Kept") -> None:
        """Exchange with the account whenever there is need, until cancelled."""
        failures = 0
        while True:
            if failures:
                await asyncio.sleep(AGAIN_S[min(failures, len(AGAIN_S)) - 1])
            else:
                await kept.due(RENEW_S)
            kept.asked.clear()
            try:
                await self._exchange(kept)
            except (LogUnavailable, msgspec.DecodeError) as error:
                failures += 1
                if kept.is_home_up:
                    self._log.warning(
                        "budget_home_down", tenant=kept.tenant, home=kept.home, error=str(error)
                    )
                kept.is_home_up = False
            else:
                if failures:
                    self._log.info("budget_home_up", tenant=kept.tenant, home=kept.home)
                failures, kept.is_home_up = 0, True
                kept.seen_s = asyncio.get_running_loop().time()
            finally:
                kept.tell()

    async def _exchange(self, kept: "_Kept") -> None:
        """Tell the account what was spent, and take what fits now.

        Raises: LogUnavailable: it may have been done, or not. msgspec.DecodeError: the account is unreadable.
        """
        purse, budget_usd = kept.purse, kept.budget_usd
        idle_s = asyncio.get_running_loop().time() - kept.used_s
        for _ in range(TRIES):
            begun_s, found = asyncio.get_running_loop().time(), await self._look(kept)
            now_s = self._now(kept.home)
            offered = purse.offer(
                None if found is None else policy.decode(found.value),
                budget_usd=budget_usd,
                now_s=now_s,
                waiting_usd=math.fsum(kept.waiting.values()),
                is_idle=idle_s >= IDLE_S and not kept.waiting,
            )
            if await self._swap(kept, policy.encode(offered), found, begun_s):
                purse.took(offered, budget_usd=budget_usd, now_s=now_s)
                kept.seen_budget_usd = budget_usd
                return
        raise LogUnavailable(f"the account of {kept.tenant} was changed by others {TRIES} times in a row")

    async def _look(self, kept: "_Kept") -> Register | None:
        return await self._registers[kept.home].get(policy.key_of(kept.tenant), timeout_s=CALL_S)

    async def _swap(self, kept: "_Kept", value: bytes, found: Register | None, begun_s: float) -> bool:
        """Write the account if it still is as found; else wait a moment, and False.

        The moment is up to what looking and writing took: holders that are equally far off and begin
        together would go on in step, and one of them succeed in every two round trips.
        """
        revision = 0 if found is None else found.revision
        try:
            await self._registers[kept.home].swap(
                policy.key_of(kept.tenant), value, revision, timeout_s=CALL_S
            )
        except Conflict:
            await asyncio.sleep(self._rng.uniform(0, asyncio.get_running_loop().time() - begun_s))
            return False
        return True

    async def _leave(self, kept: "_Kept") -> None:
        """Settle what was spent and give the rest back; a home that is down keeps the lease as spent."""
        try:
            async with asyncio.timeout(LEAVE_S):
                while True:
                    begun_s, found = asyncio.get_running_loop().time(), await self._look(kept)
                    account = kept.purse.leave(None if found is None else policy.decode(found.value))
                    if account is None or await self._swap(kept, policy.encode(account), found, begun_s):
                        return
        except (LogUnavailable, msgspec.DecodeError, TimeoutError) as error:
            self._log.warning("budget_lease_kept", tenant=kept.tenant, home=kept.home, error=repr(error))


@dataclass(slots=True, eq=False)
class _Kept:
    """A purse, and who waits for it with how much (USD)."""

    tenant: str
    home: RegionId
    purse: Purse
    budget_usd: float
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: dict[object, float] = field(default_factory=dict)
    used_s: float = 0.0
    seen_s: float = 0.0
    seen_budget_usd: float = 0.0
    is_home_up: bool = True
    refusals: Counter[str] = field(default_factory=Counter)
    task: asyncio.Task[None] = field(init=False)
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    async def due(self, renew_s: float) -> None:
        """Until somebody asks, or it is time to report; a purse with nothing to report waits for ever."""
        while not self.asked.is_set():
            try:
                async with asyncio.timeout(renew_s):
                    await self.asked.wait()
            except TimeoutError:
                if self.purse.is_worth_telling:
                    return

    async def exchanged(self, by_s: float) -> bool:
        """Ask, and wait for the end of an exchange; False when none comes in time."""
        self.asked.set()
        try:
            async with asyncio.timeout_at(by_s):
                await self._told.wait()
        except TimeoutError:
            return False
        return True

    def tell(self) -> None:
        """An exchange has ended, well or not."""
        self._told.set()
        self._told = asyncio.Event()
