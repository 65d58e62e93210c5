"""`make bench` without measuring: its commands can be typed, its page tells what was found."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from service.cli import app

pytest.importorskip("matplotlib", reason="the training extra")

SCRIPT = Path(__file__).parents[2] / "deploy" / "bench" / "performance.py"


@pytest.fixture(scope="module")
def performance() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # where a script finds the modules beside it
        yield importlib.import_module("performance")


def report(ms: float, baseline_ms: float | None, **figures: Any) -> dict[str, Any]:
    return {
        "what": "a thing",
        "ms": ms,
        "baseline": "the same by hand" if baseline_ms else None,
        "baseline_ms": baseline_ms,
        "ratio": baseline_ms / ms if baseline_ms else None,
        "setting": {"bundle": "b", "precision": "fp32", "threads": 2},
        "machine": {"cpu": "some", "cores": 2},
        "others_ms": {"encoding a clip": 400.0},
        "figures": figures,
    }


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "whole"])
def test_every_command_can_be_typed(performance: ModuleType, tmp_path: Path, quick: bool) -> None:
    benches = performance.commands(tmp_path, None, quick=quick)
    root = typer.main.get_command(app)
    for command in benches.values():
        if command[0] != "lpr":
            assert (SCRIPT.parents[2] / command[1]).is_file()
            continue
        bench = root.commands["bench"].commands[command[2]]
        assert bench.make_context(command[2], command[3:]).params["as_json"]
    floors = importlib.import_module("promises").FLOORS
    assert {floor.bench for floor in floors} <= benches.keys()


def test_the_page_tells_what_is_kept_and_what_is_not(
    performance: ModuleType, tmp_path: Path
) -> None:
    results = {
        "match-600": report(50.0, 50.0 * 170, share_of_encoding=0.13, logits_differ_by=1e-6),
        "match-100": report(15.0, 15.0 * 80, share_of_encoding=0.05, logits_differ_by=1e-6),
        "match-10000": report(700.0, None, share_of_encoding=1.7, logits_differ_by=None),
        "recognize": {"failed": "the service ended"},
    }
    page = performance.page(results, performance.commands(tmp_path, None, quick=False), quick=False)
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if "|" in line}
    at_600 = [line for line in page.splitlines() if line.startswith("| matching 600")]
    assert "170.00 | yes" in at_600[0]
    assert "13.0% | **no**" in at_600[1]
    hundred = next(line for name, line in lines.items() if name.startswith("matching 100 "))
    assert "80.00 | **no**" in hundred
    assert "no request lost | not measured |" in page
    assert "Failed: `recognize`: the service ended" in page
    assert "none here" in page
    assert str(tmp_path) not in page


def test_points_become_tables_and_plots(performance: ModuleType, tmp_path: Path) -> None:
    points = [{"gallery": 600, "hot": 50.0, "cold": 90.0, "index": 60.0}]
    points.append({"gallery": 240_000, "hot": 51.0, "index": 400.0, "cold": 300.0})
    scale = report(51.0, 50.0, points=points)
    scale["setting"] |= {"milvus": "embedded", "budget_s": 60.0, "sizes_asked_for": [600, 10**6]}
    clients = [{"clients": 1, "clips_per_s": 1.5, "p50_ms": 600.0, "p99_ms": 700.0, "errors": {}}]
    results = {"scale-gallery": scale, "concurrency": report(1.0, 2.0, points=clients)}
    benches = performance.commands(tmp_path, None, quick=True)
    page = performance.page(results, benches, quick=True)
    assert "| 240,000 | 51 | 300 | 400 |" in page
    assert "sizes asked for: 600, 1,000,000" in page
    assert "no figure counts" in page
    performance.draw(results, tmp_path / "performance.png")
    assert (tmp_path / "performance.png").read_bytes().startswith(b"\x89PNG")
