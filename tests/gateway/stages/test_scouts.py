"""Scouts: a few find out, the others wait for them and no longer than they should."""

import asyncio

from gateway.stages.scouts import AT_A_TIME, NEWS_S, Scouts


class Place:
    """An upstream that a crowd of callers falls back to."""

    def __init__(self) -> None:
        self.clock = asyncio.get_running_loop().time
        self.scouts = Scouts(self.clock)
        self.is_known = False
        self.asked = 0
        self.answers = asyncio.Event()

    async def ask(self, left_s: float = 5.0) -> None:
        async with self.scouts.turn("it", lambda: self.is_known, self.clock() + left_s):
            self.asked += 1
            await self.answers.wait()
            self.is_known = True


async def until(place: Place, asked: int) -> None:
    async with asyncio.timeout(2):
        while place.asked < asked:  # noqa: ASYNC110 - polled, with a deadline
            await asyncio.sleep(0.005)


async def test_a_few_go_ahead_and_all_others_follow_their_news() -> None:
    place = Place()
    async with asyncio.TaskGroup() as crowd:
        for _ in range(20):
            crowd.create_task(place.ask())
        await until(place, AT_A_TIME)
        assert place.asked == AT_A_TIME
        place.answers.set()
    assert place.asked == 20


async def test_nobody_waits_where_it_is_known() -> None:
    place = Place()
    place.is_known = True
    async with asyncio.TaskGroup() as crowd:
        for _ in range(20):
            crowd.create_task(place.ask())
        await until(place, 20)
        assert not place.answers.is_set()
        place.answers.set()


async def test_silence_is_waited_for_only_so_long_and_never_beyond_a_callers_time() -> None:
    place = Place()
    async with asyncio.TaskGroup() as crowd:
        for _ in range(AT_A_TIME):
            crowd.create_task(place.ask())
        await until(place, AT_A_TIME)
        started_s = place.clock()
        crowd.create_task(place.ask())
        crowd.create_task(place.ask(left_s=0.05))
        await until(place, AT_A_TIME + 1)
        assert place.clock() - started_s < NEWS_S
        await until(place, AT_A_TIME + 2)
        assert place.clock() - started_s >= NEWS_S
        place.answers.set()


async def test_a_scout_that_leaves_makes_room_for_the_next() -> None:
    place = Place()
    async with asyncio.TaskGroup() as crowd:
        leaving = [crowd.create_task(place.ask()) for _ in range(AT_A_TIME)]
        await until(place, AT_A_TIME)
        crowd.create_task(place.ask())
        await asyncio.sleep(0)
        assert place.asked == AT_A_TIME
        leaving[0].cancel()
        await until(place, AT_A_TIME + 1)
        place.answers.set()
