"""The official SDKs for Node: each script runs under `node --test` against the running servers."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.compat.sdk import Target
from tests.compat.servers import DIMENSION, INDEX, KEY, Servers

pytestmark = pytest.mark.compat

HERE = Path(__file__).parent / "node"


@pytest.fixture(scope="session")
def node() -> str:
    """The `node` command, with the SDKs of `package-lock.json` installed beside the scripts."""
    command, installer = shutil.which("node"), shutil.which("npm")
    if command is None or installer is None:
        return missing("the packages nodejs and npm are not installed")
    lock, mark = HERE / "package-lock.json", HERE / "node_modules" / ".package-lock.json"
    if not mark.exists() or mark.stat().st_mtime < lock.stat().st_mtime:
        done = subprocess.run(
            [installer, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            return missing(f"npm ci failed: {done.stderr[-500:]}")
    return command


def missing(why: str) -> str:
    """Skips; where a complete run is promised, fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def run(node: str, script: str, variables: Mapping[str, str]) -> None:
    """Run a script's tests. Fails with their report."""
    done = subprocess.run(
        [node, "--test", "--test-reporter=spec", script],
        cwd=HERE,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pinecone_sdk(node: str, servers: Servers, target: Target) -> None:
    control, host = servers.of(target)
    variables = {"CONTROL_URL": control, "INDEX_HOST": host, "TARGET": target}
    fixed = {"API_KEY": KEY, "INDEX": INDEX, "DIMENSION": str(DIMENSION)}
    run(node, "pinecone.test.js", {**variables, **fixed})


def test_the_openai_sdk(node: str, servers: Servers, library: str) -> None:
    run(
        node,
        "openai.test.js",
        {"GATEWAY_URL": servers.gateway_url, "API_KEY": KEY, "NAMESPACE": library},
    )
