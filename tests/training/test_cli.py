"""`lpr-train` as it is typed: what it does end to end, and what it says when it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from tests.training.tiny import RECIPE, photographs
from training import cli, engine, terminal
from training.checkpoint import load, of_model, save
from training.data.photographs import PhotographSet
from training.data.synthetic.writer import Synth, write_synth
from training.evaluation import fusion_search
from training.evaluation.fusion import Fusion
from training.evaluation.hearings import Hearing
from training.evaluation.scores import Scores
from training.models.build import build_model
from training.recipes import RECIPES

runner = CliRunner()
Heard = Mapping[Hearing, Scores]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny photographs as files."""
    root = tmp_path / "made"
    data = photographs()
    (root / "pictures").mkdir(parents=True)
    _write_classes(root, data)
    for split in ("train", "val", "test"):
        rows = ["image,class_id,clip_id"]
        for row, pixels in enumerate(data.photographs.numpy()):
            name = f"pictures/{split}-{row}.png"
            Image.fromarray(pixels).save(root / name)
            rows.append(f"{name},{data.product[row]},{data.clip[row]}")
        (root / f"{split}.csv").write_text("\n".join(rows))
    return root


def _write_classes(root: Path, data: PhotographSet) -> None:
    rows = ["class_id,class_name,iconic_image"]
    for row, pixels in enumerate(data.pictures.numpy()):
        Image.fromarray(pixels).save(root / f"pictures/{row}.png")
        rows.append(f"{row},{data.names[row]},pictures/{row}.png")
    (root / "classes.csv").write_text("\n".join(rows))


def test_fit_evaluate_and_export(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "tiny", RECIPE)
    data = ["--data", f"made={folder}"]
    run = tmp_path / "run"
    compiled: list[object] = []
    monkeypatch.setattr(engine, "compile_blocks", lambda model, device: compiled.append(model))
    options = ["--out", str(run), "--seed", "3", "--compile"]
    fitted = runner.invoke(cli.app, ["fit", "tiny", *data, *options])
    assert len(compiled) == 1
    assert fitted.exit_code == 0, fitted.output
    best = str(run / "best.safetensors")
    assert load(Path(best)).recipe == replace(RECIPE, seed=3)
    scored = runner.invoke(cli.app, ["evaluate", best, *data, "--device", "cpu"])
    assert scored.exit_code == 0, scored.output
    report = json.loads(scored.stdout.splitlines()[-1])
    assert report["clips"] == 10
    assert 0 <= report["fused"]["r1"] <= report["fused"]["r5"] == 1
    attended = runner.invoke(
        cli.app, ["attend", best, *data, "--out", str(tmp_path / "looks"), "--clips", "2"]
    )
    assert attended.exit_code == 0, attended.output
    looks = sorted(file.name for file in (tmp_path / "looks").iterdir())
    assert looks == ["attention-00.png", "attention-01.png"]
    out = tmp_path / "bundle"
    exported = runner.invoke(
        cli.app, ["export", best, *data, "--out", str(out), "--name", "rice-tiny"]
    )
    assert exported.exit_code == 0, exported.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model"]["recipe"] == "tiny"
    assert manifest["metrics"]["r1"] == pytest.approx(report["fused"]["r1"], abs=1e-4)
    assert manifest["fusion"]["match"] == report["match_weight"]
    # The bundle's graphs in onnxruntime, by the same command, rank as torch does.
    for split, checkpoint in (("val", report), ("test", None)):
        served = _evaluated(str(out), *data, "--split", split)
        expected = checkpoint or _evaluated(best, *data, "--split", split)
        for name in ("coarse", "match", "fused"):
            assert served[name]["r1"] == pytest.approx(expected[name]["r1"], abs=1e-3)
            assert served[name]["mrr"] == pytest.approx(expected[name]["mrr"], abs=1e-3)
    again = tmp_path / "again"
    calibrated = runner.invoke(cli.app, ["calibrate", str(out), *data, "--out", str(again)])
    assert calibrated.exit_code == 0, calibrated.output
    found = json.loads((again / "manifest.json").read_text())
    assert found["metrics"]["r1"] == pytest.approx(manifest["metrics"]["r1"], abs=1e-3)
    for decision in ("fusion", "calibration"):
        assert found[decision] == pytest.approx(manifest[decision], abs=1e-3)
    (out / "clip_encoder.onnx").write_bytes(b"no graph")
    refused = runner.invoke(cli.app, ["evaluate", str(out), *data])
    assert refused.exit_code == 1
    assert "onnxruntime cannot load" in refused.output


def clips_of(table: Path) -> int:
    return len({line.split(",")[2] for line in table.read_text().splitlines()[1:]})


