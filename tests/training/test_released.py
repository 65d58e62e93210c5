"""Checkpoints of the released code: read whole, refused when they are not, and equal in numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.training.released_names import randomised, released
from training import cli
from training.checkpoint import load
from training.evaluation.reference import INPUTS, OUTPUTS, released_outputs
from training.models.encoder import EncoderConfig
from training.models.released import read_released
from training.models.rice import Rice, RiceConfig
from training.models.weights_file import WeightsError

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
CONFIG = RiceConfig(
    EncoderConfig(image_size=48, patch_size=16, width=128, layers=2, heads=2, embedding=24),
    frames=10,
    matching_heads=4,
)

runner = CliRunner()


@pytest.fixture
def model() -> Rice:
    return randomised(CONFIG)


@pytest.fixture
def checkpoint(model: Rice, tmp_path: Path) -> Path:
    torch.save(released(model), tmp_path / "released.pth")
    return tmp_path / "released.pth"


def write_fixture(model: Rice, path: Path) -> Path:
    """Pixels and what `model` makes of them, as the released code returns it."""
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(3, 3, 48, 48, generator=generator)
    video = torch.randn(2, 4, 3, 48, 48, generator=generator)
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    outputs = released_outputs(model, image, video, mask)
    arrays = {**dict(zip(INPUTS, (image, video, mask), strict=True)), **outputs}
    np.savez(path, **{name: value.numpy() for name, value in arrays.items()})
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def test_every_size_and_weight_is_read_from_the_tensors(model: Rice, checkpoint: Path) -> None:
    found, left_out = read_released(checkpoint, "cosine")
    assert found.config == CONFIG
    assert left_out == []
    assert not found.training
    for name, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_a_linear_head_keeps_its_bias(tmp_path: Path) -> None:
    model = randomised(replace(CONFIG, matching_head="linear"))
    path = tmp_path / "linear.pth"
    torch.save(released(model), path)
    found, _ = read_released(path, "linear")
    assert found.config == model.config
    decoded = torch.randn(4, 128)
    with torch.no_grad():
        assert torch.equal(
            found.decoder.logit(decoded, decoded), model.decoder.logit(decoded, decoded)
        )
    with pytest.raises(WeightsError, match="bias"):
        read_released(path, "cosine")


def test_what_has_no_place_is_named(model: Rice, tmp_path: Path) -> None:
    more = {"transformer.heads.text.weight": torch.zeros(2)}
    torch.save({"epoch": 3, "state_dict": released(model) | more}, tmp_path / "more.pth")
    assert read_released(tmp_path / "more.pth", "cosine").left_out == [*more]


def test_wrapped_and_parallel_checkpoints_are_read(model: Rice, tmp_path: Path) -> None:
    parallel = {f"module.{name}": value.half() for name, value in released(model).items()}
    torch.save({"model": parallel, "step": 5}, tmp_path / "wrapped.pth")
    found, left_out = read_released(tmp_path / "wrapped.pth", "cosine")
    assert left_out == []
    assert found.decoder.pool.weight.dtype == torch.float32
    assert torch.allclose(found.decoder.pool.weight, model.decoder.pool.weight, atol=1e-3)


class Harm:
    """Pickled, it would write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]


def test_nothing_is_executed(model: Rice, tmp_path: Path) -> None:
    torch.save({**released(model), "extra": Harm(tmp_path / "harm")}, tmp_path / "bad.pth")
    code, told = run("import", tmp_path / "bad.pth", "--out", tmp_path / "x.safetensors")
    assert code == 1
    assert "more than tensors" in told and "weights_only=False" not in told
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("without", "no 'transformer.heads.vim.weight'"),
        ("shape", "size mismatch"),
        ("third", "3 layers in the decoder"),
        ("text", "no weights"),
        ("list", "no state dict"),
        ("gone", "No such file"),
    ],
)
def test_what_is_no_released_checkpoint_is_refused(
    model: Rice, tmp_path: Path, spoil: str, told: str
) -> None:
    tensors, path = released(model), tmp_path / "spoiled.pth"
    if spoil == "without":
        del tensors["transformer.heads.vim.weight"]
    if spoil == "shape":
        tensors["transformer.transformer.pooler.dense.weight"] = torch.zeros(64, 64)
    if spoil == "third":
        tensors["transformer.transformer.transformer.layers.2.ln_1.weight"] = torch.zeros(128)
    if spoil == "text":
        path.write_text("hello")
    elif spoil == "list":
        torch.save([1, 2], path)
    elif spoil != "gone":
        torch.save(tensors, path)
    code, output = run("import", path, "--out", tmp_path / "x.safetensors")
    assert code == 1
    assert told in output and "spoiled.pth" in output


