from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from regions.errors import ConfigError, ConfigProblem
from regions.runtime.config_file import SecretRef, load, resolve_secret, validate


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int = Field(80, ge=1)
    host: str = "here"
    level: Literal["low", "high"] = "low"


class Whole(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    secret: SecretRef | None = None
    part: Part = Part()
    parts: dict[str, Part] = Field(default_factory=dict)
    many: list[Part] = Field(default_factory=list)


def problems(tree: dict[str, Any], env: dict[str, str] | None = None) -> dict[str, ConfigProblem]:
    with pytest.raises(ConfigError) as caught:
        validate(tree, Whole, env or {}, source="test")
    return {problem.path: problem for problem in caught.value.problems}


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_every_problem_is_reported_at_once_with_its_path() -> None:
    found = problems({"part": {"port": 0, "hots": "x"}, "many": [{}, {"level": "middle"}]})
    assert set(found) == {"name", "part.port", "part.hots", "many.1.level"}
    assert "'low' or 'high'" in found["many.1.level"].problem


def test_an_unknown_key_is_answered_with_the_one_that_was_meant() -> None:
    found = problems({"name": "n", "part": {"prot": 1}, "elsewhere": 1})
    assert found["part.prot"].hint == "did you mean 'port'?"
    assert found["elsewhere"].hint == "there are: many, name, part, parts, secret"


def test_a_secret_in_the_file_is_refused_and_not_repeated() -> None:
    found = problems({"name": "n", "secret": "hunter2"})
    assert found["secret"].hint == "write env:NAME or file:PATH"
    assert "hunter2" not in str(found["secret"])


def test_cross_checks_see_only_a_model_whose_fields_are_right(tmp_path: Path) -> None:
    def cross_check(whole: Whole) -> list[ConfigProblem]:
        return [ConfigProblem("name", f"{whole.name} is taken")]

    with pytest.raises(ConfigError, match="n is taken"):
        load(write(tmp_path, "name: n"), Whole, {}, cross_check)


def test_a_repeated_key_is_an_error_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 3, column 1: the key 'name' is repeated"):
        load(write(tmp_path, "name: a\npart: {}\nname: b\n"), Whole, {})


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "line 1"), ("- 1", "must be a mapping"), ("a: !!python/x 1", "line 1")]
)
def test_a_file_that_is_no_configuration_says_where(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(write(tmp_path, text), Whole, {})


def test_a_missing_file_points_to_the_example(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="meridian config example"):
        load(tmp_path / "none.yaml", Whole, {})


def test_overrides_reach_fields_keys_and_list_places() -> None:
    tree = {"name": "n", "parts": {"my-Own": {"port": 1}}, "many": [{}]}
    env = {
        "MERIDIAN__NAME": "007",
        "MERIDIAN__PART__PORT": "8080",
        "MERIDIAN__PARTS__MY_OWN__HOST": "there",
        "MERIDIAN__PARTS__NEW__LEVEL": "high",
        "MERIDIAN__MANY__0": "{port: 9}",
        "UNRELATED": "x",
    }
    whole = validate(tree, Whole, env, source="test")
    assert (whole.name, whole.part.port, whole.parts["my-Own"].host) == ("007", 8080, "there")
    assert (whole.parts["new"].level, whole.many[0].port) == ("high", 9)
    assert tree == {"name": "n", "parts": {"my-Own": {"port": 1}}, "many": [{}]}, "the file's values stay"


def test_a_wrong_override_is_named_in_the_problem() -> None:
    env = {"MERIDIAN__PART__PRT": "1", "MERIDIAN__MANY__3__PORT": "1", "MERIDIAN__PART__PORT": "none"}
    found = problems({"name": "n", "many": []}, env)
    assert found["part.prt"].hint == "did you mean 'port'?; set by MERIDIAN__PART__PRT"
    assert found["part.port"].hint == "set by MERIDIAN__PART__PORT"
    assert "not a place in it" in found["MERIDIAN__MANY__3__PORT"].problem


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_a_text_field_takes_an_override_as_it_is(text: str) -> None:
    assert validate({}, Whole, {"MERIDIAN__NAME": text}, source="test").name == text


def test_secrets_come_from_the_environment_and_from_files_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "pepper").write_text("salt\n")
    assert resolve_secret(SecretRef("env:PEPPER"), tmp_path, {"PEPPER": "salt"}) == "salt"
    assert resolve_secret(SecretRef("file:pepper"), tmp_path, {}) == "salt"


@pytest.mark.parametrize(
    ("ref", "said"),
    [("env:NONE", "NONE is not set"), ("file:none", "cannot read"), ("file:empty", "is empty")],
)
def test_a_secret_that_is_not_there_is_named(tmp_path: Path, ref: str, said: str) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match=said):
        resolve_secret(SecretRef(ref), tmp_path, {})
