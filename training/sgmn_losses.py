"""The losses that SGMN has and RICE has not, on a batch of N clips of P different products.

`product` int64 [N] is each clip's row among the pictures, its positive; clips of one product are
never each other's negatives. The pairwise cross-entropy is PMD's (`training.losses.pmd_loss`: the
positive is column 0), over negatives mined by `multi_modal`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.models.sgmn.instance_graph import Nodes, distances

MARGIN = 0.2
RELATION_SCALE = 10.0  # of the cosines whose softmax is a node's relations
# Distance-weighted sampling (Wu et al., 2017, "Sampling matters in deep embedding learning"):
NEAREST, FARTHEST = 0.5, 1.4  # closer counts as this; farther has no loss to speak of


def multi_modal(visual: Tensor, text: Tensor, text_weight: float) -> Tensor:
    """Cosines [N,P] -> the score that ranks at test and chooses hard examples in training."""
    return visual + text_weight * text


def triplet_loss(nodes: Nodes, product: Tensor) -> Tensor:
    """Each clip's picture must be nearer than other pictures by the margin, and the other way.

    Negatives weigh as distance-weighted sampling would draw them: this is the mean over all its
    draws, the same on every process.
    """
    distance = distances(*nodes)
    own = F.one_hot(product, len(nodes.pictures)).bool()
    positive = distance.gather(1, product[:, None])
    width = nodes.clips.shape[1]
    for_clips = _hinges(positive, distance, own, width)
    for_pictures = _hinges(positive, distance.T[product], own.T[product], width)
    return (for_clips + for_pictures) / 2


def presence_loss(shown: Tensor, boxes: Tensor, told: Tensor) -> Tensor:
    """Whether frames show the product: logits [N,F] against annotated boxes [N,F,K,4], all zeros
    where there is none; bool [N,F], frames of which somebody has told. A scalar, their mean."""
    there = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1).any(dim=-1)
    each = F.binary_cross_entropy_with_logits(shown, there.float(), reduction="none")
    return (each * told).sum() / told.sum().clamp(min=1)


def graph_triplet_loss(before: Nodes, after: Nodes, product: Tensor) -> Tensor:
    """Triplets of nodes before the instance graph with nodes after it."""
    first = triplet_loss(Nodes(before.clips, after.pictures), product)
    return (first + triplet_loss(Nodes(after.clips, before.pictures), product)) / 2


def relation_loss(before: Nodes, after: Nodes) -> Tensor:
    """KL divergence of how nodes relate across the views, before the graph from after it.

    The graph teaches: what is after it gets no gradient here.
    """
    student, teacher = (
        RELATION_SCALE * nodes.clips @ nodes.pictures.T for nodes in (before, after)
    )
    return (_divergence(student, teacher) + _divergence(student.T, teacher.T)) / 2


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    target = teacher.detach().log_softmax(dim=1)
    return F.kl_div(student.log_softmax(dim=1), target, reduction="batchmean", log_target=True)


def _hinges(positive: Tensor, negative: Tensor, excluded: Tensor, width: int) -> Tensor:
    """Distances [N,1] and [N,M] -> the weighted mean of the hinges, a scalar."""
    hinge = (positive - negative + MARGIN).clamp(min=0)
    return (distance_weights(negative, excluded, width) * hinge).sum(dim=1).mean()


@torch.no_grad()
def distance_weights(distance: Tensor, excluded: Tensor, width: int) -> Tensor:
    """Distances [N,M] on the unit sphere of `width` dimensions -> [N,M], rows sum to 1.

    Inversely to how often a distance occurs by chance, so that hard, middling and easy negatives
    are drawn alike. All alike where none is near; zero where all are excluded.
    """
    near = distance.clamp(NEAREST, FARTHEST)
    by_chance = (width - 2) * near.log() + (width - 3) / 2 * (1 - near**2 / 4).log()
    drawn = ~excluded & (distance < FARTHEST)
    drawn |= ~excluded & ~drawn.any(dim=1, keepdim=True)
    weight = (-by_chance).masked_fill(~drawn, float("-inf")).softmax(dim=1)
    return weight.nan_to_num(0.0)
