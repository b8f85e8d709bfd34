"""Which model answers in `meridian up`: an endpoint from the environment, the small local one, or none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from gateway.up.local_llm import INSTALL, MODEL, WINDOW_TOKENS, model_file
from gateway.up.problems import CommandFailed

BASE_URL: Final = "MERIDIAN_LLM_BASE_URL"
API_KEY: Final = "MERIDIAN_LLM_API_KEY"
MODEL_NAME: Final = "MERIDIAN_LLM_MODEL"
INPUT_USD: Final = "MERIDIAN_LLM_INPUT_USD"
OUTPUT_USD: Final = "MERIDIAN_LLM_OUTPUT_USD"
WINDOW: Final = "MERIDIAN_LLM_WINDOW_TOKENS"
DEFAULT_WINDOW_TOKENS: Final = 32_000
MISUSED: Final = 2


class LlmWish(StrEnum):
    """What `--llm` asks for."""

    AUTO = "auto"
    LOCAL = "local"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Llm:
    """The upstreams of the demo's model, prices that the catalogue lacks, and how to say it."""

    said: str
    upstreams: tuple[Mapping[str, Any], ...] = ()
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    is_local: bool = False


def choose(wish: LlmWish, env: Mapping[str, str], local_port: int) -> Llm:
    """`auto` takes the environment's endpoint when there is one, else none: excerpts beat the small model.

    Raises: CommandFailed: the environment names half an endpoint or no price, or `local` is not installed.
    """
    if wish is LlmWish.LOCAL:
        return _local(local_port)
    if wish is LlmWish.AUTO and any(env.get(name) for name in (BASE_URL, API_KEY, MODEL_NAME)):
        return _remote(env)
    return Llm("none: answers are excerpts with their sources")


def _local(port: int) -> Llm:
    if model_file() is None:
        raise CommandFailed("the local model is not installed", f"run: {INSTALL}", code=MISUSED)
    upstream = {"kind": "openai", "model": MODEL, "base_url": f"http://127.0.0.1:{port}/v1"}
    card = {"input_usd": 0.0, "output_usd": 0.0, "window_tokens": WINDOW_TOKENS}
    return Llm(f"{MODEL} in a process of its own", (upstream,), {MODEL: card}, is_local=True)


def _remote(env: Mapping[str, str]) -> Llm:
    missing = [name for name in (BASE_URL, API_KEY, MODEL_NAME) if not env.get(name)]
    if missing:
        raise CommandFailed(
            f"an LLM endpoint needs {', '.join(missing)} too", "or say --llm none for excerpts", code=MISUSED
        )
    model = env[MODEL_NAME]
    upstream = {
        "kind": "openai",
        "model": model,
        "base_url": env[BASE_URL].rstrip("/"),
        "api_key": f"env:{API_KEY}",
    }
    return Llm(f"{model} at {env[BASE_URL]}", (upstream,), _card(model, env))


def _card(model: str, env: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
    """The environment's price, which the catalogue's gives way to."""
    if env.get(INPUT_USD) or env.get(OUTPUT_USD):
        return {
            model: {
                "input_usd": _number(env, INPUT_USD),
                "output_usd": _number(env, OUTPUT_USD),
                "window_tokens": int(_number(env, WINDOW, DEFAULT_WINDOW_TOKENS)),
            }
        }
    from gateway.catalogue import SEED_MODELS  # pydantic takes its time, and the region is to start now

    if model in SEED_MODELS:
        return {}
    raise CommandFailed(
        f"no price is known for {model!r}, and an unknown price is never counted as 0",
        f"set {INPUT_USD} and {OUTPUT_USD} (USD per million tokens)",
        code=MISUSED,
    )


def _number(env: Mapping[str, str], name: str, default: float | None = None) -> float:
    text = env.get(name)
    if not text and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise CommandFailed(f"{name} must be a number of at least 0", code=MISUSED)
    return value
