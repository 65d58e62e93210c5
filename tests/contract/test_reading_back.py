"""A bundle becomes the checkpoint again that it was exported from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="exports with torch: the training extra")

import onnx  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from tests.contract.bundles import copy_of  # noqa: E402
from tests.contract.models import (  # noqa: E402
    TEXT,
    TEXT_FUSION,
    TINY,
    tiny_detector,
    tokenizer,
    widened,
)
from tests.contract.test_variants import RELEASED  # noqa: E402
from tests.training.test_detector import RECIPE as DETECTS  # noqa: E402
from tests.training.tiny import RECIPE  # noqa: E402
from tests.training.tiny_sgmn import SGMN_CONFIG, SGMN_RECIPE  # noqa: E402
from training import checkpoint, cli  # noqa: E402
from training.configs import Recipe  # noqa: E402
from training.data.transforms import normalise  # noqa: E402
from training.export.bundle import export_bundle  # noqa: E402
from training.export.errors import ExportError  # noqa: E402
from training.export.golden import drawn_pictures  # noqa: E402
from training.export.precision import Precision  # noqa: E402
from training.export.reading import read_detector  # noqa: E402
from training.export.wrappers import Detector  # noqa: E402
from training.models.build import build_model  # noqa: E402
from training.models.rice import Rice  # noqa: E402
from training.recipes import DETECTOR_RECIPES, RECIPES  # noqa: E402

SEES = replace(RECIPE, name="tiny_random", model=TINY)  # as `tiny_bundle` was exported
SGMN = replace(SGMN_RECIPE, model=replace(SGMN_CONFIG, text=TEXT))
FINDS = replace(DETECTS, model=tiny_detector().model.config)
LIKE_RELEASED = replace(RECIPE, name="tiny_released", model=RELEASED)


class Halved(NamedTuple):
    """A bundle of `fp16-weights` with a detector that looks closer: what was exported, and what
    the command read back."""

    bundle: Path
    model: Rice
    detector: Detector
    read_model: checkpoint.Checkpoint
    read_detector: checkpoint.DetectorCheckpoint


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Halved:
    folder = tmp_path_factory.mktemp("halved")
    bundle, out, detector_out = (folder / name for name in ("bundle", "model", "detector"))
    detector = unlike(tiny_detector(closer=True))
    model = exported(SEES, bundle, "fp16-weights", detector)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, SEES.name, SEES)
        patch.setitem(DETECTOR_RECIPES, FINDS.name, FINDS)
        options = ("--detector", str(detector_out), "--detector-recipe", FINDS.name)
        code, told = imported(bundle, out, *options)
    assert code == 0, told
    read = checkpoint.load(out), checkpoint.load_detector(detector_out)
    return Halved(bundle, model, detector, *read)


def unlike(detector: Detector) -> Detector:
    """With biases and norms that are no longer all 0 or 1, as after training."""
    with torch.no_grad():
        for tensor in detector.model.state_dict().values():
            if tensor.ndim == 1:
                tensor.add_(0.2 * torch.rand_like(tensor))
    return detector


def exported(
    recipe: Recipe, out: Path, precision: Precision = "fp32", detector: Detector | None = None
) -> Rice:
    torch.manual_seed(3)
    model = widened(build_model(recipe.model))
    reads = recipe.model.text is not None
    export_bundle(
        model,
        out,
        name="tiny",
        recipe=recipe.name,
        fusion={"coarse": 1.0, "match": 0.1, **({"text": TEXT_FUSION} if reads else {})},
        calibration={"temperature": 0.1, "none_logit": 5.0, "threshold": 0.5},
        metrics={},
        tokenizer=tokenizer() if reads else None,
        precision=precision,
        detector=detector,
    )
    return model


def imported(bundle: Path, out: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["import", str(bundle), "--out", str(out), *options])
    return result.exit_code, result.output


def answers(model: Rice) -> tuple[torch.Tensor, ...]:
    """Of two pictures without titles, and of a silent clip of three frames."""
    size, patches = model.config.encoder.image_size, model.config.encoder.patches
    pixels = normalise(torch.from_numpy(drawn_pictures(size, 5)))
    with torch.inference_mode():
        pictures = model.encode_pictures(pixels[:2])
        seen = torch.ones(1, 3, patches, dtype=torch.bool)
        clip = model.encode_clips(pixels[None, 2:], seen[..., 0], seen)
        state = model.decoder.match_state(pictures.tokens, pictures.token_mask)
        keys, values = model.decoder.keys_values(clip.tokens)
        logits = model.decoder.match(state, keys, values, clip.token_mask)
    return pictures.embedding, clip.embedding, state, logits


def assert_alike(read: Rice, model: Rice, tolerance: float) -> None:
    for found, expected in zip(answers(read), answers(model), strict=True):
        scale = max(1.0, float(expected.square().mean().sqrt()))
        assert (found - expected).abs().max() < tolerance * scale


@pytest.mark.parametrize(
    "recipe", [SGMN, LIKE_RELEASED], ids=["sgmn, which reads", "of the released code's kind"]
)
def test_its_answers_are_the_exported_models(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    model = exported(recipe, tmp_path / "bundle")
    code, told = imported(tmp_path / "bundle", tmp_path / "read.safetensors")
    assert code == 0, told
    kept = checkpoint.load(tmp_path / "read.safetensors")
    assert (kept.tokenizer is not None) == (recipe.model.text is not None)
    torch.manual_seed(recipe.seed)
    begun, read = build_model(recipe.model).state_dict(), kept.group("model")
    unread = {name for name in begun if name.startswith(("instance_graph.", "temperature"))}
    assert all(torch.equal(read[name], begun[name]) for name in unread), "as training begins"
    assert_alike(kept.model(), model, 1e-5)


def test_weights_of_16_bits_answer_as_they_are_served(halved: Halved) -> None:
    assert_alike(halved.read_model.model(), halved.model, 1e-2)


def test_its_detector_finds_what_the_exported_one_does(halved: Halved) -> None:
    kept = halved.read_detector
    assert kept.recipe == FINDS
    assert kept.threshold == pytest.approx(halved.detector.threshold, abs=1e-7)
    read = halved.detector._replace(model=kept.detector(), threshold=kept.threshold)
    frames = torch.from_numpy(drawn_pictures(2 * TINY.encoder.image_size, 6)).unflatten(0, (2, 3))
    frame_mask = torch.tensor([[True, True, True], [True, True, False]])
    with torch.inference_mode():
        found, expected = (
            each.looking(TINY.encoder)(frames, frame_mask) for each in (read, halved.detector)
        )
    assert (found.boxes - expected.boxes).abs().max() < 1e-2
    assert (found.scores - expected.scores).abs().max() < 1e-2
    means = [value for name, value in kept.tensors.items() if name.endswith("running_mean")]
    assert means and all(mean.any() for mean in means), "what norms met in the golden pictures"


def test_norms_expect_what_they_met(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So training goes on near where it is served."""
    monkeypatch.setitem(RECIPES, SEES.name, SEES)
    assert imported(tiny_bundle, tmp_path / "read.safetensors")[0] == 0
    model = checkpoint.load(tmp_path / "read.safetensors").model()
    drawn = normalise(torch.from_numpy(drawn_pictures(TINY.encoder.image_size, 32)))
    with torch.inference_mode():
        served = model.encode_pictures(drawn).embedding
        trained = model.train().encode_pictures(drawn).embedding
    assert (served * trained).sum(dim=1).min() > 0.9


