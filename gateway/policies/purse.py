"""Purses: what one holder may spend of one account, and how much of it it asks for. Pure.

What accounts and leases mean stands in `policies.budget`. A purse is told what was found and what was
written; it never believes to have more than the account counts as its own.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway.policies.budget import Account, Lease, month_of, opened

_ROUNDING_USD: Final = 1e-12


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """How much is leased at a time, and for how long.

    A lease begins with `least_share` of the budget. One that is half spent within `fit_s` is doubled, one
    that is not half spent in that time halved, so it lasts a steady spender for `fit_s` and more; it
    has room for two estimates of the usual size. It never takes more than `most_share` of what is left,
    divided by the holders. It expires `lease_s` after it was last heard of.
    """

    least_share: float = 0.001
    most_share: float = 0.1
    fit_s: float = 900.0
    lease_s: float = 120.0


@dataclass(slots=True, eq=False)
class Held:
    """Money reserved for one request, until it is settled."""

    purse: "Purse"
    month: str
    estimate_usd: float
    is_settled: bool = False

    def settle(self, actual_usd: float) -> None:
        """The request is over and cost so much; the first call counts."""
        if not self.is_settled:
            self.is_settled = True
            self.purse.settle(self, max(0.0, actual_usd))


@dataclass(slots=True, eq=False)
class Purse:
    """What one holder may spend of one account: a lease, and what was done with it. Amounts in USD.

    `granted_usd` is never more than the account has, or may have, as this holder's. `spent_usd` and
    `reserved_usd` are of `month`, as is everything.
    """

    holder: str
    region: str
    terms: LeaseTerms = field(default_factory=LeaseTerms)
    month: str = ""
    granted_usd: float = 0.0
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    others_usd: float = 0.0
    """What others are known to have spent when the account was last seen."""
    left_usd: float = math.inf
    """What nobody held of the budget then."""
    lease_usd: float = 0.0
    """What could be spent right after the last grant."""
    told_usd: float = 0.0
    """What the account knows to be spent."""
    _open: int = 0
    _size_usd: float = 0.0
    _largest_usd: float = 0.0
    _fitted_s: float = 0.0
    _fitted_usd: float = 0.0

    @property
    def room_usd(self) -> float:
        """What can still be reserved."""
        return max(0.0, self.granted_usd - self.spent_usd - self.reserved_usd)

    @property
    def is_low(self) -> bool:
        """Whether it is time to ask for more before somebody has to wait for it."""
        return self.room_usd < min(self.lease_usd, max(self.lease_usd / 2, self._largest_usd))

    @property
    def is_worth_telling(self) -> bool:
        """Whether the account does not know of something, or counts something that may be given back."""
        return self.told_usd != self.spent_usd or self.granted_usd > self.spent_usd

    def known_usd(self) -> float:
        """What all holders are known to have spent."""
        return self.others_usd + self.spent_usd

    def reserve(self, estimate_usd: float, now_s: float) -> Held | None:
        """Set an estimate aside; None: there is no room for it in this month's lease."""
        if self.month < month_of(now_s) or estimate_usd > self.room_usd + _ROUNDING_USD:
            return None
        self.reserved_usd += estimate_usd
        self._largest_usd = max(self._largest_usd, estimate_usd)
        self._open += 1
        return Held(self, self.month, estimate_usd)

    def settle(self, held: Held, actual_usd: float) -> None:
        """Count what a request cost in place of its estimate; one of an earlier month is that month's."""
        if held.month != self.month:
            return
        self._open -= 1
        # With nothing open there is nothing reserved, whatever rounding has left.
        self.reserved_usd = max(0.0, self.reserved_usd - held.estimate_usd) if self._open else 0.0
        self.spent_usd += actual_usd

    def offer(
        self, found: Account | None, *, budget_usd: float, now_s: float, waiting_usd: float, is_idle: bool
    ) -> Account:
        """The account to write in place of `found`: told what was spent, with a lease that fits.

        `waiting_usd` is what requests wait for; one that `is_idle` gives back what it has not spent. Until
        `took` says that it was written, no more can be spent than either account allows.
        """
        account = opened(found, max(month_of(now_s), self.month), now_s)
        is_new = account.month != self.month
        spent_usd = 0.0 if is_new else self.spent_usd
        floor_usd = 0.0 if is_new else self.spent_usd + self.reserved_usd
        others = account.without(self.holder)
        left_usd = max(0.0, budget_usd - others.counted_usd - floor_usd)
        extra_usd = 0.0
        if not is_idle:
            holders = 1 + sum(lease.is_held(now_s) for lease in others.leases.values())
            most_usd = max(self.terms.most_share * left_usd / holders, self.terms.least_share * budget_usd)
            extra_usd = min(left_usd, waiting_usd + min(self._fit(budget_usd, now_s, is_new), most_usd))
        granted_usd = floor_usd + extra_usd
        if not is_new:
            self.granted_usd = min(self.granted_usd, granted_usd)
        lease = Lease(self.region, granted_usd, spent_usd, now_s + self.terms.lease_s)
        return Account(account.month, account.settled_usd, {**others.leases, self.holder: lease})

    def took(self, account: Account, *, budget_usd: float, now_s: float) -> None:
        """What was offered was written."""
        if account.month != self.month:
            self.month, self.spent_usd, self.reserved_usd, self._open = account.month, 0.0, 0.0, 0
        self.granted_usd = account.leases[self.holder].granted_usd
        self.told_usd = account.leases[self.holder].spent_usd
        self.lease_usd = self.room_usd
        self.others_usd = account.without(self.holder).spent_usd(now_s)
        self.left_usd = max(0.0, budget_usd - account.counted_usd)

    def leave(self, found: Account | None) -> Account | None:
        """The account without this holder, what it has spent settled; None: there is nothing to write."""
        if found is None or self.holder not in found.leases:
            return None
        spent_usd = self.spent_usd + self.reserved_usd if found.month == self.month else 0.0
        self.granted_usd = 0.0
        return msgspec.structs.replace(found.without(self.holder), settled_usd=found.settled_usd + spent_usd)

    def _fit(self, budget_usd: float, now_s: float, is_new: bool) -> float:
        """What this holder would like to have in hand, by what it spent of late."""
        least_usd = self.terms.least_share * budget_usd
        if is_new or self._size_usd < least_usd:
            self._restart(max(least_usd, self._size_usd), now_s, is_new)
        used_usd, held_s = self.spent_usd - self._fitted_usd, now_s - self._fitted_s
        if not is_new and used_usd >= self._size_usd / 2:
            self._restart(self._size_usd * (2 if held_s <= self.terms.fit_s else 1), now_s, is_new)
        elif held_s > self.terms.fit_s:
            self._restart(max(least_usd, self._size_usd / 2), now_s, is_new)
        return max(self._size_usd, 2 * self._largest_usd)

    def _restart(self, size_usd: float, now_s: float, is_new: bool) -> None:
        self._size_usd, self._fitted_s = size_usd, now_s
        self._largest_usd /= 2  # forgets an unusual one
        self._fitted_usd = 0.0 if is_new else self.spent_usd
