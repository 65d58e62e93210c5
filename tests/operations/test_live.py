"""Every panel and every alert, asked of a real Prometheus that scrapes the real service."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.operations.conftest import Run
from tests.operations.draw import Drawn, draw
from tests.operations.prometheus import DEPLOY, SCRAPE_S
from tests.operations.test_files import ALERTS

GPU_ONLY = {"GPU memory", "GPU in use"}
VARIABLES = {"$instance": ".*", "$__rate_interval": "10s"}


BOARDS = ("overview", "quality", "gallery", "infrastructure")


@dataclass(frozen=True)
class Panel:
    board: str
    title: str
    kind: str
    unit: str
    queries: list[tuple[str, str]]  # expression, legend


def panels() -> Iterator[Panel]:
    for name in BOARDS:
        path = DEPLOY / "grafana" / "dashboards" / f"lpr-{name}.json"
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            if panel.get("targets"):
                unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
                queries = [(t["expr"], t.get("legendFormat", "")) for t in panel["targets"]]
                yield Panel(board["title"], panel["title"], panel["type"], unit, queries)


def filled(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


@pytest.mark.parametrize(
    ("title", "expr"),
    [
        pytest.param(panel.title, expr, id=f"{panel.board}: {panel.title}: {legend}")
        for panel in panels()
        for expr, legend in panel.queries
        if panel.title not in GPU_ONLY
    ],
)
def test_no_expression_of_a_panel_is_empty_or_no_number(run: Run, title: str, expr: str) -> None:
    series = run.prometheus.query_range(filled(expr), run.start, time.time(), 1)
    values = [float(value) for one in series for _, value in one["values"]]
    assert any(math.isfinite(value) for value in values), f"{title}: {expr}"
    assert all(value >= 0 for value in values if math.isfinite(value))


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_every_alert_looks_at_series_that_are_there(run: Run, alert: str) -> None:
    [rule] = [rule for rule in run.prometheus.rules() if rule.get("name") == alert]
    assert rule["health"] == "ok", rule.get("lastError")
    selectors = re.findall(r"\b((?:lpr[_:][\w:]+|process_\w+|up)(?:\{[^}]*\})?)", rule["query"])
    assert selectors
    for selector in selectors:
        assert run.prometheus.query(f"last_over_time({selector}[1h])"), selector


def test_a_quiet_run_wakes_nobody(run: Run) -> None:
    assert run.firing_in_quiet == set()


def test_the_fault_wakes_somebody(run: Run) -> None:
    run.prometheus.wait(lambda: "LPRRedisDown" in run.prometheus.firing(), 60, "LPRRedisDown")


def test_two_instances_add_up(run: Run) -> None:
    now = time.time() - 2 * SCRAPE_S  # of which all is known: each scrape is a request more
    [whole] = run.prometheus.query("sum(lpr_requests_total)", now)
    parts = run.prometheus.query("sum by (instance) (lpr_requests_total)", now)
    assert len(parts) == 2
    assert float(whole["value"][1]) == sum(float(part["value"][1]) for part in parts)


def test_what_an_operator_sees_can_be_drawn(run: Run, tmp_path: Path) -> None:
    end = time.time()
    drawn = [
        Drawn(
            panel.board,
            panel.title,
            panel.kind,
            panel.unit,
            [
                (legend, series)
                for expr, legend in panel.queries
                for series in run.prometheus.query_range(filled(expr), run.start, end, 1)
            ],
        )
        for panel in panels()
        if panel.title not in GPU_ONLY
    ]
    target = Path(os.environ.get("DASHBOARDS_PICTURE", tmp_path / "dashboards.png"))
    draw(drawn, target)
    assert target.stat().st_size > 50_000
