from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from service.confidence import confidences, decides


def calibration(temperature: float = 0.5, none_logit: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(temperature=temperature, none_logit=none_logit, threshold=0.5)


def test_it_is_the_formula_of_the_manifest() -> None:
    scores = np.array([0.7, 0.2])
    weights = np.exp(scores / 0.5)
    expected = weights / (weights.sum() + np.exp(1.0))
    np.testing.assert_allclose(confidences(scores, calibration()), expected)


def test_none_of_these_takes_what_is_missing_from_one() -> None:
    alone = confidences(np.array([0.5]), calibration(none_logit=1.0))
    assert alone == pytest.approx([0.5])


@pytest.mark.parametrize("scores", [[1e6, 0.0], [-1e6, -2e6]])
def test_extreme_scores_stay_probabilities(scores: list[float]) -> None:
    sure = confidences(np.array(scores), calibration(temperature=1e-3))
    assert np.isfinite(sure).all()
    assert sure[0] == pytest.approx(1.0 if scores[0] > 0 else 0.0)


def test_no_products_is_no_error() -> None:
    assert confidences(np.array([]), calibration()).shape == (0,)


def test_the_threshold_itself_is_enough() -> None:
    assert decides(0.5, calibration())
    assert not decides(0.4999, calibration())
