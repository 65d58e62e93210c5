"""What training measures and calibrates is what the service answers: scores, ranks, confidences."""

from __future__ import annotations

import numpy as np
import pytest

import service.words
from service.confidence import confidences
from service.evidence import evidence
from service.gallery.entries import Candidates, Picture
from service.inference.manifest import Calibration, Fusion, Manifest, TextFusion
from service.recognition import rank
from service.words import overlap

torch = pytest.importorskip("torch", reason="compares with training: the training extra")


def test_what_is_said_weighs_as_much_as_training_found() -> None:
    from training.evaluation.evidence import DOUBTS
    from training.evaluation.fusion import Fusion as Weights
    from training.evaluation.scores import Scores

    generator = torch.Generator().manual_seed(4)
    coarse, match, text = (torch.randn(5, 12, generator=generator).tanh() for _ in range(3))
    text[:, 3:6] = 0  # products without a title
    text[4] = 0  # a clip without speech
    fused = Scores(coarse, match, torch.zeros(5), text=text).fused(Weights(0.07, 0.4, 16.0))
    manifest = Manifest.model_construct(
        fusion=Fusion(
            coarse=1, match=0.07, text=TextFusion(weight=0.4, scale=16.0, doubt=DOUBTS[0])
        ),
        calibration=Calibration(temperature=0.1, none_logit=1.0, threshold=0.5),
    )
    pictures = tuple(Picture(f"{product:02}", None, "picture") for product in range(12))
    for clip in range(5):
        said = text[clip].numpy() if text[clip].any() else None
        candidates = Candidates(
            pictures, coarse[clip].numpy(), np.zeros((12, 4), np.float32), exact=True
        )
        for product in rank(candidates, match[clip].numpy(), manifest, said):
            column = int(product.picture.product_id)
            assert product.score == pytest.approx(float(fused[clip, column]), abs=1e-5)
            assert product.text == (None if said is None else float(text[clip, column]))


def test_words_are_those_that_training_counted() -> None:
    from training.evaluation import words

    titles = ["Red apple juice", "red APPLE juice 1l", "", "蘋果汁 红色", "Blue milk", "Blue milk"]
    for speech in (
        "so the red juice and the milk",
        "红苹果汁",
        "nothing of it",
        "",
        "BLUE \uff4d\uff49\uff4c\uff4b",
    ):
        assert np.array_equal(overlap(speech, titles), words.overlap(speech, titles))
    assert service.words.MOST_CHARACTERS == words.MOST_CHARACTERS
    assert not len(overlap("red", [])) and not len(words.overlap("red", []))


def test_evidence_is_bounded_by_the_doubt_and_none_where_nothing_is_told_apart() -> None:
    cosines = np.array([0.9, 0.1, 0.0, -0.4, 0.1])
    found = evidence(cosines, scale=64.0, doubt=0.2)
    assert found[2] == 0, "no title"
    assert found[0] == pytest.approx(np.log(0.8 * 4 + 0.2)), "of four titles it is the one"
    assert np.allclose(found[[1, 3, 4]], np.log(0.2)), "and no more is held against the others"
    assert np.allclose(evidence(np.full(3, 0.7), scale=64.0, doubt=0.2), 0)
    assert not evidence(np.zeros(3), scale=64.0, doubt=0.2).any()


def test_ranks_and_confidences_are_those_that_training_fitted() -> None:
    from training.evaluation import calibration
    from training.evaluation.fusion import Fusion as Weights
    from training.evaluation.scores import Scores

    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(7, 30, generator=generator)
    match = torch.randn(7, 30, generator=generator)
    fitted = calibration.Calibration(temperature=0.13, none_logit=4.2, threshold=0.4)
    fused = Scores(coarse, match, torch.zeros(7)).fused(Weights(0.07))
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
