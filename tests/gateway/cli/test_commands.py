"""The command as people meet it: started as a process, judged by its output and exit code."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import typer

from gateway.cli import COMMANDS
from gateway.config import GatewayConfig
from gateway.config_checks import cross_check
from regions.runtime.config_example import example
from regions.runtime.config_file import load
from regions.runtime.lifecycle import PortTaken, bind

HEAVY: Final = {
    "onnxruntime",
    "openai",
    "pinecone",
    "faiss",
    "numpy",
    "aiohttp",
    "rich.table",
}


def meridian(*args: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gateway", *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
        check=False,
    )


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys; from gateway.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print({HEAVY!r} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.rstrip().endswith("set()")
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_with_an_example(name: str) -> None:
    attribute = name.replace("-", "_")
    found = getattr(importlib.import_module(f"gateway.cli.{attribute}"), attribute)
    commands = [c.callback for c in found.registered_commands] if isinstance(found, typer.Typer) else [found]
    assert all(
        re.search(r"^\s*Example: .*meridian ", command.__doc__ or "", re.MULTILINE) for command in commands
    )


def test_an_unknown_command_is_misuse() -> None:
    done = meridian("nonsense")
    assert done.returncode == 2
    assert "No such command 'nonsense'" in done.stderr


def test_check_config_names_every_problem_and_exits_2(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("region: us-east\ntenants: {pepper: hunter2}\nserver: {prot: 1}\n")
    done = meridian("check-config", "--config", str(path), env={"MERIDIAN__RAG__TOP_K": "0"})
    assert done.returncode == 2
    assert "3 problem(s)" in done.stderr
    for said in ("tenants.pepper", "did you mean 'port'?", "set by MERIDIAN__RAG__TOP_K"):
        assert said in done.stderr
    assert "hunter2" not in done.stderr
    assert "\x1b" not in done.stderr, "colour is for terminals"


def test_the_example_passes_check_config_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(meridian("config", "example").stdout)
    done = meridian("check-config", "--config", str(path))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_example_passes_with_every_comment_removed(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(re.sub(r"(?m)^(\s*)# ", r"\1", example(GatewayConfig)))
    loaded = load(path, GatewayConfig, {}, cross_check)
    assert (list(loaded.indexes), list(loaded.models)) == (["docs"], ["meridian"])


def test_config_show_gives_what_is_in_force_with_references_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("region: us-east\ntenants: {pepper: 'env:P'}\n")
    done = meridian("config", "show", "-c", str(path), env={"MERIDIAN__SERVER__PORT": "9000", "P": "hunter2"})
    assert "port: 9000" in done.stdout
    assert "pepper: env:P" in done.stdout
    assert "hunter2" not in done.stdout


def test_a_gateway_that_is_not_there_is_one_clear_line() -> None:
    with bind("127.0.0.1", 0) as free:  # bound and not listening: refuses
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        for args in (("status", "--operators", url), ("ask", "who?", "--gateway", url, "--api-key", "k")):
            done = meridian(*args)
            assert done.returncode == 1
            assert url in done.stderr
            assert "Traceback" not in done.stderr


def test_watching_goes_on_while_nobody_answers_and_ends_on_ctrl_c() -> None:
    # Whoever starts tests in the background has their children ignore Ctrl-C.
    heeding = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    with bind("127.0.0.1", 0) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        asked = ["status", "--operators", url, "--watch", "--every", "0.1", "--json"]
        argv = [sys.executable, "-c", f"{heeding}; from gateway.cli import main; main({asked!r})"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            looks = [json.loads(watching.stdout.readline()) for _ in range(3)]
            watching.send_signal(signal.SIGINT)
            assert watching.wait(20) == 130
    assert all(not look["good"] and url in look["problem"] for look in looks)


def test_a_taken_port_is_named_by_up(tmp_path: Path) -> None:
    port = next(port for port in range(23_401, 23_500) if is_free(port))
    with bind("127.0.0.1", port) as taken:
        taken.listen()
        done = meridian("up", "--data-dir", str(tmp_path), "--base-port", str(port))
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken" in done.stderr


def is_free(port: int) -> bool:
    try:
        bind("127.0.0.1", port).close()
    except PortTaken:
        return False
    return True
