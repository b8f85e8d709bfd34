"""Who serves a model, by the address of its endpoint, in OpenTelemetry's words. Pure.

Source: OpenTelemetry semantic conventions, `gen_ai.provider.name`; an endpoint that is none of these is told
by its dialect, as the conventions ask.
"""

from typing import Final
from urllib.parse import urlsplit

DIALECT: Final = "openai"
_BY_HOST: Final = {
    "deepseek.com": "deepseek",
    "mistral.ai": "mistral_ai",
    "groq.com": "groq",
    "x.ai": "x_ai",
    "perplexity.ai": "perplexity",
    "openai.azure.com": "azure.ai.openai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "anthropic.com": "anthropic",
    "cohere.com": "cohere",
    "cohere.ai": "cohere",
}


def provider_of(url: str) -> str:
    """The provider's name."""
    host = urlsplit(url).hostname or ""
    return next((name for known, name in _BY_HOST.items() if f".{host}".endswith(f".{known}")), DIALECT)
