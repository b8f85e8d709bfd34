"""Six bugs that a replicator must not have, each planted by patching what ships. A seed finds each."""

from typing import Any, Final

import msgspec
import pytest

from regions.changes import DeleteByFilter, UpdateByFilter
from regions.errors import LogUnavailable
from regions.logs.base import Entry
from regions.replicas.memory import MemoryReplica
from regions.replicator import coalesce, follower, lane, lease, moves
from regions.replicator.calls import Calls
from regions.replicator.driver import Driver
from regions.replicator.follower import Follower
from regions.replicator.lane import State
from regions.replicator.watermarks import Progress, encode, namespace_of

INTENTS: Final = (DeleteByFilter, UpdateByFilter)


def save_before_applying(patch: pytest.MonkeyPatch) -> None:
    """The cursor counts what is still in flight."""
    truth: Any = Follower.progress

    def hasty(self: Follower) -> Progress:
        told: Progress = truth.fget(self)
        on_its_way = (State.SENDING, State.WAITING)
        behind = {
            key: mark
            for key, mark in told.behind.items()
            if self._lanes[namespace_of(key)].state not in on_its_way
        }
        return msgspec.structs.replace(told, behind=behind)

    patch.setattr(Follower, "progress", property(hasty))


def skip_what_is_refused(patch: pytest.MonkeyPatch) -> None:
    """A change that the index refuses counts as done."""
    handle = Follower._on_refused

    def skip(self: Follower, event: moves.Refused, now_s: float) -> None:
        batch = self._lanes[event.namespace].batch
        if batch is not None and len(batch.entries) > 1:
            handle(self, event, now_s)
        else:
            self._on_applied(moves.Applied(event.namespace, None), now_s)

    patch.setattr(Follower, "_on_refused", skip)


def apply_again(patch: pytest.MonkeyPatch) -> None:
    """What the reader meets a second time is applied a second time, whatever the positions say."""
    route, apply = Follower._route, MemoryReplica.apply

    def always_fresh(self: Follower, entry: Entry, now_s: float, *, is_fresh: bool) -> None:
        route(self, entry, now_s, is_fresh=True)

    async def apply_anyway(self: MemoryReplica, namespace: Any, change: Any, **options: Any) -> Any:
        return await apply(self, namespace, change, timeout_s=options["timeout_s"])

    patch.setattr(Follower, "_route", always_fresh)
    patch.setattr(MemoryReplica, "apply", apply_anyway)


def fence_nobody(patch: pytest.MonkeyPatch) -> None:
    """Whoever wants to, applies: no waiting for a lease, no compare-and-set."""

    async def at_once(self: lease.Lease) -> float:
        return float("inf")

    async def put(self: Driver, progress: Progress) -> None:
        try:
            await self._route.here.registers.put(self._key, encode(progress), timeout_s=5)
        except LogUnavailable:
            self.feed(moves.Saved(is_done=False))
        else:
            self.feed(moves.Saved(is_done=True))

    patch.setattr(lease.Lease, "acquire", at_once)
    patch.setattr(lease.Lease, "renew", at_once)
    patch.setattr(Driver, "_save", put)


def forget_what_is_under_way(patch: pytest.MonkeyPatch) -> None:
    """Who stops says that nothing of its can take effect any more, whatever it has sent."""
    patch.setattr(Calls, "is_settled", property(lambda _: True))


def filter_at_replicas(patch: pytest.MonkeyPatch) -> None:
    """Each replica evaluates the filter for itself."""
    barrier, changes = coalesce.is_barrier, coalesce._changes

    def never(body: object) -> bool:
        return False

    def is_barrier(body: Any) -> bool:
        return isinstance(body, INTENTS) or barrier(body)

    def as_it_is(bodies: Any) -> Any:
        return [bodies[0]] if isinstance(bodies[0], INTENTS) else changes(bodies)

    for module in (coalesce, follower, lane):
        patch.setattr(module, "is_intent", never)
    for module in (coalesce, lane):
        patch.setattr(module, "is_barrier", is_barrier)
    patch.setattr(coalesce, "_changes", as_it_is)


PLANTS: Final = (
    save_before_applying,
    skip_what_is_refused,
    apply_again,
    fence_nobody,
    forget_what_is_under_way,
    filter_at_replicas,
)
