"""The loss of detectors: bipartite matching of queries with boxes, as RT-DETR does it.

Costs and losses are those of RT-DETR (Zhao et al., 2024), with the constants of `transformers`: L1,
generalised IoU, and a varifocal classification whose target is the IoU, so that scores also tell
how well a box fits. Its code compares each query of a batch with each box of all other frames;
here a frame's are compared with its own. Every stage of the detector is matched and judged alone.

Tokens are many: a box is matched with several of them (H-DETR: Jia et al., 2023), from which
convolutions learn in fewer steps; in the decoder with one, so that no box is given twice. Over a
clip few queries are judged, and the score is to tell where nothing is shown: there none is weighed
down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import RTDetrConfig

from training.data.batches import Batch
from training.distributed import gather
from training.models.detector import ClipDetector, Detections, centred

TOKENS_A_BOX = 4
CONSTANTS = RTDetrConfig()
LOSSES = ("score", "box", "giou")


class DetectionObjective(nn.Module):
    """`detection_loss` of a batch's annotated frames."""

    def __init__(self, model: ClipDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        told = batch.annotated[batch.frame_mask]
        boxes = batch.boxes[batch.frame_mask][told]
        tokens, *decoded = (
            Detections(*(value[told] for value in stage))
            for stage in self.model.stages(batch.frames, batch.frame_mask)
        )
        parts = []
        if self.model.temporal is not None:
            parts.append(detection_loss([decoded.pop()], boxes, focal=False))
        if tokens.logits.requires_grad:  # else what looks at single frames is frozen
            parts.append(detection_loss(decoded, boxes))
            parts.append(detection_loss([tokens], boxes, copies=TOKENS_A_BOX))
        return {name: torch.stack([p[name] for p in parts]).sum() for name in LOSSES}


def detection_loss(
    stages: Sequence[Detections], boxes: Tensor, *, copies: int = 1, focal: bool = True
) -> dict[str, Tensor]:
    """Stages of M frames, [M,Q] each, against the intended product's boxes, float [M,K,4] (left,
    top, right, bottom, all zeros: none) -> `score`, `box` and `giou`, each the sum over stages, and
    a mean over the boxes of all processes' frames.

    Each box is matched with `copies` queries. `focal`: a query that is matched with none counts the
    less, the lower its score is; else scores are plain probabilities.
    """
    boxes = boxes.repeat_interleave(copies, dim=1)
    there = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    judged = [
        _stage_loss(Detections(*(value.float() for value in stage)), boxes, there, focal=focal)
        for stage in stages
    ]
    sums = torch.stack([torch.stack(losses) for losses in judged]).sum(dim=0)  # [3]
    *every, count = gather(torch.cat([sums, there.sum()[None]])[None]).sum(dim=0)
    return {name: loss / count.clamp(min=1) for name, loss in zip(LOSSES, every, strict=True)}


class _Matched(NamedTuple):
    """Pairs of a query and a box, int64 [N]."""

    frame: Tensor
    query: Tensor
    box: Tensor


def _stage_loss(
    stage: Detections, boxes: Tensor, there: Tensor, *, focal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the boxes that are there, bool [M,K]: of the score, the boxes by L1, and the boxes
    by generalised IoU."""
    truth = centred(boxes)
    pairs = _match(stage, truth, there)
    wanted = truth[pairs.frame, pairs.box]
    given = stage.boxes[pairs.frame, pairs.query]
    overlap, generalised = ious(given, wanted)
    score = _score_loss(stage.logits, pairs, overlap.detach(), focal=focal).sum()
    box = (given - wanted).abs().sum()
    giou = (1 - generalised).sum()
    return (
        CONSTANTS.weight_loss_vfl * score,
        CONSTANTS.weight_loss_bbox * box,
        CONSTANTS.weight_loss_giou * giou,
    )


@torch.no_grad()
def _match(stage: Detections, truth: Tensor, there: Tensor) -> _Matched:
    """The cheapest pairs of each frame's queries [M,Q] with those of its boxes [M,K,4] that are
    there, bool [M,K]."""
    cost = _costs(stage, truth).cpu().numpy()
    found = []
    for frame, shown in enumerate(there.cpu().numpy()):
        columns = shown.nonzero()[0]
        for query, column in zip(*linear_sum_assignment(cost[frame][:, columns]), strict=True):
            found.append((frame, query, columns[column]))
    pairs = torch.tensor(found, dtype=torch.long, device=truth.device).view(-1, 3)
    return _Matched(*pairs.unbind(dim=1))


def _costs(stage: Detections, truth: Tensor) -> Tensor:
    """[M,Q] against boxes [M,K,4] (centre x, y, width, height) -> [M,Q,K]."""
    alpha, gamma = CONSTANTS.matcher_alpha, CONSTANTS.matcher_gamma
    score = torch.sigmoid(stage.logits)
    seen = alpha * (1 - score) ** gamma * -F.logsigmoid(stage.logits)
    unseen = (1 - alpha) * score**gamma * -F.logsigmoid(-stage.logits)
    given, wanted = stage.boxes[:, :, None], truth[:, None]
    return (
        CONSTANTS.matcher_class_cost * (seen - unseen)[..., None]
        + CONSTANTS.matcher_bbox_cost * (given - wanted).abs().sum(dim=-1)
        - CONSTANTS.matcher_giou_cost * ious(given, wanted)[1]
    )


def _score_loss(logits: Tensor, pairs: _Matched, overlap: Tensor, *, focal: bool) -> Tensor:
    """[M,Q]: a matched query's score is to be its IoU, any other's 0; varifocal (Zhang et al.,
    2021) or the plain cross-entropy."""
    target, matched = torch.zeros_like(logits), torch.zeros_like(logits)
    target[pairs.frame, pairs.query] = overlap
    if not focal:
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    matched[pairs.frame, pairs.query] = 1.0
    score = torch.sigmoid(logits.detach())
    weight = CONSTANTS.focal_loss_alpha * score**CONSTANTS.focal_loss_gamma * (1 - matched)
    return F.binary_cross_entropy_with_logits(logits, target, weight + target, reduction="none")


def ious(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Of boxes [...,4] (centre x, y, width, height): intersection over union, and the generalised
    one (Rezatofighi et al., 2019), which tells boxes apart that do not meet."""
    low_one, high_one = one[..., :2] - one[..., 2:] / 2, one[..., :2] + one[..., 2:] / 2
    low_other, high_other = other[..., :2] - other[..., 2:] / 2, other[..., :2] + other[..., 2:] / 2
    inside = torch.minimum(high_one, high_other) - torch.maximum(low_one, low_other)
    shared = inside.clamp(min=0).prod(dim=-1)
    union = one[..., 2:].prod(dim=-1) + other[..., 2:].prod(dim=-1) - shared
    around = torch.maximum(high_one, high_other) - torch.minimum(low_one, low_other)
    hull = around.prod(dim=-1)
    overlap = shared / union
    return overlap, overlap - (hull - union) / hull
