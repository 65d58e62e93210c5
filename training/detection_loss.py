"""The loss of detectors: bipartite matching of queries with boxes, as RT-DETR does it.

Matching and losses are those of `transformers` (RT-DETR: Zhao et al., 2024): L1, generalised IoU,
and a varifocal classification whose target is the IoU, so that scores also tell how well a box
fits. Every stage of the detector is matched and judged on its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import RTDetrConfig
from transformers.loss.loss_rt_detr import RTDetrLoss

from training.data.batches import Batch
from training.models.detector import ClipDetector, Detections, centred

# Ours by the library's names; they come weighted by RT-DETR's 1, 5 and 2.
LOSSES = {"score": "vfl", "box": "bbox", "giou": "giou"}


class DetectionObjective(nn.Module):
    """`detection_loss` of a batch's annotated frames."""

    def __init__(self, model: ClipDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        stages = self.model.stages(batch.frames, batch.frame_mask)
        told = batch.annotated[batch.frame_mask]
        boxes = batch.boxes[batch.frame_mask][told]
        return detection_loss([Detections(*(v[told] for v in s)) for s in stages], boxes)


def detection_loss(stages: Sequence[Detections], boxes: Tensor) -> dict[str, Tensor]:
    """Stages of M frames, [M,Q] each, against the intended product's boxes, float [M,K,4] (left,
    top, right, bottom, all zeros: none) -> `score`, `box` and `giou`, each the sum over stages."""
    if not len(boxes):  # nobody has said what these frames show
        nothing = torch.stack([s.logits.sum() + s.boxes.sum() for s in stages]).sum() * 0.0
        return dict.fromkeys(LOSSES, nothing)
    criterion = RTDetrLoss(RTDetrConfig(id2label={0: "intended product"})).to(boxes.device)
    *before, last = [_told(stage) for stage in stages]
    losses = criterion({**last, "auxiliary_outputs": before}, _targets(boxes))
    return {
        name: torch.stack([v for k, v in losses.items() if k.startswith(f"loss_{key}")]).sum()
        for name, key in LOSSES.items()
    }


def _told(stage: Detections) -> dict[str, Tensor]:
    return {"logits": stage.logits[..., None].float(), "pred_boxes": stage.boxes.float()}


def _targets(boxes: Tensor) -> list[dict[str, Tensor]]:
    there = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    return [
        {
            "boxes": centred(boxes[frame][there[frame]]),
            "class_labels": there.new_zeros(int(there[frame].sum()), dtype=torch.long),
        }
        for frame in range(len(boxes))
    ]
