"""Rank-k accuracy and mean reciprocal rank of score matrices. Knows nothing of models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.evaluation.calibration import OUT_OF_SHOP

RESAMPLES = 10_000
SURE = 0.95


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1]; every query counts in the denominator."""

    r1: float
    r5: float
    r10: float
    mrr: float

    def __str__(self) -> str:
        return (
            f"R@1 {100 * self.r1:.1f}  R@5 {100 * self.r5:.1f}  R@10 {100 * self.r10:.1f}  "
            f"MRR {100 * self.mrr:.1f}"
        )


def ranks(scores: Tensor, truth: Tensor) -> Tensor:
    """Rank, from 1, of each query's true product: scores [N,P], truth int64 [N] -> float [N].

    Ties count against the query, and so do scores that are no numbers: a constant score is no
    better than the worst. What is OUT_OF_SHOP is found at no rank, however small the shop.
    """
    own = scores.gather(1, truth[:, None])
    rank = (~(scores < own)).sum(dim=1).float()
    return rank.masked_fill(own[:, 0] <= OUT_OF_SHOP, math.inf)


def accuracy(scores: Tensor, truth: Tensor) -> Accuracy:
    rank = ranks(scores, truth)

    def share(k: int) -> float:
        return (rank <= k).float().mean().item()

    return Accuracy(share(1), share(5), share(10), torch.mean(1 / rank).item())


def interval(hits: Tensor) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of the mean of clips' shares of hits [C].

    Clips count as independent, which those of one livestream are only nearly.
    """
    # Few shares differ, and how often each is resampled is multinomial.
    shares, counts = np.unique(hits.numpy(), return_counts=True)
    resampled = np.random.default_rng(0).multinomial(len(hits), counts / len(hits), RESAMPLES)
    low, high = np.quantile(resampled @ shares / len(hits), [(1 - SURE) / 2, (1 + SURE) / 2])
    return float(low), float(high)


def intervals(scores: Tensor, truth: Tensor, clip: Tensor) -> dict[str, tuple[float, float]]:
    """Of R@1, 5 and 10: scores [N,P]; a clip, int64 [N], is resampled with all of its rows."""
    rank, (_, place) = ranks(scores, truth), clip.unique(return_inverse=True)
    rows = place.bincount()

    def of(k: int) -> tuple[float, float]:
        return interval(place.bincount((rank <= k).double()) / rows)

    return {f"r{k}": of(k) for k in (1, 5, 10)}


def rows_of_groups(groups: list[str]) -> dict[str, Tensor]:
    """Int64 [?] of each group's rows; "" is no group."""
    return {
        group: torch.tensor([row for row, other in enumerate(groups) if other == group])
        for group in sorted(set(groups) - {""})
    }
