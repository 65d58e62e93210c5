"""A bundle becomes the checkpoint again that it was exported from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="exports with torch: the training extra")

from typer.testing import CliRunner  # noqa: E402

from tests.contract.models import (  # noqa: E402
    TEXT,
    TEXT_FUSION,
    TINY,
    tokenizer,
    widened,
)
from tests.contract.test_variants import RELEASED  # noqa: E402
from tests.training.tiny import RECIPE  # noqa: E402
from tests.training.tiny_sgmn import SGMN_CONFIG, SGMN_RECIPE  # noqa: E402
from training import checkpoint, cli  # noqa: E402
from training.configs import Recipe  # noqa: E402
from training.data.transforms import normalise  # noqa: E402
from training.export.bundle import export_bundle  # noqa: E402
from training.export.golden import drawn_pictures  # noqa: E402
from training.export.precision import Precision  # noqa: E402
from training.models.build import build_model  # noqa: E402
from training.models.rice import Rice  # noqa: E402
from training.recipes import RECIPES  # noqa: E402

SEES = replace(RECIPE, name="tiny_random", model=TINY)  # as `tiny_bundle` was exported
SGMN = replace(SGMN_RECIPE, model=replace(SGMN_CONFIG, text=TEXT))
LIKE_RELEASED = replace(RECIPE, name="tiny_released", model=RELEASED)


def exported(recipe: Recipe, precision: Precision, out: Path) -> Rice:
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
    )
    return model


def imported(bundle: Path, out: Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["import", str(bundle), "--out", str(out)])
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


@pytest.mark.parametrize(
    ("recipe", "precision", "tolerance"),
    [(SEES, "fp16-weights", 1e-2), (SGMN, "fp32", 1e-5), (LIKE_RELEASED, "fp32", 1e-5)],
    ids=["halved", "sgmn, which reads", "of the released code's kind"],
)
def test_its_answers_are_the_exported_models(
    recipe: Recipe,
    precision: Precision,
    tolerance: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    model = exported(recipe, precision, tmp_path / "bundle")
    code, told = imported(tmp_path / "bundle", tmp_path / "read.safetensors")
    assert code == 0, told
    kept = checkpoint.load(tmp_path / "read.safetensors")
    assert (kept.tokenizer is not None) == (recipe.model.text is not None)
    torch.manual_seed(recipe.seed)
    begun, read = build_model(recipe.model).state_dict(), kept.group("model")
    unread = {name for name in begun if name.startswith(("instance_graph.", "temperature"))}
    assert all(torch.equal(read[name], begun[name]) for name in unread), "as training begins"
    for found, expected in zip(answers(kept.model()), answers(model), strict=True):
        scale = max(1.0, float(expected.square().mean().sqrt()))
        assert (found - expected).abs().max() < tolerance * scale


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
