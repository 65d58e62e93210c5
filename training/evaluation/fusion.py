"""How the parts of a score weigh together, as a run chooses it and a manifest tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from training.evaluation.evidence import DOUBTS, SCALES


class Fusion(NamedTuple):
    """Weights of the parts of a score; the coarse one's is 1."""

    match: float
    text: float = 0.0
    scale: float = SCALES[0]  # of cosines in text's evidence
    doubt: float = DOUBTS[0]  # of it


def fusion_of(told: Mapping[str, Any]) -> Fusion:
    """As a manifest tells it. Raises KeyError, TypeError and ValueError."""
    match, text = float(told["match"]), told.get("text")
    if text is None:
        return Fusion(match)
    return Fusion(match, *(float(text[name]) for name in ("weight", "scale", "doubt")))
