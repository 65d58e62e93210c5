"""From scores to an honest answer: how sure, and whether to answer at all.

Knows the calibration of the bundle and nothing else. "None of these" stands among the candidates
with a score of its own, so that confidences add up to less than one.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Calibration(Protocol):
    """The part of the manifest this needs; fitted where the model was trained."""

    @property
    def temperature(self) -> float: ...

    @property
    def none_logit(self) -> float: ...

    @property
    def threshold(self) -> float: ...


def confidences(scores: NDArray[np.float64], calibration: Calibration) -> NDArray[np.float64]:
    """Each product's probability of being the one shown.

    exp(s_i / T) / (sum_j exp(s_j / T) + exp(none_logit)), for scores [P] of finite numbers.
    """
    scaled = scores / calibration.temperature
    highest = max(float(scaled.max(initial=-np.inf)), calibration.none_logit)
    weights: NDArray[np.float64] = np.exp(scaled - highest)
    total = float(weights.sum()) + float(np.exp(calibration.none_logit - highest))
    return weights / total


def decides(confidence: float, calibration: Calibration) -> bool:
    """Whether the best product's confidence is enough to name it."""
    return confidence >= calibration.threshold
