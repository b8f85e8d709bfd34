"""`python -m bench.scripted_llm PORT HOLD_S SPREAD_S`: an LLM that answers after a while, without work."""

import asyncio
import sys
from random import Random

import uvloop
from aiohttp import web

ANSWER = {
    "id": "chatcmpl-scripted",
    "object": "chat.completion",
    "created": 1,
    "model": "scripted-1",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Answered well."}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
}


def main(port: int, hold_s: float, spread_s: float) -> None:
    rng = Random(1)

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(hold_s + rng.uniform(-spread_s, spread_s))
        return web.json_response(ANSWER)

    async def ready(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/readyz", ready)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
