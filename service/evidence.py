"""What speech says for each candidate, with the bundle's doubt whether it is about the right one.

Knows how near titles are to what is said, and nothing of clips and scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def evidence(cosines: NDArray[np.float64], scale: float, doubt: float) -> NDArray[np.float64]:
    """Cosines [K], or sums of them, 0 where there is no title -> [K], 0 there.

    log((1 - doubt) n q + doubt), with q the softmax of scale x cosine over the n candidates that
    have a title: what a witness says who, with probability `doubt`, speaks of any of them.
    """
    titled = cosines != 0
    found = np.zeros(len(cosines))
    if titled.any():
        scaled = scale * cosines[titled]
        weights = np.exp(scaled - scaled.max())
        share = weights / weights.sum()
        found[titled] = np.log((1 - doubt) * len(share) * share + doubt)
    return found
