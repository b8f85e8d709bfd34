"""Budgets: one account a tenant and month, and the leases on it that gateways spend from. Pure.

The account stands in one register of the tenant's budget home and changes by compare-and-set. A holder (one
run of one gateway process) takes a lease on a part of what is left and spends from that alone, so a request
asks nobody:

    budget  =  settled (by holders that are gone)  +  every holder's lease  +  what is left

A lease counts whole, from the moment it is granted until its holder itself says that it needs less: what a
holder that is cut off or dead has spent, nobody else can know. Hence the bound, whoever is cut off from
whom, for a month (UTC) whose budget was at most B whenever something was granted:

    spent  <=  B  +  what requests cost above their estimates and nobody knew at the last grant

When estimates bound what requests cost, that is B. Why: a holder reserves estimates within its lease, and
the leases and what is settled are within B at every grant. A cost above its estimate can exceed a lease;
told to the account, it counts there before anything more is granted.

Clocks do not enter into it. Money belongs to the month of the account that granted it, and a month never
goes back: clocks that differ move the seconds in which the month turns, nothing else. An expired lease is one
whose holder has not been heard of: it is told to people and to the soft threshold as spent. A holder that was
only cut off may spend on; the lease of one that died stays spent until the month ends.

Writing may have an unknown outcome. What a holder may spend is therefore lowered before a smaller lease is
asked for and raised once a larger one is known to be written.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

PREFIX: Final = "budgets."
MAX_LEASES: Final = 256
"""Entries of one account: with more, those expired the longest are written off as spent."""


class Lease(msgspec.Struct, frozen=True):
    """One holder's part of an account, in USD since the month began.

    `spent_usd` is what its holder told, and within `granted_usd`: what went beyond a lease is made a part of
    it. `expires_s` (Unix) is when the holder should have been heard of again.
    """

    region: str
    granted_usd: float
    spent_usd: float
    expires_s: float

    @property
    def outstanding_usd(self) -> float:
        """What may have been spent and was not told."""
        return self.granted_usd - self.spent_usd

    def is_expired(self, now_s: float) -> bool:
        return now_s >= self.expires_s

    def is_held(self, now_s: float) -> bool:
        """Whether its holder is there and may still spend from it."""
        return self.outstanding_usd > 0 and not self.is_expired(now_s)


class Account(msgspec.Struct, frozen=True):
    """A tenant's month ("2026-11"), as it stands in its register."""

    month: str
    settled_usd: float = 0.0
    leases: Mapping[str, Lease] = {}

    @property
    def counted_usd(self) -> float:
        """What is not left of the budget."""
        return math.fsum([self.settled_usd, *(lease.granted_usd for lease in self.leases.values())])

    def spent_usd(self, now_s: float) -> float:
        """What was spent as far as anyone can know: an expired lease counts whole."""
        told = (
            lease.granted_usd if lease.is_expired(now_s) else lease.spent_usd
            for lease in self.leases.values()
        )
        return math.fsum([self.settled_usd, *told])

    def without(self, holder: str) -> "Account":
        left = {name: lease for name, lease in self.leases.items() if name != holder}
        return Account(self.month, self.settled_usd, left)


def key_of(tenant: str) -> str:
    """The register of a tenant's account."""
    return PREFIX + tenant


def encode(account: Account) -> bytes:
    return msgspec.json.encode(account)


def decode(value: bytes) -> Account:
    """Raises: msgspec.DecodeError: not an account."""
    return msgspec.json.decode(value, type=Account)


def month_of(now_s: float) -> str:
    """The calendar month, UTC, of a Unix time."""
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m")


def next_month(month: str) -> str:
    """The first day after a month, as a date."""
    year, number = map(int, month.split("-"))
    return f"{year + number // 12:04}-{number % 12 + 1:02}-01"


def opened(found: Account | None, month: str, now_s: float) -> Account:
    """The account of that month, or of the later one that it is in already; bounded in size."""
    if found is None or found.month < month:
        return Account(month)
    if len(found.leases) <= MAX_LEASES:
        return found
    expired = sorted(
        (lease.expires_s, name) for name, lease in found.leases.items() if lease.is_expired(now_s)
    )
    account = found
    for _, name in expired[: len(found.leases) - MAX_LEASES]:
        settled_usd = account.settled_usd + account.leases[name].granted_usd
        account = msgspec.structs.replace(account.without(name), settled_usd=settled_usd)
    return account
