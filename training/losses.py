"""The losses of RICE on a batch of N clips of P different products.

Names follow the paper: ICL is instance-level contrastive learning, PMD the pairwise matching
decoder. A clip's positive is the picture of its own product, `product` int64 [N]; clips of the
same product are positives of that picture and never negatives of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def icl_loss(similarity: Tensor, product: Tensor, temperature: Tensor) -> Tensor:
    """Symmetric InfoNCE of cosines [N,P]; logits are s^2 cos (released code).

    With one clip a product this is the paper's loss; with several, the picture's target is
    spread evenly over its clips.
    """
    logits = temperature**2 * similarity
    own = F.one_hot(product, similarity.shape[1]).to(logits.dtype)
    pictures = own.sum(dim=0) > 0  # a picture without a clip has no positive
    spread = (own / own.sum(dim=0).clamp(min=1)).T
    clip_to_picture = F.cross_entropy(logits, product)
    picture_to_clip = F.cross_entropy(logits.T[pictures], spread[pictures])
    return (clip_to_picture + picture_to_clip) / 2


def pmd_loss(logits: Tensor, similarity: Tensor, product: Tensor, negatives: int) -> Tensor:
    """Cross-entropy of each positive, first, against its hardest negatives.

    `logits` [N,P] of the matching decoder; the hardest are the most similar by the cosine
    `similarity` [N,P], which only chooses and so gets no gradient. Both directions: a clip among
    pictures, as the service ranks, and a picture among clips, as the paper trains.
    """
    own = F.one_hot(product, logits.shape[1]).bool()
    clip = torch.arange(len(product), device=product.device)
    positive = logits[clip, product]
    clip_side = _positive_first(logits, similarity, own, positive, negatives)
    picture_side = _positive_first(
        logits.T[product], similarity.T[product], own.T[product], positive, negatives
    )
    return (clip_side + picture_side) / 2


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
