from pydantic import BaseModel, ConfigDict

from regions.runtime.config_example import MASK, example, masked
from regions.runtime.config_file import SecretRef, validate
from regions.runtime.strict_yaml import parse_yaml


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    key: SecretRef
    size: int = 3


class Outer(BaseModel):
    """What it is for."""

    name: str
    inner: Inner
    flag: bool = False


def test_what_is_shown_keeps_references_and_hides_anything_that_may_be_a_secret() -> None:
    tree = {
        "name": "https://user:hunter2@host/path",
        "inner": {"key": "env:KEY", "api_key": "hunter2", "max_tokens": "many", "list": [{"password": "p"}]},
    }
    shown = masked(validate(tree, Outer, {}, source="test"))
    assert shown["inner"]["key"] == "env:KEY"
    assert shown["inner"]["max_tokens"] == "many"
    assert shown["inner"]["api_key"] == shown["inner"]["list"][0]["password"] == MASK
    assert shown["name"] == f"https://{MASK}@host/path"


def test_the_example_states_what_is_required_and_comments_the_rest_out() -> None:
    text = example(Outer)
    assert validate(parse_yaml(text), Outer, {}, source="example").name == "example"
    assert "# flag: false" in text
    assert "  # size: 3" in text
    assert text.startswith("## What it is for.")
