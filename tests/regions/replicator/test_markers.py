"""An index is known again by what was left in it."""

from regions.names import IndexName
from regions.replicas.memory import MemoryReplica
from regions.replicator.markers import NAMESPACE, Markers

INDEX = IndexName("docs")


def index(*, tells: bool = False) -> MemoryReplica:
    """An index that tells its incarnation, or not."""
    return MemoryReplica(INDEX, lambda: 0.0, remembers_positions=tells)


async def test_an_index_that_tells_its_incarnation_is_known_by_it_and_keeps_no_mark() -> None:
    replica = index(tells=True)
    markers = Markers("us.0", {INDEX: replica})
    before, wiped = await markers.check({})
    assert (before, wiped) == ({INDEX: replica.incarnation}, [])
    replica.wipe()
    assert not await markers.is_there(INDEX, before)
    after, wiped = await markers.check(before)
    assert (after, wiped) == ({INDEX: replica.incarnation}, [INDEX])
    assert replica.contents(NAMESPACE) == {}


async def test_an_index_is_marked_once_and_known_from_then_on() -> None:
    markers = Markers("us.0", {INDEX: index()})
    tokens, wiped = await markers.check({})
    assert (list(tokens), wiped) == ([INDEX], [])
    assert await markers.check(tokens) == (tokens, [])
    assert await markers.is_there(INDEX, tokens)


async def test_an_index_that_was_emptied_is_found_out_and_marked_anew() -> None:
    replica = index()
    markers = Markers("us.0", {INDEX: replica})
    before, _ = await markers.check({})
    replica.wipe()
    assert not await markers.is_there(INDEX, before)
    after, wiped = await markers.check(before)
    assert wiped == [INDEX]
    assert after != before
    assert await markers.check(after) == (after, [])


async def test_until_the_new_token_is_saved_the_index_counts_as_emptied() -> None:
    replica = index()
    markers = Markers("us.0", {INDEX: replica})
    before, _ = await markers.check({})
    replica.wipe()
    await markers.check(before)
    assert (await markers.check(before))[1] == [INDEX]


async def test_followers_do_not_know_an_index_by_each_others_marks() -> None:
    replica = index()
    one, other = Markers("us.0", {INDEX: replica}), Markers("us.1", {INDEX: replica})
    first, _ = await one.check({})
    second, _ = await other.check({})
    assert first != second
    assert await one.check(first) == (first, [])
