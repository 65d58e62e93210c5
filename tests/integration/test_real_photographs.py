"""The main job on real photographs, end to end: the shipped bundle, over HTTP, as the demo does it.

The full figures (every clip) are in the README with the command that gives them; here a part of the
clips holds the floors, so that a change that costs accuracy is seen at once.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app

GROCERY = Path(__file__).parents[3] / "shared" / "data" / "grocery"


def test_products_are_recognised_in_clips_of_real_photographs(tmp_path: Path) -> None:
    if not GROCERY.is_dir():
        pytest.skip("the grocery photographs are not at hand")
    report = tmp_path / "report.json"
    picture = tmp_path / "demo.png"
    arguments = ["demo", "--data", str(GROCERY), "--clips", "96", "--out", str(picture)]
    result = CliRunner().invoke(app, [*arguments, "--json", str(report)])
    assert result.exit_code == 0, result.output
    figures = json.loads(report.read_text())["figures"]
    assert figures["clips"] == 96
    assert figures["r1"] >= 0.72
    assert figures["r5"] >= 0.92
    assert figures["decision_precision"] > figures["r1"], "what is decided is surer than the rest"
    assert picture.stat().st_size > 10_000
