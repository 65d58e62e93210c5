"""What speech says for each product of a shop, with the doubt whether it is about the right one.

A cosine that weighs enough to find a product by its name also finds a wrong one when the words are
wrong. So speech is taken as a witness who is right with a known probability: with q the softmax
over the shop's titles of scale x cosine, and doubt w the probability that speech is of any product
but the clip's, a product's evidence is log((1-w) n q + w). It is 0 for one that is said as much as
others are, at least log w for one that is not meant, and tells apart only what is said apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALES = (8.0, 16.0, 32.0, 64.0)  # that fusion may have
DOUBTS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95)  # the same


def evidence(text: Tensor, scale: float, doubt: float) -> Tensor:
    """Cosines [N,P] of N clips' speech and P titles, or sums of them, 0 where one of them is
    missing, less than -1 out of the shop -> [N,P]; 0 where there is no cosine. `scale` is of the
    cosines, `doubt` how likely the speech is of something else."""
    titled = (text != 0) & (text >= -1.5)
    share = (scale * text).masked_fill(~titled, float("-inf")).softmax(dim=1)
    said = (1 - doubt) * titled.sum(dim=1, keepdim=True) * share + doubt
    return torch.where(titled, said.log(), 0.0)
