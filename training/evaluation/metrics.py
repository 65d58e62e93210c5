"""Rank-k accuracy and mean reciprocal rank of score matrices. Knows nothing of models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
    """Rank, from 1, of each query's true product: scores [N,P], truth int64 [N] -> int64 [N].

    Ties count against the query, and so do scores that are no numbers: a constant score is no
    better than the worst.
    """
    own = scores.gather(1, truth[:, None])
    return (~(scores < own)).sum(dim=1)


def accuracy(scores: Tensor, truth: Tensor) -> Accuracy:
    rank = ranks(scores, truth)

    def share(k: int) -> float:
        return (rank <= k).float().mean().item()

    return Accuracy(share(1), share(5), share(10), torch.mean(1 / rank).item())