def test_another_model_is_refused(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = replace(TINY, encoder=replace(TINY.encoder, width=64))
    monkeypatch.setitem(RECIPES, SEES.name, replace(SEES, model=wider))
    code, told = imported(tiny_bundle, tmp_path / "read.safetensors")
    assert code == 1 and "is of another model" in told
    assert not (tmp_path / "read.safetensors").exists()


def test_a_lower_precision_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    told = json.dumps(manifest | {"precision": "int8"})
    (tmp_path / "bundle" / "manifest.json").write_text(told)
    code, told = imported(tmp_path / "bundle", tmp_path / "read.safetensors")
    assert code == 1 and "int8" in told


@pytest.mark.parametrize("broken", ["manifest.json", "image_encoder.onnx", "encoder.data"])
def test_what_is_no_bundle_is_told(
    broken: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, SEES.name, SEES)
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / broken).write_bytes(b"{nonsense")
    code, told = imported(tmp_path / "bundle", tmp_path / "read.safetensors")
    assert code == 1 and "is no bundle" in told


def test_a_detector_of_another_recipe_is_refused(halved: Halved) -> None:
    other = replace(FINDS, name="single", model=replace(FINDS.model, temporal_layers=0))
    with pytest.raises(ExportError, match="is of another model than the recipe single is today"):
        read_detector(halved.bundle, other, halved.read_model)


def test_a_bundle_without_a_detector_is_told(tiny_bundle: Path, halved: Halved) -> None:
    with pytest.raises(ExportError, match="has no detector"):
        read_detector(tiny_bundle, FINDS, halved.read_model)


def test_a_detector_in_int8_is_refused(halved: Halved, tmp_path: Path) -> None:
    bundle = copy_of(halved.bundle, tmp_path)
    graph = onnx.load(bundle / "detector.onnx")
    graph.graph.node.add(op_type="DequantizeLinear")
    onnx.save(graph, bundle / "detector.onnx")
    with pytest.raises(ExportError, match="is of int8"):
        read_detector(bundle, FINDS, halved.read_model)
