"""A bundle with a detector: the service finds torch's boxes, drops the patches outside them, and
comes to the scores that masking them gives; or it looks closer, at torch's views."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="exports with torch: the training extra")

from jsonschema import Draft202012Validator  # noqa: E402

from service.errors import BundleError  # noqa: E402
from service.inference.bundle import Bundle  # noqa: E402
from service.inference.features import ClipFeatures  # noqa: E402
from service.inference.model import Model  # noqa: E402
from service.settings import InferenceSettings  # noqa: E402
from tests.contract.bundles import copy_of, edit_json, read_manifest, sign  # noqa: E402
from tests.contract.models import (  # noqa: E402
    TINY,
    export_tiny,
    tiny_detector,
    tiny_rice,
)
from training.data.transforms import normalise  # noqa: E402
from training.evaluation.scorers import BundleScorer, TorchScorer  # noqa: E402
from training.export.errors import ExportError  # noqa: E402
from training.export.wrappers import Detector  # noqa: E402
from training.models.detector import ClipDetector, DetectorConfig, best_of_frame  # noqa: E402
from training.models.intended_product import patch_mask  # noqa: E402
from training.models.looking import taking_part  # noqa: E402

SETTINGS = InferenceSettings(threads=1)
SIZE, PATCHES = TINY.encoder.image_size, TINY.encoder.patches
TOLERANCE = 1e-4

rice, detector = tiny_rice(), tiny_detector()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(rice, tmp_path_factory.mktemp("finds") / "bundle", detector=detector)


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return Model.open(Bundle.load(path), SETTINGS)


@pytest.fixture(scope="module")
def closer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("closer") / "bundle"
    return export_tiny(rice, folder, detector=tiny_detector(closer=True))


@pytest.fixture(scope="module")
def closer(closer_path: Path) -> Model:
    return Model.open(Bundle.load(closer_path), SETTINGS)


def drawn(count: int, seed: int, size: int = SIZE) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def masks(frames: int, share: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    kept = np.random.default_rng(seed).random((frames, PATCHES)) < share
    kept[:, 0] = True
    return kept


def masked(frames: npt.NDArray[np.uint8], kept: npt.NDArray[np.bool_]) -> ClipFeatures:
    """What torch gives when the patches are masked and none is dropped."""
    with torch.inference_mode():
        whole = torch.ones(1, len(frames), dtype=torch.bool)
        pixels = normalise(torch.from_numpy(frames))[None]
        clips = rice.encode_clips(pixels, whole, torch.from_numpy(kept)[None])
        keys, values = rice.decoder.keys_values(clips.tokens)
    return ClipFeatures(
        clips.embedding[0].numpy(), keys[0].numpy(), values[0].numpy(), clips.token_mask[0].numpy()
    )


def test_the_manifest_keeps_the_contract(path: Path) -> None:
    schema = json.loads((Path(__file__).parent / "manifest.schema.json").read_text())
    assert Draft202012Validator(schema).is_valid(read_manifest(path))


@pytest.mark.parametrize("count", [1, 3, TINY.frames])
def test_boxes_are_torchs(model: Model, count: int) -> None:
    frames = drawn(count, seed=count)
    found = model.detect(frames)
    assert found is not None
    with torch.inference_mode():
        mask = torch.ones(1, count, dtype=torch.bool)
        looked = detector.looking(TINY.encoder)(torch.from_numpy(frames)[None], mask)
    assert np.abs(found.boxes - looked.boxes[0].numpy()).max() < TOLERANCE
    assert np.abs(found.scores - looked.scores[0].numpy()).max() < TOLERANCE
    assert found.found.tolist() == looked.found[0].tolist()
    assert (found.patch_mask == looked.patch_mask[0].numpy()).all()
    assert (found.pixels == frames).all() and (found.views == [0, 0, 1, 1]).all()


def test_frames_without_a_product_are_looked_at_whole(model: Model) -> None:
    found = model.detect(drawn(TINY.frames, seed=5))
    assert found is not None
    assert 0 < found.found.sum() < TINY.frames, "the test has both kinds"
    assert found.patch_mask[~found.found].all()
    assert not found.patch_mask[found.found].all()
    boxes = torch.from_numpy(found.boxes[found.found])[:, None]
    expected = patch_mask(boxes, SIZE // TINY.encoder.patch_size).numpy()
    assert (found.patch_mask[found.found] == expected).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_dropped_patches_score_as_masked_ones(model: Model, share: float) -> None:
    frames, kept = drawn(4, seed=1), masks(4, share)
    states = model.encode_pictures(drawn(5, seed=2)).match_state
    dropped, expected = model.encode_clip(frames, patch_mask=kept), masked(frames, kept)
    assert np.abs(dropped.embedding - expected.embedding).max() < TOLERANCE
    logits, reference = model.match(states, dropped), model.match(states, expected)
    assert np.abs(logits - reference).max() < TOLERANCE * max(1.0, np.abs(reference).max())
    assert len(dropped.keys) == 4 + kept.sum(), "the class tokens and the patches kept"
    whole = model.match(states, model.encode_clip(frames))
    assert share == 1.0 or np.abs(whole - reference).max() > 10 * TOLERANCE, "masks matter"


def test_clips_run_together_as_alone(model: Model) -> None:
    """One is padded, and the other keeps more patches."""
    clips = [(drawn(2, seed=3), masks(2, 0.2)), (drawn(5, seed=4), masks(5, 0.9))]
    from service.inference.tensors import Clip

    together = model._encode_clips([Clip(frames, None, kept) for frames, kept in clips])
    for (frames, kept), found in zip(clips, together, strict=True):
        alone = model.encode_clip(frames, patch_mask=kept)
        assert found.keys.shape == alone.keys.shape
        assert np.abs(found.embedding - alone.embedding).max() < TOLERANCE
        assert np.abs(found.keys - alone.keys).max() < 10 * TOLERANCE
    boxes = model._detect([frames for frames, _ in clips])
    for (frames, _), found_boxes in zip(clips, boxes, strict=True):
        expected = model.detect(frames)
        assert expected is not None
        assert np.abs(found_boxes.boxes - expected.boxes).max() < TOLERANCE


def test_an_explanation_lies_on_the_patches_that_took_part(model: Model) -> None:
    frames, kept = drawn(3, seed=6), masks(3, 0.4)
    attention = model.explain(drawn(1, seed=7)[0], model.encode_clip(frames, patch_mask=kept))
    assert attention.shape == (1 + PATCHES, 3 * (1 + PATCHES))
    on_patches = attention.reshape(1 + PATCHES, 3, 1 + PATCHES)[..., 1:]
    assert (on_patches[:, ~kept] == 0).all() and (on_patches[:, kept] > 0).all()
    assert np.abs(attention.sum(axis=1) - 1).max() < 1e-4
    whole = model.explain(drawn(1, seed=7)[0], model.encode_clip(frames))
    assert whole.shape == attention.shape and (whole > 0).all()


def test_a_bundle_without_a_detector_finds_nothing(tiny_bundle: Path) -> None:
    plain = Model.open(Bundle.load(tiny_bundle), SETTINGS)
    assert plain.detect(drawn(2, seed=0)) is None
    frames, kept = drawn(4, seed=1), masks(4, 0.5)
    found, expected = plain.encode_clip(frames, patch_mask=kept), masked(frames, kept)
    assert np.abs(found.embedding - expected.embedding).max() < TOLERANCE


@pytest.mark.parametrize("lost", ["boxes", "scores"])
def test_golden_boxes_are_asked_for(path: Path, tmp_path: Path, lost: str) -> None:
    bundle = copy_of(path, tmp_path)
    edit_json(bundle / "golden.json", lambda golden: golden["clip"].pop(lost))
    sign(bundle)
    with pytest.raises(BundleError, match="boxes where the bundle has no detector"):
        Model.open(Bundle.load(bundle), SETTINGS)


def test_other_boxes_than_the_golden_ones_are_refused(path: Path, tmp_path: Path) -> None:
    bundle = copy_of(path, tmp_path)

    def move(golden: dict[str, dict[str, list[list[float]]]]) -> None:
        golden["clip"]["boxes"][0][0] += 0.05

    edit_json(bundle / "golden.json", move)
    sign(bundle)
    with pytest.raises(BundleError, match="the clip's boxes: differs"):
        Model.open(Bundle.load(bundle), SETTINGS)


def test_a_detector_sees_frames_in_its_own_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    larger = ClipDetector(DetectorConfig(image_size=48, patch_size=8, width=32, heads=2)).eval()
    other = export_tiny(rice, tmp_path / "out", detector=Detector(larger, 0.0, closer=False))
    frames = drawn(3, seed=2)
    found = Model.open(Bundle.load(other), SETTINGS).detect(frames)
    assert found is not None
    with torch.inference_mode():
        pixels = normalise(torch.from_numpy(frames))[None]
        expected, _ = best_of_frame(larger(pixels, torch.ones(1, 3, dtype=torch.bool)))
    np.testing.assert_allclose(found.boxes, expected[0].numpy(), rtol=0, atol=1e-4)


def test_a_detector_of_other_frames_is_not_exported(tmp_path: Path) -> None:
    config = DetectorConfig(image_size=SIZE, patch_size=8, width=32, heads=2, frames=2)
    with pytest.raises(ExportError, match="the detector sees 2 frames"):
        export_tiny(
            rice, tmp_path / "out", detector=Detector(ClipDetector(config), 0.5, closer=False)
        )
    with pytest.raises(ExportError, match="threshold"):
        export_tiny(rice, tmp_path / "out", detector=detector._replace(threshold=1.5))
    assert not (tmp_path / "out").exists()


def test_another_threshold_is_another_bundle(path: Path, tmp_path: Path) -> None:
    other = export_tiny(rice, tmp_path / "other", detector=detector._replace(threshold=0.9))
    assert read_manifest(other)["bundle_id"] != read_manifest(path)["bundle_id"]


def test_frames_that_are_looked_at_closer_are_larger(
    closer: Model, closer_path: Path, tmp_path: Path
) -> None:
    schema = json.loads((Path(__file__).parent / "manifest.schema.json").read_text())
    assert Draft202012Validator(schema).is_valid(read_manifest(closer_path))
    assert closer.frame_size(detect=True) == 2 * SIZE
    assert closer.frame_size(detect=False) == SIZE
    with pytest.raises(ValueError, match=f"frames must be uint8 .*{2 * SIZE}"):
        closer.detect(drawn(2, seed=0))
    plain = copy_of(export_tiny(rice, tmp_path / "plain"), tmp_path)
    edit_json(plain / "manifest.json", lambda manifest: manifest["dims"].update(frame_size=64))
    sign(plain)
    with pytest.raises(BundleError, match="where no detector looks at them"):
        Bundle.load(plain)


@pytest.mark.parametrize("count", [1, TINY.frames])
def test_closer_views_are_torchs(closer: Model, count: int) -> None:
    frames = drawn(count, seed=count, size=2 * SIZE)
    found = closer.detect(frames)
    assert found is not None
    with torch.inference_mode():
        mask = torch.ones(1, count, dtype=torch.bool)
        looking = tiny_detector(closer=True).looking(TINY.encoder)
        looked = looking(torch.from_numpy(frames)[None], mask)
    assert found.pixels.shape == (count, SIZE, SIZE, 3) and found.pixels.dtype == np.uint8
    assert np.abs(found.views - looked.views[0].numpy()).max() < TOLERANCE
    assert np.abs(found.pixels.astype(int) - looked.pixels[0].numpy()).max() <= 1
    assert found.patch_mask.all()


def test_the_service_leaves_out_the_frames_that_torch_leaves_out(closer: Model) -> None:
    found = closer.detect(drawn(TINY.frames, seed=5, size=2 * SIZE))
    assert found is not None
    rng, seen = np.random.default_rng(0), set()
    for _ in range(50):
        is_found = rng.random(5, np.float32) >= rng.random(dtype=np.float32)
        shown = replace(found, found=is_found).shown
        expected = taking_part(torch.from_numpy(is_found))
        assert shown.tolist() == expected.tolist()
        seen |= {(bool(is_found.any()), bool(shown.all()))}
    assert seen == {(True, True), (True, False), (False, True)}


def test_both_scorers_look_closer_as_the_service_does(closer: Model, closer_path: Path) -> None:
    frames, pictures = drawn(TINY.frames, seed=5, size=2 * SIZE), drawn(6, seed=9)
    found = closer.detect(frames)
    assert found is not None and 0 < found.found.sum() < TINY.frames, "the test has both kinds"
    encoded = closer.encode_pictures(pictures)
    clip = closer.encode_clip(found.pixels[found.shown], patch_mask=found.patch_mask[found.shown])
    expected = closer.match(encoded.match_state, clip)
    looking = tiny_detector(closer=True).looking(TINY.encoder)
    for scorer in (TorchScorer(rice, looking=looking), BundleScorer(closer_path)):
        assert scorer.frame_size == 2 * SIZE
        with torch.inference_mode():
            shop = scorer.products(torch.from_numpy(pictures))
            [compared] = scorer.compare(shop, torch.from_numpy(frames))
        assert np.abs(compared.coarse.numpy() - encoded.embedding @ clip.embedding).max() < 1e-3
        assert np.abs(compared.match.numpy() - expected).max() < 1e-2
