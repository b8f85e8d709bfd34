from pathlib import Path

import pytest

from gateway.up import keys
from gateway.up.problems import CommandFailed


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert keys.kept(path, "first") == keys.kept(path, "second") == "first"
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_regions_never_share_a_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    refused = pytest.raises(CommandFailed, match="another `meridian up` runs")
    with keys.alone_in(home), refused, keys.alone_in(home):
        pass
    with keys.alone_in(home):
        pass


def test_the_home_follows_xdg() -> None:
    assert keys.default_home({"XDG_DATA_HOME": "/data"}) == Path("/data/meridian")
    assert keys.default_home({}) == Path.home() / ".meridian"
