"""`meridian tenants` on a real file: what it writes a gateway takes, and what it refuses leaves no trace."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import _app
from gateway.tenants_file import Tenants, TenantsFile
from gateway.up.problems import CommandFailed
from regions.errors import ConfigError

PEPPER = "a pepper of the tests"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "meridian.yaml"
    path.write_text("region: us-east\ntenants: {pepper: 'file:pepper'}\n")
    (tmp_path / "pepper").write_text(PEPPER)
    return path


def run(config: Path, *arguments: str) -> str:
    """What it prints. Raises: what ended it."""
    argv = ["tenants", *arguments, "--config", str(config)]
    result = CliRunner().invoke(_app("tenants"), argv, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def added(config: Path, name: str, *arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run(config, "add", name, "--json", *arguments))
    return told


def tree(config: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((config.parent / "tenants.yaml").read_text())["tenants"]
    return found


def opens(config: Path, key: str, in_s: float = 0.0) -> str:
    """The tenant that a key opens, so many seconds from now. Raises: Unauthenticated."""
    file = TenantsFile.model_validate({"tenants": tree(config)})
    now_s = datetime.now(UTC).timestamp() + in_s
    return Tenants(file, PEPPER.encode(), lambda: now_s).authenticate(key)[0].id


def test_a_new_tenants_key_opens_it_and_stands_nowhere(config: Path) -> None:
    told = added(config, "Acme", "--label", "website")
    assert opens(config, told["key"]) == told["tenant"]
    assert told["key"] not in (config.parent / "tenants.yaml").read_text()
    assert (config.parent / "tenants.yaml").stat().st_mode & 0o077 == 0
    other = added(config, "Other")
    assert opens(config, told["key"]) == told["tenant"] != other["tenant"]


def test_a_rotated_key_goes_on_for_the_overlap_and_its_successor_is_like_it(config: Path) -> None:
    told = added(config, "Acme", "--label", "website")
    path = config.parent / "tenants.yaml"
    file = {"tenants": tree(config)}
    file["tenants"][0]["keys"][0]["grants"] = {"operations": ["read"]}
    path.write_text(yaml.safe_dump(file))
    new = json.loads(run(config, "rotate", "Acme", "--overlap", "2h", "--json"))
    assert opens(config, told["key"], 7000) == opens(config, new["key"], 1e9) == told["tenant"]
    with pytest.raises(Exception, match="expired at"):
        opens(config, told["key"], 7300)
    old, successor = tree(config)[0]["keys"]
    assert successor["label"] == old["label"] == "website"
    assert successor["grants"] == old["grants"]
    assert "expires" not in successor
    soon = datetime.now(UTC) + timedelta(hours=3)
    assert old["expires"] < soon


def test_rotating_never_lets_a_key_live_longer(config: Path) -> None:
    told = added(config, "Acme", "--expires", "1h")
    run(config, "rotate", told["tenant"], "--overlap", "10d")
    with pytest.raises(Exception, match="expired at"):
        opens(config, told["key"], 3700)


def test_a_revoked_key_opens_nothing(config: Path) -> None:
    told = added(config, "Acme", "--label", "website")
    run(config, "rotate", "Acme")
    with pytest.raises(CommandFailed, match="several such keys"):
        run(config, "revoke", "Acme", "--key", "website")
    run(config, "revoke", "Acme", "--key", told["digest"][:12])
    with pytest.raises(Exception, match="belongs to no tenant"):
        opens(config, told["key"])
    run(config, "revoke", "Acme", "--all")
    assert tree(config)[0]["keys"] == []


@pytest.mark.parametrize(
    "arguments",
    [("add", "Acme", "--index", "nowhere"), ("revoke", "nobody"), ("add", "Acme", "--expires", "soon")],
)
def test_what_is_refused_leaves_the_file_and_nothing_beside_it(
    config: Path, arguments: Sequence[str]
) -> None:
    added(config, "Acme")
    before = (config.parent / "tenants.yaml").read_text()
    with pytest.raises((ConfigError, CommandFailed)):
        run(config, *arguments)
    assert (config.parent / "tenants.yaml").read_text() == before
    assert not [each.name for each in config.parent.iterdir() if each.name.endswith(".new")]


def test_a_file_that_is_wrong_already_is_named_and_not_touched(config: Path) -> None:
    (config.parent / "tenants.yaml").write_text("tenants: [{id: short, name: x}]\n")
    with pytest.raises(ConfigError):
        run(config, "add", "Acme")
    assert (config.parent / "tenants.yaml").read_text() == "tenants: [{id: short, name: x}]\n"


def test_the_file_as_it_was_is_kept_beside_it(config: Path) -> None:
    added(config, "Acme")
    before = (config.parent / "tenants.yaml").read_text()
    added(config, "Other")
    assert (config.parent / "tenants.yaml.bak").read_text() == before


def test_list_and_show_tell_what_is_in_force(config: Path) -> None:
    told = added(config, "Acme [x]")
    assert "Acme [x]" in run(config, "list")
    assert json.loads(run(config, "list", "--json"))[0]["id"] == told["tenant"]
    assert yaml.safe_load(run(config, "show", told["tenant"]))["cache"]["enabled"] is True
    with pytest.raises(CommandFailed, match="no tenant"):
        run(config, "show", "nobody")
