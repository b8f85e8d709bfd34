"""Who serves a model, by its address."""

import pytest

from gateway.wire.provider_names import provider_of


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.deepseek.com/v1", "deepseek"),
        ("https://ours.openai.azure.com/openai", "azure.ai.openai"),
        ("http://127.0.0.1:8000/v1", "openai"),
        ("https://notdeepseek.com/v1", "openai"),
        ("https://deepseek.com.example.org/v1", "openai"),
    ],
)
def test_an_endpoint_is_called_by_its_provider_or_its_dialect(url: str, name: str) -> None:
    assert provider_of(url) == name
