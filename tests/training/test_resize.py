"""Models on pictures of another size than they were trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.training.test_cli import _evaluated
from tests.training.test_cli import folder as folder  # noqa: PLC0414
from tests.training.tiny import RECIPE, tiny_model
from tests.training.tiny_sgmn import SGMN_RECIPE, tiny_sgmn, tiny_tokenizer
from training import cli
from training.checkpoint import (
    Checkpoint,
    DetectorCheckpoint,
    load,
    of_model,
    resized,
    save,
)
from training.configs import DetectorRecipe, Schedule, Source
from training.models.detector import ClipDetector, DetectorConfig
from training.recipes import RECIPES

runner = CliRunner()


def kept_rice() -> Checkpoint:
    return of_model(RECIPE, tiny_model())


def kept_sgmn() -> Checkpoint:
    return of_model(SGMN_RECIPE, tiny_sgmn(), tiny_tokenizer().definition)


def kept_detector() -> DetectorCheckpoint:
    config = DetectorConfig(image_size=32, patch_size=8, width=32, heads=2)
    recipe = DetectorRecipe(
        name="tiny_detector",
        model=config,
        sources=(Source("synth", "lpr4m", products=2),),
        validate_on="synth",
        schedule=Schedule(steps=2, warmup=1),
    )
    weights = ClipDetector(config).state_dict()
    return DetectorCheckpoint(recipe, {f"model.{k}": v for k, v in weights.items()}, {})


@pytest.mark.parametrize("kept", [kept_rice(), kept_sgmn()], ids=["rice", "sgmn"])
@torch.inference_mode()
def test_positions_alone_change(kept: Checkpoint, tmp_path: Path) -> None:
    given, out = tmp_path / "given.safetensors", tmp_path / "new" / "out.safetensors"
    save(given, replace(kept, tensors=kept.tensors | {"training.x": torch.zeros(1)}))
    told = runner.invoke(cli.app, ["resize", str(given), "--size", "48", "--out", str(out)])
    assert told.exit_code == 0, told.output
    found = load(out)
    assert found.recipe == kept.recipe.at_size(48) and found.recipe.image_size == 48
    assert found.tokenizer == kept.tokenizer
    assert found.tensors.keys() == kept.tensors.keys(), "no run can go on from it"
    before, after = kept.group("model"), found.group("model")
    for name in before.keys() - {"encoder.positions"}:
        assert torch.equal(before[name], after[name]), name
    positions = after["encoder.positions"]
    assert positions.shape == (1 + 6 * 6, RECIPE.model.encoder.width)
    assert torch.equal(positions[0], before["encoder.positions"][0])
    pictures = found.model().encode_pictures(torch.randn(2, 3, 48, 48))
    assert pictures.tokens.shape[:2] == (2, 37)
    same = resized(kept, RECIPE.image_size).group("model")
    assert all(torch.equal(same[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("kept", "size", "told"),
    [
        (kept_rice(), 50, "image_size 50 is not a multiple of patch_size 8"),
        (kept_rice(), 0, "image_size 0 is not a multiple"),
        (kept_rice(), -8, "image_size -8 is not a multiple"),
        (kept_detector(), 48, "is of a detector: tiny_detector"),
    ],
    ids=["between patches", "nothing", "negative", "detector"],
)
def test_what_cannot_be_resized_is_told(
    kept: Checkpoint | DetectorCheckpoint, size: int, told: str, tmp_path: Path
) -> None:
    path, out = tmp_path / "given.safetensors", tmp_path / "out.safetensors"
    save(path, kept)
    result = runner.invoke(cli.app, ["resize", str(path), "--size", str(size), "--out", str(out)])
    assert result.exit_code == 1 and told in result.output
    assert not out.exists()


def test_a_resized_model_is_scored_and_served_at_its_size(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "tiny", RECIPE)
    larger, bundle = tmp_path / "larger.safetensors", tmp_path / "bundle"
    save(larger, resized(replace(kept_rice(), recipe=replace(RECIPE, intended_boxes=True)), 48))
    data = ["--data", f"made={folder}"]
    exported = runner.invoke(
        cli.app, ["export", str(larger), *data, "--out", str(bundle), "--name", "x"]
    )
    assert exported.exit_code == 0, exported.output
    assert json.loads((bundle / "manifest.json").read_text())["dims"]["image_size"] == 48
    trained, served = _evaluated(str(larger), *data), _evaluated(str(bundle), *data)
    for part in ("coarse", "match", "fused"):
        assert served[part]["mrr"] == pytest.approx(trained[part]["mrr"], abs=1e-3)
