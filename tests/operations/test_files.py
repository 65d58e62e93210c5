"""What Prometheus and Grafana are given: valid, tested, and no alert without a word of advice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.telemetry import Telemetry
from tests.operations.prometheus import DEPLOY, binary

RULES = DEPLOY / "prometheus" / "rules.yml"
GPU_METRICS = {"lpr_gpu_memory_used_bytes", "lpr_gpu_utilisation_ratio"}  # registered with a GPU
ALERTS = {
    rule["alert"]
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


@pytest.mark.parametrize(
    "command",
    [("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")],
    ids=" ".join,
)
def test_promtool_agrees(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [binary("promtool"), *command],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_a_paragraph_and_no_paragraph_is_left_over() -> None:
    runbook = (DEPLOY.parent / "docs" / "RUNBOOK.md").read_text()
    tested = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tested
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert set(re.findall(r"^## (\w+)$", runbook, re.MULTILINE)) == ALERTS
    assert fired == ALERTS


def test_the_dashboards_are_what_their_generator_writes(tmp_path: Path) -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="dashboards are built with Grafana's SDK")
    folder = DEPLOY / "grafana"
    subprocess.run(
        [sys.executable, str(folder / "dashboards.py"), str(tmp_path)], check=True, timeout=60
    )
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in (folder / "dashboards").iterdir()}
    assert kept == written, "run `make dashboards`"


def test_every_panel_says_what_it_shows_and_in_what_unit() -> None:
    for path in (DEPLOY / "grafana" / "dashboards").iterdir():
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] in ("row", "text"):
                continue
            assert panel["description"], panel["title"]
            assert "unit" in json.dumps(panel), panel["title"]


def test_no_expression_names_a_metric_that_the_service_has_not() -> None:
    known = {
        name
        for family in Telemetry().registry.collect()
        for name in (family.name, *(sample.name for sample in family.samples))
    }
    known |= {
        f"{name}_{suffix}" for name in known for suffix in ("total", "bucket", "sum", "count")
    }
    text = RULES.read_text() + "".join(
        path.read_text() for path in (DEPLOY / "grafana" / "dashboards").iterdir()
    )
    named = set(re.findall(r"\b(?:lpr|process)_[a-z_]+[a-z]\b(?=[\[{\s)])", text))
    assert named <= known | GPU_METRICS
