"""The bundle that is shipped: it opens, it is small, and it is what its manifest says."""

from __future__ import annotations

import numpy as np
import pytest

from service.inference.bundle import Bundle
from service.inference.model import Model
from service.settings import DEFAULT_BUNDLE, InferenceSettings


@pytest.fixture(scope="module")
def model() -> Model:
    """Opening verifies every hash and every golden example."""
    return Model.open(Bundle.load(DEFAULT_BUNDLE), InferenceSettings())


def test_it_stays_under_25_mb() -> None:
    assert sum(f.stat().st_size for f in DEFAULT_BUNDLE.rglob("*") if f.is_file()) < 25_000_000


def test_it_says_how_good_it_is(model: Model) -> None:
    metrics = model.manifest.metrics
    assert metrics["clips"] == 283
    assert metrics["products"] == 81
    assert float(str(metrics["r1"])) >= 0.72


def test_a_picture_matches_a_clip_of_itself_better_than_another(model: Model) -> None:
    size = model.manifest.dims.image_size
    noise = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    pictures = noise.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    features = model.encode_pictures(pictures)
    clip = model.encode_clip(np.stack([pictures[0]] * 3))
    assert clip.embedding @ features.embedding[0] > clip.embedding @ features.embedding[1]
