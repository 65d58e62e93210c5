"""An SGMN by the commands that are RICE's: fitted, scored, exported, and scored as it is served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.training.test_cli import _evaluated
from tests.training.test_cli import folder as folder  # noqa: PLC0414  a fixture
from tests.training.tiny_sgmn import SGMN_RECIPE, with_descriptions
from training import cli
from training.recipes import RECIPES

runner = CliRunner()


def run(*arguments: object) -> str:
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_fit_evaluate_and_export(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "tiny_sgmn", SGMN_RECIPE)
    data = ["--data", f"made={with_descriptions(folder)}"]
    best, out = tmp_path / "run" / "best.safetensors", tmp_path / "bundle"
    run("fit", "tiny_sgmn", *data, "--out", best.parent)
    looks = tmp_path / "looks"
    told = run("attend", best, *data, "--out", looks, "--clips", 2)
    drawn = [f"{kind}-0{number}.png" for kind in ("attention", "salience") for number in (0, 1)]
    assert sorted(file.name for file in looks.iterdir()) == drawn
    assert "salience-01.png: " in told
    run("export", best, *data, "--out", out, "--name", "sgmn-tiny")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model"]["family"] == "sgmn"
    assert manifest["model"]["recipe"] == "tiny_sgmn"
    assert set(manifest["fusion"]) == {"coarse", "match", "text"}
    trained, served = (_evaluated(str(path), *data) for path in (best, out))
    assert trained["match_weight"] == served["match_weight"]
    for name in ("coarse", "match", "fused"):
        assert served[name]["mrr"] == pytest.approx(trained[name]["mrr"], abs=1e-3)
