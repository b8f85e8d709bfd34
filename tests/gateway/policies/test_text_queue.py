"""TextQueue: every text is given out once, calls take turns, batches fit, a full queue refuses."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.text_queue import LOOK_AHEAD, MAX_TOKENS, TextQueue, choose_batch

CALLS = st.lists(st.lists(st.integers(1, 2000), min_size=1, max_size=40), min_size=1, max_size=8)


@given(CALLS)
def test_every_text_is_given_out_once_and_nothing_starves(calls: list[list[int]]) -> None:
    queue = TextQueue[int](10_000, 512)
    for call, lengths in enumerate(calls):
        assert queue.put(call, ["x" * length for length in lengths])
    given_out: list[tuple[int, int]] = []
    oldest = [0] * len(calls)
    turns = 0
    while batch := queue.take():
        turns += 1
        given_out += batch
        assert len(batch) <= LOOK_AHEAD
        for call, row in batch:
            oldest[call] = turns
            assert 0 <= row < len(calls[call])
        # Nobody with texts left has been passed over for longer than a round of turns.
        assert all(turns - last <= len(calls) for call, last in enumerate(oldest) if call_left(queue, call))
    assert sorted(given_out) == [(call, row) for call, rows in enumerate(calls) for row in range(len(rows))]
    assert len(queue) == 0


def call_left(queue: TextQueue[int], call: int) -> bool:
    return call in queue._calls


def test_a_call_of_one_text_waits_for_its_turn_and_not_for_a_large_call() -> None:
    queue = TextQueue[str](1000, 512)
    queue.put("large", ["x" * 1000] * 500)
    queue.take()
    queue.put("small", ["y" * 1000])
    taken = [call for _ in range(2) for call, _ in queue.take()]
    assert "small" in taken


def test_what_stands_ahead_is_bounded_and_a_large_call_into_an_empty_queue_passes() -> None:
    queue = TextQueue[str](3, 512)
    assert queue.put("large", ["x"] * 2000)
    assert not queue.put("more", ["x"])
    queue.drop("large")
    assert len(queue) == 0
    assert queue.put("more", ["x"])
    assert queue.clear() == ["more"]
    assert queue.take() == []
    queue.drop("more")  # who is told twice that its call is over loses nothing


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=LOOK_AHEAD), st.integers(256, 2048))
def test_a_batch_holds_the_first_text_and_fits_its_budget(lengths: list[int], budget: int) -> None:
    chosen = choose_batch(lengths, budget)
    assert 0 in chosen
    assert max(min(MAX_TOKENS, lengths[at] // 4 + 2) for at in chosen) * len(chosen) <= budget
