"""The losses of RICE on a batch of N clips of P different products.

Names follow the paper: ICL is instance-level contrastive learning, PMD the pairwise matching
decoder, PFR patch feature reconstruction. A clip's positive is the picture of its own product,
`product` int64 [N]; clips of the same product are positives of that picture and never negatives
of it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Contest = Literal["clips", "both"]


def icl_loss(similarity: Tensor, product: Tensor, temperature: Tensor) -> Tensor:
    """Symmetric InfoNCE of cosines [N,P]; logits are s^2 cos (released code).

    With one clip a product this is the paper's loss; with several, the picture's target is
    spread evenly over its clips.
    """
    return _contrast(temperature**2 * similarity, product)


def text_loss(
    similarity: Tensor, product: Tensor, heard: Tensor, named: Tensor, temperature: Tensor
) -> Tensor:
    """Symmetric InfoNCE of speech against titles, cosines [N,P]; logits are s^2 cos.

    Of clips with speech, `heard` bool [N], and products with a title, `named` bool [P]; 0 where
    there is no pair of both.
    """
    rows = heard & named[product]
    if not rows.any():
        return 0.0 * (temperature + similarity.sum())
    logits = (temperature**2 * similarity[rows]).masked_fill(~named, float("-inf"))
    return _contrast(logits, product[rows])


def _contrast(logits: Tensor, product: Tensor) -> Tensor:
    """Symmetric cross-entropy of logits [N,P] whose positives are `product` [N], a scalar."""
    own = F.one_hot(product, logits.shape[1]).to(logits.dtype)
    shown = own.sum(dim=0) > 0  # what no row is of has no positive
    spread = (own / own.sum(dim=0).clamp(min=1)).T
    there = F.cross_entropy(logits, product)
    back = F.cross_entropy(logits.T[shown], spread[shown])
    return (there + back) / 2


def pmd_loss(
    logits: Tensor, similarity: Tensor, product: Tensor, negatives: int, contest: Contest
) -> Tensor:
    """Cross-entropy of each positive, first, against its hardest negatives.

    `logits` [N,P] of the matching decoder; the hardest are the most similar by the cosine
    `similarity` [N,P], which only chooses and so gets no gradient. A contest of `clips` for a
    picture is what the paper trains; `both` adds that of pictures for a clip, as the service
    ranks. Clips of the picture's own product never contest (in the released code they do).
    """
    own = F.one_hot(product, logits.shape[1]).bool()
    clip = torch.arange(len(product), device=product.device)
    positive = logits[clip, product]
    among_clips = _positive_first(
        logits.T[product], similarity.T[product], own.T[product], positive, negatives
    )
    if contest == "clips":
        return among_clips
    return (_positive_first(logits, similarity, own, positive, negatives) + among_clips) / 2


def pfr_loss(reconstruction: Tensor, picture_tokens: Tensor) -> Tensor:
    """Mean squared error of reconstructed tokens [N,R,D] against the pictures' [N,T,D].

    The last R of a picture's tokens are meant: all, or the patches without the class token. They
    are a target and so get no gradient.
    """
    target = picture_tokens[:, -reconstruction.shape[1] :].detach()
    return F.mse_loss(reconstruction.float(), target.float())


def _positive_first(
    logits: Tensor, similarity: Tensor, excluded: Tensor, positive: Tensor, negatives: int
) -> Tensor:
    """Rows of candidates [N,M], of which `excluded` are never negatives; positives [N]."""
    candidates = similarity.masked_fill(excluded, float("-inf"))
    hardest = candidates.topk(min(negatives, candidates.shape[1]), dim=1)
    negative = logits.gather(1, hardest.indices)
    negative = negative.masked_fill(hardest.values == float("-inf"), float("-inf"))
    ways = torch.cat([positive[:, None], negative], dim=1)
    return F.cross_entropy(ways, ways.new_zeros(len(ways), dtype=torch.long))