def test_imported_it_is_a_checkpoint_with_a_recipe(
    model: Rice, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs" / "imported.safetensors"
    code, _ = run(
        "import", checkpoint, "--out", out, "--recipe", "rice_vitb32_movingfashion"
    )  # fmt: skip
    assert code == 0
    kept = load(out)
    assert kept.recipe.name == "rice_vitb32_movingfashion"
    assert kept.recipe.model == CONFIG
    pixels = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        expected = model.encode_pictures(pixels).embedding
        assert torch.equal(kept.model().encode_pictures(pixels).embedding, expected)


def test_verify_tells_the_difference_of_each_tensor(
    model: Rice, checkpoint: Path, tmp_path: Path
) -> None:
    fixture = write_fixture(model, tmp_path / "fixture.npz")
    code, told = run("verify", "--checkpoint", checkpoint, "--fixture", fixture)
    assert code == 0
    assert [word for word in told.split() if word in OUTPUTS] == list(OUTPUTS)
    run("import", checkpoint, "--out", tmp_path / "ours.safetensors")
    code, told = run("verify", "--checkpoint", tmp_path / "ours.safetensors", "--fixture", fixture)
    assert code == 0
    assert all(f"{name} " in told for name in OUTPUTS)


@pytest.mark.parametrize("wrong", OUTPUTS)
def test_verify_fails_on_one_number_that_is_off(
    model: Rice, checkpoint: Path, tmp_path: Path, wrong: str
) -> None:
    fixture = write_fixture(model, tmp_path / "fixture.npz")
    arrays = dict(np.load(fixture))
    arrays[wrong].flat[-1] += 2e-4
    np.savez(fixture, **arrays)
    code, told = run("verify", "--checkpoint", checkpoint, "--fixture", fixture)
    assert code == 1
    assert told.endswith(f"off: {wrong} ")


def test_verify_fails_on_what_is_no_number(model: Rice, checkpoint: Path, tmp_path: Path) -> None:
    fixture = write_fixture(model, tmp_path / "fixture.npz")
    arrays = dict(np.load(fixture))
    arrays["image_tokens"][:] = np.nan
    np.savez(fixture, **arrays)
    assert run("verify", "--checkpoint", checkpoint, "--fixture", fixture)[0] == 1


def test_fixtures_of_another_model_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    fixture = tmp_path / "other.npz"
    arrays = {name: generator.random((2, 2), np.float32) for name in (*INPUTS, *OUTPUTS)}
    np.savez(fixture, **arrays)
    code, told = run("verify", "--checkpoint", checkpoint, "--fixture", fixture)
    assert code == 1 and "another size" in told
    np.savez(fixture, more=arrays["image"], **arrays)
    code, told = run("verify", "--checkpoint", checkpoint, "--fixture", fixture)
    assert code == 1 and "more is not known" in told
    fixture.write_text("hello")
    code, told = run("verify", "--checkpoint", checkpoint, "--fixture", fixture)
    assert code == 1 and "no .npz" in told


def test_only_the_released_variant_can_be_verified(model: Rice, tmp_path: Path) -> None:
    fixture = write_fixture(model, tmp_path / "fixture.npz")
    run("init", "grocery_small", "--out", tmp_path / "grocery.safetensors")
    path = tmp_path / "grocery.safetensors"
    code, told = run("verify", "--checkpoint", path, "--fixture", fixture)
    assert code == 1 and "not the released variant" in told


@pytest.mark.skipif(not REFERENCE.exists(), reason="the released code's own numbers are not here")
def test_the_released_codes_own_numbers() -> None:
    code, told = run(
        "verify",
        "--checkpoint", REFERENCE / "rice_reference.pth",
        "--fixture", REFERENCE / "rice_reference.npz",
    )  # fmt: skip
    assert code == 0, told
    differences = [float(word) for word in re.findall(r"\d\.\de-\d\d", told)]
    assert len(differences) == len(OUTPUTS)
    assert max(differences) < 1e-5
