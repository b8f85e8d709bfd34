"""A scripted OpenAI-compatible embeddings endpoint on a real socket: well, or failing as the test says."""

import asyncio
import hashlib
from dataclasses import dataclass, field

import numpy as np
from aiohttp import web

DIMENSION = 8


@dataclass
class ScriptedEmbeddings:
    """Answers `status`, or nothing at all while `is_silent`.

    `asked` counts the calls; each releases `arrived` once.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    is_silent: bool = False
    asked: int = 0
    arrived: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/embeddings", self.answer)
        return app

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.arrived.release()
        body = await request.json()
        if self.is_silent:
            await asyncio.Event().wait()
        if self.status != 200:
            return web.json_response({"error": "scripted"}, status=self.status, headers=self.headers)
        data = [{"index": at, "embedding": vector_of(text)} for at, text in enumerate(body["input"])]
        return web.json_response({"data": data, "usage": {"total_tokens": 1}})


def vector_of(text: str) -> list[float]:
    """A vector that depends on the text and on nothing else, and means nothing."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    vector: list[float] = np.random.default_rng(seed).normal(size=DIMENSION).tolist()
    return vector
