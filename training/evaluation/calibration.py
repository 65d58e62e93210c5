"""Turns scores into confidences that mean something, with room for "none of these".

The confidence of product i among a shop's scores s is exp(s_i/T) / (sum_j exp(s_j/T) + exp(n)):
a softmax with one more class, "none". T and n are fitted by maximum likelihood on clips whose
product is in the shop, and on the same clips with their product taken out of it, weighted as
ABSENT_SHARE says: confidences are right on average where that is the share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

OUT_OF_SHOP = -1e6  # a score no softmax sees, yet one that can be divided and differentiated
ABSENT_SHARE = 0.2  # of clips are taken to show nothing of the shop
COLDEST = 1e-3  # scores that separate all clips would have T fall to 0 and confidences be 0 or 1
CONFIDENCE_EDGES = tuple(round(0.05 * step, 2) for step in range(1, 21))
THRESHOLD = 0.5  # a product is answered when it is more likely right than not


@dataclass(frozen=True)
class Calibration:
    temperature: float
    none_logit: float
    threshold: float = THRESHOLD


UNFITTED = Calibration(temperature=1.0, none_logit=0.0, threshold=1.0)  # nothing is sure enough


def confidences(scores: Tensor, calibration: Calibration) -> Tensor:
    """Scores [N,P] -> confidences [N,P]; a row sums to less than 1, the rest is "none"."""
    none = scores.new_full((len(scores), 1), calibration.none_logit)
    return torch.cat([scores / calibration.temperature, none], dim=1).softmax(dim=1)[:, :-1]


def fit_calibration(scores: Tensor, truth: Tensor) -> Calibration:
    """Scores [N,P] of clips against the whole shop, truth int64 [N].

    Clips whose right answer is OUT_OF_SHOP, because of it or of them nothing could be read, take no
    part; UNFITTED where none is left.
    """
    found = scores.gather(1, truth[:, None])[:, 0] > OUT_OF_SHOP
    scores, truth = scores[found], truth[found]
    if not len(truth):
        return UNFITTED
    absent = scores.scatter(1, truth[:, None], OUT_OF_SHOP)
    both = torch.cat([scores, absent]).double()
    target = torch.cat([truth, torch.full_like(truth, scores.shape[1])])  # the last class is "none"
    share = torch.tensor([1 - ABSENT_SHARE, ABSENT_SHARE]).repeat_interleave(len(truth))
    log_temperature = torch.tensor(-2.0, dtype=torch.double, requires_grad=True)
    none_score = scores.max(dim=1).values.median().double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [log_temperature, none_score], max_iter=200, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        none = none_score.expand(len(both), 1)
        logits = torch.cat([both, none], dim=1) / log_temperature.exp().clamp(min=COLDEST)
        loss = (share * F.cross_entropy(logits, target, reduction="none")).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    temperature = log_temperature.exp().clamp(min=COLDEST).item()
    return Calibration(temperature, none_score.item() / temperature)


def confidence_shares(scores: Tensor, calibration: Calibration) -> dict[str, float]:
    """Share of clips, scores [N,P], whose best confidence is at most each of CONFIDENCE_EDGES.

    The distribution that a service compares its own with, to tell drift.
    """
    best = confidences(scores, calibration).max(dim=1).values
    return {str(edge): round((best <= edge).float().mean().item(), 4) for edge in CONFIDENCE_EDGES}
