"""Models of other kinds, exported and served: released checkpoints, and paper-style ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports with torch: the training extra")

from typer.testing import CliRunner  # noqa: E402

from service.confidence import confidences, decides  # noqa: E402
from service.inference.bundle import Bundle  # noqa: E402
from service.inference.model import Model  # noqa: E402
from service.settings import InferenceSettings  # noqa: E402
from tests.contract.models import TINY, export_tiny, random_rice  # noqa: E402
from tests.training.released_names import randomised, released  # noqa: E402
from training import cli  # noqa: E402
from training.data.transforms import normalise  # noqa: E402
from training.models.encoder import EncoderConfig  # noqa: E402
from training.models.rice import Rice, RiceConfig  # noqa: E402

RELEASED = RiceConfig(
    EncoderConfig(image_size=32, patch_size=16, width=64, layers=2, heads=1, embedding=24),
    matching_heads=4,
)
PAPER_STYLE = replace(
    TINY,
    tokens="projected",
    frame_pooling="mean_of_unit",
    icl_scale="fixed",
    matching_head="linear",
    self_block_from="text",
    reconstruction="plain",
)
SETTINGS = InferenceSettings(threads=1)
TOLERANCE = 1e-4

runner = CliRunner()


def run(*arguments: object) -> None:
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def assert_serves(bundle: Bundle, rice: Rice, size: int) -> None:
    """The service's embeddings and logits are torch's."""
    dice = np.random.default_rng(0)
    pictures = dice.integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    frames = dice.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    model = Model.open(bundle, SETTINGS)
    found, clip = model.encode_pictures(pictures), model.encode_clip(frames)
    with torch.inference_mode():
        encoded = rice.encode_pictures(normalise(torch.from_numpy(pictures)))
        whole = torch.ones(1, 3, rice.config.encoder.patches, dtype=torch.bool)
        mask = torch.ones(1, 3, dtype=torch.bool)
        clips = rice.encode_clips(normalise(torch.from_numpy(frames))[None], mask, whole)
        logits = rice.decoder(encoded.tokens, clips.tokens.expand(4, -1, -1)).logits.numpy()
    matched = model.match(found.match_state, clip)
    scale = max(1.0, np.abs(logits).max())
    assert np.abs(found.embedding - encoded.embedding.numpy()).max() < TOLERANCE
    assert np.abs(clip.embedding - clips.embedding[0].numpy()).max() < TOLERANCE
    assert np.abs(matched - logits).max() < TOLERANCE * scale
    assert np.ptp(logits) > 10 * TOLERANCE * scale, "the pictures are told apart"


def assert_never_decides(bundle: Bundle) -> None:
    """Exported without data, it is not calibrated."""
    assert bundle.manifest.metrics == {"protocol": "none: exported without data"}
    best = confidences(np.array([2.0, -2.0]), bundle.manifest.calibration).max()
    assert 0 < best < 1 and not decides(best, bundle.manifest.calibration)


@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_a_released_checkpoint_is_imported_exported_and_served(head: str, tmp_path: Path) -> None:
    rice = randomised(replace(RELEASED, matching_head=head))
    torch.save(released(rice), tmp_path / "released.pth")
    imported, out = tmp_path / "imported.safetensors", tmp_path / "bundle"
    run("import", tmp_path / "released.pth", "--out", imported, "--head", head)
    run("export", imported, "--out", out, "--name", "rice-imported")
    bundle = Bundle.load(out)
    assert bundle.manifest.dims.match_state == 64
    assert_serves(bundle, rice, size=32)
    assert_never_decides(bundle)


def test_a_paper_style_model_is_exported_and_served(tmp_path: Path) -> None:
    rice = random_rice(PAPER_STYLE)
    bundle = Bundle.load(export_tiny(rice, tmp_path / "bundle"))
    assert bundle.manifest.dims.match_state == bundle.manifest.dims.embedding == 24
    assert_serves(bundle, rice, size=TINY.encoder.image_size)