def test_products_that_training_never_saw_have_a_say_in_fusion(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, other = tmp_path / "start.safetensors", tmp_path / "unseen"
    save(start, of_model(RECIPE, build_model(RECIPE.model)))
    shutil.copytree(folder, other)
    (other / "val.csv").write_text("\n".join((folder / "val.csv").read_text().split("\n")[:3]))
    seen: list[list[int]] = []
    fused = fusion_search.best_fusion

    def watched(of: Heard, *unseen: Heard) -> Fusion:
        seen.append([len(other["missing"].truth) for other in unseen])
        return fused(of, *unseen)

    monkeypatch.setattr(fusion_search, "best_fusion", watched)
    monkeypatch.setitem(RECIPES, "tiny", RECIPE)
    command = ["export", str(start), "--data", f"made={folder}", "--out", str(tmp_path / "bundle"),
               "--name", "x"]  # fmt: skip
    for option in ([], ["--unseen", str(other)], ["--unseen-test", str(other)]):
        exported = runner.invoke(cli.app, [*command, *option])
        assert exported.exit_code == 0, exported.output
    assert seen == [[], [clips_of(other / "val.csv")], [clips_of(other / "test.csv")]]
    assert clips_of(other / "val.csv") < clips_of(other / "test.csv")
    refused = runner.invoke(cli.app, [*command, "--unseen", str(tmp_path)])
    assert refused.exit_code == 1
    assert "is of no known layout" in refused.output


def test_a_model_is_scored_on_any_data(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, bundle = tmp_path / "start.safetensors", tmp_path / "bundle"
    save(start, of_model(RECIPE, build_model(RECIPE.model)))
    monkeypatch.setitem(RECIPES, "tiny", RECIPE)
    made = runner.invoke(cli.app, ["export", str(start), "--out", str(bundle), "--name", "x"])
    assert made.exit_code == 0, made.output
    own = _evaluated(str(start), "--data", f"made={folder}", "--split", "test")
    assert _evaluated(str(start), "--on", str(folder), "--split", "test") == own
    told = _evaluated(str(bundle), "--on", str(folder), "--split", "test")
    assert told["match"]["mrr"] == pytest.approx(own["match"]["mrr"], abs=1e-3)
    synth = tmp_path / "synth"
    write_synth(synth, Synth(clips=24, seed=1, size=64, frames=3, shop_size=6))
    assert _evaluated(str(bundle), "--on", str(synth), "--split", "test")["clips"] > 0
    refused = runner.invoke(cli.app, ["evaluate", str(start)])
    assert refused.exit_code == 1 and "no --data for made" in refused.output


def _evaluated(*arguments: str) -> dict[str, Any]:
    result = runner.invoke(cli.app, ["evaluate", *arguments])
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return report


def test_what_scores_a_model_may_be_told_the_device() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name in ("fit", "evaluate", "detect", "export"):
        assert "device" in {option.name for option in commands[name].params}, name


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fit", "nothing", "--data", "a=b", "--out", "x"], "no recipe 'nothing'"),
        (["fit", "grocery_small", "--data", "grocery", "--out", "x"], "NAME=FOLDER"),
        (["fit", "grocery_small", "--data", "grocery=x", "--out", "x"], "no --data for made"),
        (["evaluate", ".", "--data", "a=b"], "is no bundle"),
        (["attend", ".", "--data", "a=b", "--out", "x"], "is not a checkpoint of this project"),
        (["evaluate", "gone.safetensors", "--data", "a=b"], "no such file"),
        (["import", "x.pth", "--out", "x", "--detector", "y"], "only a bundle has a detector"),
        (["import", ".", "--out", "x", "--detector-recipe", "none"], "no recipe 'none'"),
    ],
)
def test_what_is_wrong_is_told(arguments: list[str], told: str) -> None:
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 1
    assert told in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--device", "gpu"], "knows no device 'gpu'"),
        (["--device", "cuda"], "finds no CUDA"),
        (["--steps", "0"], "greater than or equal to 1"),
        (["--out", __file__], "is a file"),
    ],
)
def test_options_that_are_none_are_refused(
    options: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data = ["--data", "grocery=x", "--out", "x"]
    result = runner.invoke(cli.app, ["fit", "grocery_small", *data, *options])
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", "").split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["export", "--name", "Rice"], "a bundle's name is lower case"),
        (["export", "--out", "no_bundle"], "exists and is no bundle"),
        (["export", "--unseen", "x"], "it goes with --data"),
        (["export", "--unseen-test", "x"], "it goes with --data"),
        (["export", "--sure", "0.5"], "give --detector"),
        (["export", "--int8-detector"], "give --detector"),
        (["calibrate", "--data", "a=b", "--out", "no_bundle"], "exists and is no bundle"),
        (["evaluate", "--split", "train"], "is not one of 'val', 'test'"),
        (["detect", "--data", "a=b", "--picture", "none/p.png"], "there is no folder none"),
        (["detect", "--data", "a=b", "--picture", "p.xyz"], "names no kind of picture"),
    ],
)
def test_options_that_cannot_be_are_told_before_anything_is_read(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no_bundle").mkdir()
    (tmp_path / "no_bundle" / "mine.txt").touch()
    command, *options = arguments
    given = ["--out", "x", "--name", "x"] if command == "export" else []
    result = runner.invoke(cli.app, [command, "gone", *given, *options])
    assert result.exit_code in (1, 2)
    assert told in " ".join(result.output.replace("│", "").split())


def test_folders_that_cannot_be_made_are_told_before_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "run")
    data = [f"--data={name}=x" for name in ("grocery", "made", "clothing")]
    for command in ("fit", "ablate"):
        result = runner.invoke(cli.app, [command, "grocery_small", *data, "--out", out])
        assert result.exit_code == 1
        assert f"{out}: Not a directory" in result.output
    sheet = ["--sheet", str(tmp_path / "none" / "sheet.png")]
    result = runner.invoke(cli.app, ["data", "check", str(tmp_path), *sheet])
    assert result.exit_code == 1 and "there is no folder" in result.output


def test_every_process_of_torchruns_tells_what_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(terminal.console, "quiet", True)  # as it does not lead
    result = runner.invoke(cli.app, ["fit", "nothing", "--data", "a=b", "--out", "x"])
    assert "process 3: no recipe 'nothing'" in result.output
