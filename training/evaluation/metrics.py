"""Rank-k accuracy and mean reciprocal rank of score matrices. Knows nothing of models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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


def interval(share: float, queries: int) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of a share of hits among so many queries.

    Resampling queries with replacement makes their number of hits binomial, so that is drawn.
    Queries count as independent, which those of one livestream are only nearly.
    """
    hits = np.random.default_rng(0).binomial(queries, share, RESAMPLES) / queries
    low, high = np.quantile(hits, [(1 - SURE) / 2, (1 + SURE) / 2])
    return float(low), float(high)


def intervals(accuracy: Accuracy, queries: int) -> dict[str, tuple[float, float]]:
    """Of R@1, 5 and 10."""
    return {name: interval(getattr(accuracy, name), queries) for name in ("r1", "r5", "r10")}


def by_group(scores: Tensor, truth: Tensor, groups: list[str]) -> dict[str, tuple[int, Accuracy]]:
    """Number of queries and accuracy of each group; scores [N,P], `groups` [N], "" for none."""
    found = {}
    for group in sorted(set(groups) - {""}):
        rows = torch.tensor([row for row, other in enumerate(groups) if other == group])
        found[group] = (len(rows), accuracy(scores[rows], truth[rows]))
    return found
