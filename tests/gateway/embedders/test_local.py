"""The embedded model: the right vectors, off the loop, questions first, bounded."""

import asyncio
import ctypes
from collections.abc import AsyncIterator

import numpy as np
import pytest

from gateway.embedders.local import Config, LocalEmbedder
from gateway.errors import BadRequest, GatewayError, Overloaded, UpstreamTimeout, UpstreamUnavailable

PASSAGE = "The Suez Canal connects the Mediterranean Sea to the Red Sea through the Isthmus of Suez. " * 6


@pytest.fixture
async def embedder() -> AsyncIterator[LocalEmbedder]:
    made = LocalEmbedder(Config(max_waiting_passages=40, max_waiting_queries=40), "test")
    await made.start()
    yield made
    await made.close()


async def test_vectors_have_unit_length_and_mean_what_the_model_means(embedder: LocalEmbedder) -> None:
    texts = ["a cat sleeps on the sofa", "a kitten naps on the couch", "interest rates rose in March"]
    embedded = await embedder.embed(texts, kind="passage", timeout_s=30)
    assert embedded.vectors.shape == (3, embedder.dimension)
    assert embedded.vectors.dtype == np.float32
    assert np.linalg.norm(embedded.vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    near, far = embedded.vectors[0] @ embedded.vectors[1], embedded.vectors[0] @ embedded.vectors[2]
    assert near > 0.5 > far
    assert embedded.tokens == 8 + 9 + 7


async def test_a_text_has_the_same_vector_alone_and_in_any_batch(embedder: LocalEmbedder) -> None:
    texts = ["short", PASSAGE, "a text of middling length about canals", "short", PASSAGE[:200]]
    together = await embedder.embed(texts, kind="passage", timeout_s=30)
    for row, text in enumerate(texts):
        alone = await embedder.embed([text], kind="query", timeout_s=30)
        assert alone.vectors[0] @ together.vectors[row] > 0.9999


async def test_what_lies_beyond_the_window_is_not_read(embedder: LocalEmbedder) -> None:
    embedded = await embedder.embed([PASSAGE * 10], kind="passage", timeout_s=30)
    assert embedded.tokens == 256


async def test_a_question_overtakes_waiting_passages(embedder: LocalEmbedder) -> None:
    finished: list[str] = []

    async def embed(name: str, texts: list[str], kind: str) -> None:
        await embedder.embed(texts, kind="query" if kind == "query" else "passage", timeout_s=60)
        finished.append(name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(embed("passages", [PASSAGE] * 30, "passage"))
        await asyncio.sleep(0)
        tasks.create_task(embed("question", ["which sea"], "query"))
    assert finished == ["question", "passages"]


async def test_a_full_queue_pushes_back_on_passages_but_not_on_questions(embedder: LocalEmbedder) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(embedder.embed([PASSAGE] * 60, kind="passage", timeout_s=60))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as shed:
            await embedder.embed([PASSAGE], kind="passage", timeout_s=60)
        assert shed.value.retry_after_s is not None
        assert shed.value.retry_after_s > 0
        await embedder.embed(["which sea"], kind="query", timeout_s=60)


async def test_a_caller_out_of_time_leaves_the_queue(embedder: LocalEmbedder) -> None:
    with pytest.raises(UpstreamTimeout):
        await embedder.embed([PASSAGE] * 60, kind="passage", timeout_s=0.01)
    # Its texts are gone: the queue takes more at once.
    await embedder.embed(["a passage"], kind="passage", timeout_s=30)


@pytest.mark.parametrize("texts", [[], ["fine", ""]])
async def test_nothing_to_embed_is_the_callers_mistake(embedder: LocalEmbedder, texts: list[str]) -> None:
    with pytest.raises(BadRequest):
        await embedder.embed(texts, kind="query", timeout_s=30)


async def test_closing_fails_what_waits_and_what_comes_later() -> None:
    embedder = LocalEmbedder(Config(), "test")
    await embedder.start()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(failure_of(embedder, [PASSAGE] * 60))
        await asyncio.sleep(0)
        tasks.create_task(embedder.close())
    assert isinstance(waiting.result(), UpstreamUnavailable)
    with pytest.raises(UpstreamUnavailable):
        await embedder.embed(["late"], kind="query", timeout_s=1)


async def test_a_call_of_one_text_is_not_behind_all_of_a_large_one(embedder: LocalEmbedder) -> None:
    finished: list[int] = []

    async def embed(count: int) -> None:
        await embedder.embed([PASSAGE] * count, kind="passage", timeout_s=60)
        finished.append(count)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(embed(30))
        await asyncio.sleep(0)
        tasks.create_task(embed(1))
    assert finished == [1, 30]


async def test_a_text_that_breaks_the_model_fails_its_own_call_and_no_other(embedder: LocalEmbedder) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(embedder.embed([PASSAGE] * 8, kind="passage", timeout_s=60))
        await asyncio.sleep(0)  # so that the next two wait, and come into one batch
        broken = tasks.create_task(failure_of(embedder, ["a canal", "a lone surrogate \ud800"]))
        whole = tasks.create_task(embedder.embed(["a sea", "a canal"], kind="passage", timeout_s=60))
    assert isinstance(broken.result(), UpstreamUnavailable)
    assert isinstance(broken.result().__cause__, Exception)
    assert broken.result().detail
    assert np.linalg.norm(whole.result().vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_who_waits_for_a_thread_that_is_killed_is_told_and_who_comes_later_is_served(
    embedder: LocalEmbedder,
) -> None:
    """Nothing that was taken is forgotten: every call ends, and none of the broken ones well."""
    async with asyncio.TaskGroup() as tasks:
        waiting = [
            tasks.create_task(failure_of(embedder, [PASSAGE] * 10)),
            tasks.create_task(failure_of(embedder, [PASSAGE] * 5)),
            tasks.create_task(failure_of(embedder, [PASSAGE] * 5)),
        ]
        await asyncio.sleep(0.05)  # it is at work on the first of them
        kill(embedder)
    assert all(isinstance(task.result(), Overloaded) for task in waiting)
    embedded = await embedder.embed([PASSAGE] * 5, kind="passage", timeout_s=30)
    assert np.linalg.norm(embedded.vectors, axis=1) == pytest.approx([1] * 5, abs=1e-5)


async def test_nothing_is_left_of_callers_that_leave_at_any_moment(embedder: LocalEmbedder) -> None:
    """And those that stay get what they asked for, each its own."""
    alone = [(await embedder.embed([text], kind="query", timeout_s=30)).vectors[0] for text in ("sea", "sun")]
    async with asyncio.TaskGroup() as tasks:
        leaving = [
            tasks.create_task(embedder.embed([PASSAGE, "sea"], kind="passage", timeout_s=60))
            for _ in range(8)
        ]
        staying = [
            tasks.create_task(embedder.embed(["sea", PASSAGE, "sun"], kind="passage", timeout_s=60))
            for _ in range(3)
        ]
        for task in leaving:
            await asyncio.sleep(0.01)
            task.cancel()
    for task in staying:
        vectors = task.result().vectors
        assert vectors[0] @ alone[0] > 0.9999
        assert vectors[2] @ alone[1] > 0.9999
    assert not any(map(len, embedder._queues.values()))


async def failure_of(embedder: LocalEmbedder, texts: list[str]) -> GatewayError:
    with pytest.raises(GatewayError) as failed:
        await embedder.embed(texts, kind="passage", timeout_s=60)
    return failed.value


def kill(embedder: LocalEmbedder) -> None:
    """End its thread as nothing in it expects."""
    assert embedder._thread is not None
    ident = ctypes.c_ulong(embedder._thread.ident or 0)
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit)) == 1
