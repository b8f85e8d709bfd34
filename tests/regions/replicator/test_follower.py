"""A follower, told as transcripts: what it hears, what it asks for."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from regions.changes import (
    Body,
    DeleteAll,
    DeleteByFilter,
    EpochOpened,
    Heartbeat,
    Resolved,
    UpdateByFilter,
)
from regions.errors import LogCorrupt
from regions.names import NamespaceRef
from regions.positions import Epoch, Lsn
from regions.replicator import moves
from regions.replicator.coalesce import BatchLimits
from regions.replicator.follower import Follower, Pace, Phase
from regions.replicator.lane import IllegalMove
from regions.replicator.moves import Effect, Event
from regions.replicator.watermarks import Gate, Mark, Progress, key_of
from tests.regions.replicator.entries import INDEX, A, B, drop, entry, lsn, patch, put, shard

PACE = Pace(linger_s=0.0, call_timeout_s=1.0, apply_settle_s=5.0, clock_skew_s=0.0, save_every_s=0.2)


class Story:
    """A follower with a clock: what it was told, and what it asked for since."""

    def __init__(
        self,
        progress: Progress | None = None,
        *,
        is_home: bool = False,
        pace: Pace = PACE,
        first: int = 1,
        last: int = 0,
        wiped: Any = (),
        incarnation: str = "one",
    ) -> None:
        self.now_s = 100.0
        self.follower = Follower("me", pace, is_home=is_home)
        self.asked: list[Effect] = []
        self.tell(moves.Leased(1_000_000.0))
        state = shard(first, max(last, progress.received if progress else 0), incarnation=incarnation)
        self.tell(moves.Probed(progress, state, wiped))

    def tell(self, event: Event) -> list[Effect]:
        """Tell it, save what it wants saved, and return what else it asks for."""
        asked = self.follower.step(event, self.now_s)
        for effect in asked:
            if isinstance(effect, moves.Save):
                asked = asked + self.follower.step(moves.Saved(is_done=True), self.now_s)
        self.asked += asked
        return asked

    def later(self, seconds: float) -> list[Effect]:
        self.now_s += seconds
        return self.tell(moves.Tick())

    def hear(self, sequence: int, body: Body, namespace: NamespaceRef = A) -> list[Effect]:
        return self.tell(moves.Received(entry(sequence, body, namespace)))

    def all(self, kind: Callable[..., Effect]) -> list[Any]:
        """What it asked for of that kind, since this was last asked."""
        found = [effect for effect in self.asked if isinstance(effect, kind)]  # type: ignore[arg-type]
        self.asked = [effect for effect in self.asked if effect not in found]
        return found

    def one(self, kind: Callable[..., Effect]) -> Any:
        (found,) = self.all(kind)
        return found

    def applied(self, namespace: NamespaceRef = A) -> list[Effect]:
        return self.tell(moves.Applied(namespace, Lsn(7)))

    def visible(self, sequence: int, namespace: NamespaceRef = A) -> list[Effect]:
        return self.tell(moves.Visible(namespace, sequence))

    def mark(self, namespace: NamespaceRef = A) -> Mark | None:
        return self.follower.progress.behind.get(key_of(namespace))


def at(received: int, **behind: Mark) -> Progress:
    """A saved record; `a` and `b` are the two namespaces."""
    names = {"a": key_of(A), "b": key_of(B)}
    return Progress(
        "before",
        "one",
        received,
        float(received),
        behind={names[k]: mark for k, mark in behind.items()},
        epochs={INDEX: 1},
    )


# --- One change after the other -------------------------------------------------------------------


def test_a_change_is_applied_then_awaited_then_forgotten() -> None:
    story = Story(at(10))
    assert story.one(moves.Read).after == 10
    story.hear(11, put("x"))
    call = story.one(moves.Apply).call
    assert (call.change, call.position) == (put("x"), lsn(11))
    assert story.mark() == Mark(applied=10, queryable=10, unapplied_s=11.0, unqueryable_s=11.0)
    story.applied()
    assert story.one(moves.AwaitVisible).sequence == 11
    assert story.mark() == Mark(applied=11, queryable=10, unqueryable_s=11.0)
    story.visible(11)
    assert story.mark() is None
    assert story.follower.progress.received == 11


def test_one_call_of_a_namespace_at_a_time_and_the_others_meanwhile() -> None:
    story = Story(at(10))
    story.hear(11, put("x"))
    story.hear(12, put("y"))
    story.hear(13, put("x"), B)
    assert [effect.namespace for effect in story.all(moves.Apply)] == [A, B]
    story.applied()
    assert story.one(moves.Apply).call.position == lsn(12)


def test_what_comes_within_the_linger_goes_in_one_call() -> None:
    story = Story(at(10), pace=Pace(linger_s=0.1))
    story.hear(11, put("x"))
    story.hear(12, put("y"))
    assert story.all(moves.Apply) == []
    story.later(0.1)
    assert {record.id for record in story.one(moves.Apply).call.change.records} == {"x", "y"}


def test_a_full_batch_does_not_linger() -> None:
    story = Story(at(10), pace=Pace(batch=BatchLimits(records=2), linger_s=0.1))
    story.hear(11, put("x"))
    story.hear(12, put("y"))
    assert story.one(moves.Apply).call.position == lsn(12)


def test_deletes_and_upserts_are_two_calls_and_only_the_second_moves_the_namespace() -> None:
    story = Story(at(10), pace=Pace(linger_s=0.1))
    story.hear(11, put("x"))
    story.hear(12, drop("y"))
    story.later(0.1)
    assert story.one(moves.Apply).call == _call(drop("y"), 10)
    assert story.mark() is not None
    story.applied()
    assert story.one(moves.Apply).call == _call(put("x"), 12)
    story.applied()
    assert story.one(moves.AwaitVisible).sequence == 12


def _call(change: Body, sequence: int) -> Any:
    from regions.replicator.coalesce import Call

    return Call(change, lsn(sequence))  # type: ignore[arg-type]


def test_heartbeats_move_what_is_received() -> None:
    story = Story(at(10))
    story.hear(11, Heartbeat())
    assert (story.follower.progress.received, story.follower.progress.received_s) == (11, 11.0)


def test_a_hole_is_an_error() -> None:
    story = Story(at(10))
    with pytest.raises(LogCorrupt):
        story.hear(12, put("x"))


# --- Saving ---------------------------------------------------------------------------------------


def test_what_is_saved_was_applied_before() -> None:
    story = Story(at(10))
    story.hear(11, put("x"))
    story.later(0.2)
    saved = story.all(moves.Save)[-1].progress
    assert saved.mark(A).applied == 10
    story.applied()
    story.later(0.2)
    assert story.all(moves.Save)[-1].progress.mark(A).applied == 11


def test_saves_are_paced_and_never_two_at_a_time() -> None:
    story = Story(at(10))
    story.later(1.0)
    story.all(moves.Save)
    follower = story.follower
    first = follower.step(moves.Received(entry(11, Heartbeat())), story.now_s)
    assert [type(effect) for effect in first] == [moves.Save]
    assert follower.step(moves.Received(entry(12, Heartbeat())), story.now_s + 1.0) == []
    assert follower.step(moves.Saved(is_done=True), story.now_s + 1.0) == []
    assert follower.wake_s == story.now_s + 1.2
    (again,) = follower.step(moves.Tick(), story.now_s + 1.2)
    assert isinstance(again, moves.Save)
    assert again.progress.received == 12


def test_a_save_that_failed_is_made_again() -> None:
    story = Story(at(10))
    story.later(1.0)
    (save,) = story.follower.step(moves.Received(entry(11, Heartbeat())), story.now_s)
    assert isinstance(save, moves.Save)
    story.follower.step(moves.Saved(is_done=False), story.now_s)
    story.later(0.2)
    assert story.all(moves.Save)[-1].progress.received == 11


# --- Taking over ----------------------------------------------------------------------------------


def test_a_successor_reads_from_the_lowest_mark_and_skips_what_others_have() -> None:
    story = Story(at(20, a=Mark(applied=12, queryable=12, unapplied_s=13.0)))
    assert story.one(moves.Read).after == 12
    story.hear(13, put("x"), A)
    story.hear(14, put("x"), B)
    assert story.one(moves.Apply).namespace == A
    assert story.follower.progress.received == 20


def test_a_namespace_is_not_caught_up_before_the_reader_is_where_it_was() -> None:
    story = Story(at(14, a=Mark(applied=12, queryable=12, unapplied_s=13.0)))
    story.hear(13, put("x"), A)
    story.applied()
    story.visible(13)
    assert story.mark() is not None
    story.hear(14, Heartbeat())
    assert story.mark() is None


def test_an_index_that_is_past_a_change_is_not_given_it() -> None:
    story = Story(at(10))
    for sequence in (11, 12, 13):
        story.hear(sequence, put("x", n=sequence))
    story.applied()
    assert story.all(moves.Apply)[-1].call.position == lsn(13)
    story.tell(moves.Past(A, lsn(12)))
    assert story.one(moves.Apply).call.change == put("x", n=13)


def test_who_never_followed_anything_asks_the_others_and_then_begins_at_the_origin() -> None:
    """Registers that were lost look the same, and then the stream may not be the whole history."""
    story = Story(None)
    assert story.one(moves.Survey).received == 0
    assert story.follower.progress.is_resyncing
    assert story.follower.progress.incarnation == ""
    story.tell(moves.Adopted())
    assert story.one(moves.Read).after == 0
    assert story.follower.phase is Phase.STREAMING
    assert not story.follower.progress.is_resyncing


# --- Calls that fail ------------------------------------------------------------------------------


def test_a_call_that_may_land_is_repeated_and_its_ids_wait_until_it_has_settled() -> None:
    story = Story(at(10))
    story.hear(11, put("x", n=1))
    story.tell(moves.Failed(A, may_land=True))
    story.hear(12, put("x", n=2))
    story.all(moves.Apply)
    story.later(0.2)
    assert story.one(moves.Apply).call.change == put("x", n=1)
    story.applied()
    assert story.all(moves.Apply) == []
    story.later(4.9)
    assert story.one(moves.Apply).call.change == put("x", n=2)


def test_other_ids_do_not_wait_for_it_and_the_whole_namespace_does() -> None:
    story = Story(at(10))
    story.hear(11, put("x", n=1))
    story.tell(moves.Failed(A, may_land=True))
    story.hear(12, put("y"))
    story.hear(13, DeleteAll())
    story.later(0.2)
    story.all(moves.Apply)
    story.applied()
    assert story.one(moves.Apply).call.change == put("y")
    story.applied()
    assert story.all(moves.Apply) == []
    story.later(5.0)
    assert story.one(moves.Apply).call.change == DeleteAll()


def test_a_call_that_was_certainly_not_made_keeps_nobody_waiting() -> None:
    story = Story(at(10))
    story.hear(11, put("x", n=1))
    story.tell(moves.Failed(A, may_land=False, retry_after_s=3.0))
    story.hear(12, put("x", n=2))
    story.all(moves.Apply)
    story.later(2.9)
    assert story.all(moves.Apply) == []
    story.later(0.2)
    story.applied()
    assert [effect.call.change for effect in story.all(moves.Apply)] == [put("x", n=1), put("x", n=2)]


def test_nothing_is_sent_when_the_lease_is_about_to_end() -> None:
    story = Story(at(10))
    story.now_s = 1_000_000.0 - PACE.call_timeout_s
    story.hear(11, put("x"))
    assert story.all(moves.Apply) == []
    story.tell(moves.Leased(2_000_000.0))
    assert story.one(moves.Apply).call.change == put("x")


# --- What an index refuses ------------------------------------------------------------------------


def test_of_many_changes_the_refused_one_is_found_and_parks_its_namespace() -> None:
    story = Story(at(10), pace=Pace(linger_s=0.1))
    for sequence, id_ in ((11, "x"), (12, "bad"), (13, "y")):
        story.hear(sequence, put(id_))
    story.later(0.1)
    story.all(moves.Apply)
    story.tell(moves.Refused(A, "no"))
    assert story.one(moves.Apply).call.change == put("x")
    story.applied()
    assert story.one(moves.Apply).call.change == put("bad")
    story.tell(moves.Refused(A, "no"))
    assert story.one(moves.Alarm).sequence == 12
    mark = story.mark()
    assert mark is not None
    assert (mark.applied, mark.parked, mark.is_readable) == (11, "no", False)
    assert story.all(moves.Apply) == []


def test_the_others_go_on_and_an_unparked_namespace_is_read_again() -> None:
    story = Story(at(10, a=Mark(applied=5, queryable=5, parked="no")))
    assert story.one(moves.Alarm) == moves.Alarm(A, 6, "no")  # who takes over says so too
    assert story.one(moves.Read).after == 10
    story.hear(11, put("x"), A)
    story.hear(12, put("x"), B)
    assert story.one(moves.Apply).namespace == B
    story.tell(moves.Unpark(A))
    assert story.one(moves.AllClear) == moves.AllClear(A)
    story.later(0.1)
    assert story.one(moves.Read).after == 5
    assert story.mark() is not None


def test_a_parked_namespace_that_is_copied_from_elsewhere_is_parked_no_more() -> None:
    story = Story(at(10, a=Mark(applied=5, queryable=5, parked="no")))
    story.tell(moves.Sought(A, is_found=True))
    assert story.one(moves.Copy).namespace == A
    assert story.one(moves.AllClear) == moves.AllClear(A)


def test_a_parked_namespace_keeps_the_log_from_being_trimmed() -> None:
    story = Story(at(10, a=Mark(applied=5, queryable=5, parked="no")))
    assert story.follower.progress.hold_after == 5


# --- Filters --------------------------------------------------------------------------------------

INTENT = DeleteByFilter({"n": 1})


def test_an_intent_waits_for_its_ids_and_so_does_what_follows() -> None:
    story = Story(at(10))
    story.hear(11, INTENT)
    story.hear(12, put("x"))
    assert story.all(moves.Apply) == story.all(moves.Resolve) == []
    story.hear(13, Resolved(lsn(11), ["x", "y"], last=False))
    assert story.all(moves.Apply) == []
    story.hear(14, Resolved(lsn(11), ["z"], last=True))
    assert story.one(moves.Apply).call == _call(drop("x", "y", "z"), 11)
    story.applied()
    assert story.one(moves.Apply).call == _call(put("x"), 12)


def test_the_home_asks_once_its_own_replica_shows_everything_before() -> None:
    story = Story(at(10), is_home=True)
    story.hear(11, put("x"))
    story.hear(12, INTENT)
    story.applied()
    assert story.all(moves.Resolve) == []
    story.visible(11)
    assert story.one(moves.Resolve).intent.sequence == 12


def test_the_home_asks_again_when_no_ids_appear() -> None:
    story = Story(at(10), is_home=True)
    story.hear(11, INTENT)
    story.all(moves.Resolve)
    story.tell(moves.Announced(A, is_done=True))
    story.later(PACE.ask_again_s - 0.1)
    assert story.all(moves.Resolve) == []
    story.later(0.2)
    assert len(story.all(moves.Resolve)) == 1


def test_ids_that_were_announced_twice_are_applied_once() -> None:
    story = Story(at(10))
    story.hear(11, INTENT)
    story.hear(12, Resolved(lsn(11), ["x"], last=True))
    story.all(moves.Apply)
    story.applied()
    story.hear(13, Resolved(lsn(11), ["y"], last=True))
    assert story.all(moves.Apply) == []


def test_an_intent_that_matched_nothing_is_done_without_a_call() -> None:
    story = Story(at(10))
    story.hear(11, INTENT)
    story.hear(12, Resolved(lsn(11), [], last=True))
    assert story.all(moves.Apply) == []
    assert story.one(moves.AwaitVisible).sequence == 11


def test_an_update_by_filter_is_one_update_an_id() -> None:
    story = Story(at(10))
    story.hear(11, UpdateByFilter({"n": 1}, {"patched": 5}))
    story.hear(12, Resolved(lsn(11), ["x", "y"], last=True))
    assert story.one(moves.Apply).call == _call(patch("x", 5), 10)
    story.applied()
    assert story.one(moves.Apply).call == _call(patch("y", 5), 11)


def test_what_waits_behind_an_intent_is_forgotten_when_room_is_short_and_read_again() -> None:
    story = Story(at(10), pace=Pace(linger_s=0.0, max_buffered=4))
    story.all(moves.Read)
    story.hear(11, INTENT)
    for sequence in range(12, 16):
        story.hear(sequence, put(f"x{sequence}"))
    assert story.follower.wants_more
    story.hear(16, Resolved(lsn(11), ["x"], last=True))
    story.applied()
    story.later(0.1)
    assert story.one(moves.Read).after == 11
    story.all(moves.Apply)
    story.hear(12, put("x12"))
    assert story.one(moves.Apply).call.position == lsn(12)


def test_the_reader_pauses_when_there_is_no_room() -> None:
    story = Story(at(10), pace=Pace(linger_s=0.0, max_buffered=3))
    for sequence in range(11, 15):
        story.hear(sequence, put(f"x{sequence}"))
    assert not story.follower.wants_more
    story.applied()
    story.applied()
    assert story.follower.wants_more


# --- Copies ---------------------------------------------------------------------------------------


def test_a_namespace_whose_changes_were_trimmed_is_copied_and_the_others_are_read() -> None:
    story = Story(at(20, a=Mark(applied=8, queryable=8)), first=12)
    assert story.one(moves.Copy).namespace == A
    assert story.one(moves.Read).after == 20
    assert story.follower.progress.is_readable(B)


def test_a_parked_namespace_whose_changes_were_trimmed_is_copied_when_it_is_unparked() -> None:
    story = Story(at(20, a=Mark(applied=8, queryable=8, parked="no")), first=12)
    assert story.all(moves.Copy) == []
    story.tell(moves.Unpark(A))
    assert story.one(moves.Copy).namespace == A


def test_what_stands_stays_readable_until_there_is_something_to_copy_from() -> None:
    story = Story(at(20))
    story.tell(moves.Resync(A))
    assert story.one(moves.Seek).applied == 20
    story.tell(moves.Sought(A, is_found=False))
    assert story.follower.progress.is_readable(A)
    story.later(PACE.retry_max_s)
    assert story.one(moves.Seek).namespace == A


def test_when_more_was_trimmed_than_is_known_everything_is_copied() -> None:
    story = Story(at(10, a=Mark(applied=8, queryable=8)), first=12, last=20)
    assert story.follower.progress.is_resyncing
    assert story.one(moves.Survey).received == 10
    source = Progress("them", "one", 18, 18.0, epochs={INDEX: 1})
    story.tell(moves.Surveyed(source, [A, B]))
    assert [(e.namespace, e.applied) for e in story.all(moves.Copy)] == [(A, 8), (B, 10)]
    assert story.one(moves.Read).after == 18
    assert not story.follower.progress.is_readable(A)


def test_a_copied_namespace_is_replayed_and_unreadable_until_it_is_exact() -> None:
    story = Story(at(20))
    story.all(moves.Read)
    story.tell(moves.Resync(A))
    story.tell(moves.Sought(A, is_found=True))
    assert story.one(moves.Copy).applied == 20
    story.hear(21, put("x"))
    story.tell(moves.Copied(A, start=20, end=22))
    assert story.one(moves.Read).after == 20
    story.hear(21, put("x"))
    story.applied()
    story.visible(21)
    assert not story.follower.progress.is_readable(A)
    story.hear(22, Heartbeat())
    assert story.follower.progress.is_readable(A)
    assert story.mark() is None


def test_a_copy_that_failed_is_tried_again() -> None:
    story = Story(at(20))
    story.tell(moves.Sought(A, is_found=True))
    story.all(moves.Copy)
    story.tell(moves.CopyFailed(A, past=25))
    story.later(0.3)
    assert story.one(moves.Copy).applied == 25


def test_a_copy_that_failed_is_tried_again_also_when_the_lane_is_woken_for_something_else_first() -> None:
    story = Story(at(10), is_home=True)
    story.hear(11, DeleteByFilter({"n": 1}))
    story.tell(moves.Announced(A, is_done=False))  # to be asked for again in 0.2 s
    story.tell(moves.Sought(A, is_found=True))
    story.later(0.1)
    story.one(moves.Copy)
    story.tell(moves.CopyFailed(A))
    story.later(0.15)
    assert story.all(moves.Copy) == []
    story.later(0.1)
    assert story.one(moves.Copy).applied == 10


def test_a_copy_waits_for_what_is_in_flight_and_for_what_may_still_land() -> None:
    story = Story(at(10))
    story.hear(11, put("x"))
    story.tell(moves.Sought(A, is_found=True))
    assert story.all(moves.Copy) == []
    story.tell(moves.Failed(A, may_land=True))
    assert story.all(moves.Copy) == []
    story.later(5.1)
    assert story.one(moves.Copy).applied == 10


def test_a_namespace_that_only_waits_for_a_late_effect_does_not_go_back_when_it_is_copied() -> None:
    story = Story(at(10))
    story.hear(11, put("x"))
    story.tell(moves.Failed(A, may_land=True))
    story.later(0.2)
    story.applied()
    story.visible(11)
    story.hear(12, Heartbeat())
    assert story.follower.progress.mark(A).applied == 12
    story.tell(moves.Sought(A, is_found=True))
    assert story.follower.progress.mark(A).applied == 12


def test_a_wiped_index_is_copied_and_other_namespaces_keep_their_place() -> None:
    story = Story(at(20), wiped=[INDEX])
    assert story.one(moves.Survey).indexes == [INDEX]
    story.tell(moves.Surveyed(Progress("them", "one", 25, epochs={INDEX: 1}), [A]))
    assert story.one(moves.Copy).namespace == A
    assert story.follower.progress.received == 20


def test_a_stream_made_anew_goes_on_from_the_best_copy() -> None:
    story = Story(at(20), incarnation="two")
    assert story.follower.progress.incarnation == "one"
    story.tell(moves.Adopted())
    assert (story.follower.progress.incarnation, story.follower.progress.received) == ("two", 0)
    assert story.one(moves.Read).after == 0


def test_who_is_alone_with_a_wiped_index_applies_the_whole_log_once_more() -> None:
    story = Story(at(20), wiped=[INDEX])
    story.tell(moves.Alone())
    assert story.one(moves.Read).after == 0
    told = story.follower.progress
    assert (told.received, told.received_s, told.epochs, told.is_resyncing) == (0, 0.0, {}, False)
    story.tell(moves.Received(entry(1, EpochOpened(), NamespaceRef(INDEX, ""), Epoch(1))))
    story.tell(moves.EpochReady(INDEX, Epoch(1)))
    story.hear(2, put("x"))
    assert story.one(moves.Apply).call.change == put("x")


# --- Epochs ---------------------------------------------------------------------------------------


def test_an_epoch_waits_behind_its_gate_and_is_read_again() -> None:
    story = Story(at(10))
    story.all(moves.Read)
    story.tell(moves.Received(entry(11, EpochOpened(), NamespaceRef(INDEX, ""), Epoch(2))))
    assert story.one(moves.AwaitEpoch).epoch == 2
    story.tell(moves.Received(entry(12, put("x"), A, Epoch(2))))
    assert story.all(moves.Apply) == []
    assert not story.follower.progress.is_readable(A)
    story.tell(moves.EpochReady(INDEX, Epoch(2)))
    story.later(0.1)
    assert story.one(moves.Read).after == 11
    story.tell(moves.Received(entry(12, put("x"), A, Epoch(2))))
    assert story.one(moves.Apply).call.change == put("x")
    assert story.follower.progress.epochs == {INDEX: 2}


def fence(sequence: int, epoch: int) -> moves.Received:
    return moves.Received(entry(sequence, EpochOpened(), NamespaceRef(INDEX, ""), Epoch(epoch)))


def test_who_begins_anew_before_a_gate_reads_what_comes_before_it_again() -> None:
    """Else the epoch before would never be whole, and the gate never open."""
    saved = at(14, a=Mark(applied=10, queryable=10, unapplied_s=11.0))
    story = Story(msgspec.structs.replace(saved, gates={INDEX: Gate(2, 13)}))
    story.later(0.1)
    assert story.all(moves.Read)[-1].after == 10
    story.hear(11, put("x"))
    story.applied()
    story.visible(11)
    story.hear(12, Heartbeat())
    story.tell(fence(13, 2))
    story.tell(moves.Received(entry(14, put("y"), A, Epoch(2))))
    mark = story.mark()
    assert mark is not None
    assert (mark.applied, mark.queryable) == (12, 12), "up to the gate nothing is lacking"
    story.later(0.1)
    assert story.all(moves.Read) == [], "it goes on when the gate opens"
    story.tell(moves.EpochReady(INDEX, Epoch(2)))
    story.later(0.1)
    assert story.one(moves.Read).after == 12


def test_a_second_epoch_waits_behind_the_first_ones_gate() -> None:
    story = Story(at(10))
    story.tell(fence(11, 2))
    story.tell(moves.Received(entry(12, put("x"), A, Epoch(2))))
    story.tell(fence(13, 3))
    assert story.one(moves.AwaitEpoch).epoch == 2
    assert story.follower.newest_epoch(INDEX) == 3
    story.all(moves.Read)
    story.tell(moves.EpochReady(INDEX, Epoch(2)))
    assert story.one(moves.AwaitEpoch).epoch == 3
    story.later(0.1)
    assert story.one(moves.Read).after == 11
    story.tell(moves.Received(entry(12, put("x"), A, Epoch(2))))
    assert story.one(moves.Apply).call.change == put("x")
    assert story.follower.progress.epochs == {INDEX: 2}
    story.tell(moves.EpochReady(INDEX, Epoch(3)))
    assert story.follower.progress.gates == {}


def test_the_ids_of_an_intent_are_taken_from_behind_the_gate_that_came_between() -> None:
    story = Story(at(10))
    story.hear(11, DeleteByFilter({"n": 1}))
    story.tell(fence(12, 2))
    story.tell(moves.Received(entry(13, Resolved(lsn(11), ["x"], True), A, Epoch(2))))
    assert story.one(moves.Apply).call.change == drop("x")


# --- What cannot happen ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        moves.Applied(A, None),
        moves.Failed(A, may_land=True),
        moves.Refused(A, "no"),
        moves.Past(A, lsn(1)),
        moves.Copied(A, 1, 2),
        moves.CopyFailed(A),
        moves.Unpark(A),
        moves.Probed(None, shard()),
        moves.Adopted(),
        moves.Alone(),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_illegal_event_raises_and_changes_nothing(event: Event) -> None:
    story = Story(at(10))
    before = story.follower.progress
    with pytest.raises(IllegalMove):
        story.tell(event)
    assert story.follower.progress == before
