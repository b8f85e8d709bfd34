"""Token buckets: what a quota holds, what a refusal says, and what stands in headers. Pure.

A bucket of a quota of n a minute holds n when it is full and gets n/60 back a second. Something that costs c
is let through when c are there, so in any t seconds at most n + n·t/60 are taken. What costs more than a
whole bucket is let through by a full one. What was taken by estimate is settled later: what was used beyond
it is taken all the same, a debt that refills first; what was not used goes back, never above full.

A bucket's state is its level: what is taken and has not come back yet. That, and time, is the leaky bucket as
a meter; ITU-T I.371, "generic cell rate algorithm", tells it as the one time at which it is full again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.allowances import Quota, Standing

_HAIR: Final = 1e-6
"""So that whole numbers that were worked out in floats are not rounded off."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What is asked of a quota; a negative cost gives back."""

    quota: Quota
    cost: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every charge was taken, or none was: then `refused` is the quota that has to be waited for longest."""

    standings: Sequence[Standing]
    refused: Quota | None = None
    wait_s: float = 0.0


def wait_s(level: float, quota: Quota, cost: float) -> float:
    """How long until a cost is let through; 0: now."""
    needed = min(cost, quota.per_min)
    over = level + needed - quota.per_min
    return over / quota.per_s if over > _HAIR else 0.0


def standing(level: float, quota: Quota) -> Standing:
    left = math.floor(quota.per_min - level + _HAIR)
    return Standing(quota, max(left, 0), level / quota.per_s)


def verdict(charges: Sequence[Charge], levels: Sequence[float]) -> Verdict:
    """What comes of charges, given each quota's level before."""
    waits_s = [wait_s(level, c.quota, c.cost) for c, level in zip(charges, levels, strict=True)]
    longest = max(range(len(charges)), key=waits_s.__getitem__, default=None)
    if longest is None or waits_s[longest] == 0:
        after = [standing(level + c.cost, c.quota) for c, level in zip(charges, levels, strict=True)]
        return Verdict(after)
    before = [standing(level, c.quota) for c, level in zip(charges, levels, strict=True)]
    return Verdict(before, charges[longest].quota, waits_s[longest])


def tightest(one: Standing, other: Standing) -> Standing:
    """The one that is reached first, by the share that is left."""
    return min(one, other, key=lambda each: each.remaining / each.quota.per_min)


def duration(seconds: float) -> str:
    """As OpenAI's headers write it: 20ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 10), 600)
    return f"{minutes}m{rest / 10:g}s" if minutes else f"{rest / 10:g}s"
