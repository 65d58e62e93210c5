"""What training measures and calibrates is what the service answers: scores, ranks, confidences."""

from __future__ import annotations

import numpy as np
import pytest

from service.confidence import confidences
from service.gallery.entries import Candidates, Picture
from service.inference.manifest import Calibration, Fusion, Manifest
from service.recognition import rank

torch = pytest.importorskip("torch", reason="compares with training: the training extra")


def test_ranks_and_confidences_are_those_that_training_fitted() -> None:
    from training.evaluation import calibration, protocol

    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(7, 30, generator=generator)
    match = torch.randn(7, 30, generator=generator)
    fitted = calibration.Calibration(temperature=0.13, none_logit=4.2, threshold=0.4)
    fused = protocol.Scores(coarse, match, torch.zeros(7)).fused(match_weight=0.07)
    expected = calibration.confidences(fused, fitted).numpy()
    manifest = Manifest.model_construct(
        fusion=Fusion(coarse=1.0, match=0.07), calibration=Calibration(**vars(fitted))
    )
    for clip in range(7):
        candidates = Candidates(
            tuple(Picture(f"{product:02}", None, "picture") for product in range(30)),
            coarse[clip].numpy(),
            np.zeros((30, 4), np.float32),
            exact=True,
        )
        ranked = rank(candidates, match[clip].numpy(), manifest)
        order = [int(product.picture.product_id) for product in ranked]
        assert order == np.argsort(-expected[clip]).tolist()
        np.testing.assert_allclose(
            [product.confidence for product in ranked], expected[clip][order], rtol=1e-5
        )
    held = confidences(fused[0].numpy().astype(float), manifest.calibration)
    np.testing.assert_allclose(held, expected[0], rtol=1e-5)
