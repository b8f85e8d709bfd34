"""Alert rules and dashboards: they fire when they must, name only what there is, and lead to a runbook."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import yaml

from gateway.monitoring import catalogue, dashboards, rules
from gateway.monitoring.__main__ import DIRECTORY, files
from tests.gateway.running import running_gateway, tenants_file

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
PROMTOOL: Final = shutil.which(
    "promtool", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
)
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (.ci/promtool)")


def promtool(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    assert PROMTOOL is not None
    return subprocess.run(
        [PROMTOOL, *arguments], input=stdin, capture_output=True, check=False, timeout=60, cwd=HERE
    )


def test_the_files_are_those_that_the_tables_make() -> None:
    kept = {name: (ROOT / DIRECTORY / name).read_text() for name in files()}
    assert kept == files(), "run: make monitoring"


def test_every_metric_that_a_rule_or_dashboard_names_exists() -> None:
    assert catalogue.unknown_names([*rules.expressions(), *dashboards.expressions()]) == set()
    assert catalogue.unknown_names(["rate(meridian_requests[5m]) + meridian_renamed_total"]) == {
        "meridian_requests",
        "meridian_renamed_total",
    }


def test_every_record_that_is_named_is_made() -> None:
    made = {
        rule["record"] for group in rules.document()["groups"] for rule in group["rules"] if "record" in rule
    }
    named = re.findall(r"meridian:[a-z0-9_:]+", " ".join([*rules.expressions(), *dashboards.expressions()]))
    assert set(named) <= made


def test_every_alert_leads_to_a_section_of_the_readme() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    assert {alert.runbook for alert in rules.alerts()} <= anchors


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    told = yaml.safe_load((HERE / "rules_test.yaml").read_text())["tests"]
    cases = [case for test in told for case in test["alert_rule_test"]]
    names = {alert.name for alert in rules.alerts()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names


@needs_promtool
def test_prometheus_takes_the_rules_and_each_alert_fires_when_it_must() -> None:
    checked = promtool("check", "rules", str(ROOT / DIRECTORY / "rules.yaml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", "rules_test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_promtool
async def test_prometheus_takes_what_a_gateway_shows(tmp_path: Path) -> None:
    tenants_file(tmp_path)
    async with running_gateway(tmp_path, {}) as gateway, aiohttp.ClientSession() as session:
        async with session.get(f"{gateway.operators_url}/metrics") as response:
            plain = await response.read()
        accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
        async with session.get(f"{gateway.operators_url}/metrics", headers=accept) as response:
            assert response.content_type == "application/openmetrics-text"
            assert (await response.text()).endswith("# EOF\n")
    checked = promtool("check", "metrics", stdin=plain)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert catalogue.unknown_names(re.findall(r"^meridian_\w+", plain.decode(), re.MULTILINE)) == set()
