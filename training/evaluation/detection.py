"""How a detector is scored: COCO's AP, and *intended accuracy*, on the annotated frames of queries.

Intended accuracy is the share, of frames that show the product, in which the box with the highest
score has an IoU of at least 0.5 with it. With a threshold a detector also says that a frame shows
nothing: `frames` is the share of all frames in which box or nothing is right. AP is pycocotools'.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from training.data.errors import DataError
from training.data.frames import Frame, annotated_boxes
from training.data.queries import QuerySet
from training.data.sets import JudgedSet
from training.data.transforms import normalise
from training.models.detector import ClipDetector, corners

HIT_IOU = 0.5
GROUPS = ("scale", "duration", "products")  # of clips: training.data.records


@dataclass(frozen=True)
class FoundClip:
    """What a detector says of a query's F annotated frames, and what they show."""

    query: int  # its position among the queries
    frames: list[Frame]
    boxes: Tensor  # [F,Q,4], left, top, right, bottom, as shares of the square
    scores: Tensor  # [F,Q], 0 to 1
    truth: Tensor  # [F,K,4], all zeros where there are fewer

    @property
    def shown(self) -> Tensor:
        """Bool [F], whether the frame shows the product."""
        return has_area(self.truth).any(dim=1)

    @property
    def best(self) -> tuple[Tensor, Tensor]:
        """Of each frame the box with the highest score [F,4], and that score [F]."""
        score, place = self.scores.max(dim=1)
        return self.boxes[torch.arange(len(place)), place], score

    @property
    def hits(self) -> Tensor:
        """Bool [F], whether the best box is that of the product."""
        if not self.truth.shape[1]:
            return torch.zeros(len(self.frames), dtype=torch.bool)
        return (iou(self.best[0][:, None], self.truth) >= HIT_IOU).any(dim=1)

    def right(self, threshold: float) -> Tensor:
        """Bool [F]: the product's box where it is shown, nothing where it is not."""
        sure = self.best[1] >= threshold
        return torch.where(self.shown, sure & self.hits, ~sure)


def has_area(boxes: Tensor) -> Tensor:
    """[...,4] -> bool [...]."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes [...,4] and [...,4]; 0 where they do not meet."""
    low = torch.maximum(one[..., :2], other[..., :2])
    high = torch.minimum(one[..., 2:], other[..., 2:])
    inside = (high - low).clamp(min=0).prod(dim=-1)
    union = area(one) + area(other) - inside
    return torch.where(inside > 0, inside / union, 0.0)


def area(boxes: Tensor) -> Tensor:
    """[...,4] -> [...]."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)


@torch.inference_mode()
def boxes_in_clip(model: ClipDetector, frames: Sequence[Frame]) -> tuple[Tensor, Tensor]:
    """Boxes [F,Q,4] (left, top, right, bottom) and scores [F,Q] of a clip's frames."""
    device = next(model.parameters()).device
    pixels = normalise(torch.from_numpy(np.stack([f.pixels for f in frames])).to(device))
    found = model(pixels[None], pixels.new_ones(1, len(frames), dtype=torch.bool))
    return corners(found.boxes[0]).cpu(), torch.sigmoid(found.logits[0]).cpu()


def detect(
    model: ClipDetector, data: JudgedSet, *, done: Callable[[], None] = lambda: None
) -> list[FoundClip]:
    """Looks at every query's frames; calls `done` a query. Raises DataError where nothing is
    annotated."""
    if not isinstance(data, QuerySet):
        raise DataError("photographs have no boxes: a detector is scored on clips")
    model.eval()
    found = []
    for position, query in enumerate(data.queries):
        frames = data.read_frames(query, model.config.frames, model.config.image_size)
        told = [place for place, frame in enumerate(frames) if frame.boxes is not None]
        if told:  # frames that nobody has annotated are looked at with the others, and not counted
            boxes, scores = boxes_in_clip(model, frames)
            shown = [frames[place] for place in told]
            truth = annotated_boxes(shown)
            found.append(FoundClip(position, shown, boxes[told], scores[told], truth))
        done()
    if not found:
        raise DataError("none of the clips' frames has an annotated box")
    return found


def figures(found: list[FoundClip]) -> dict[str, float]:
    """`ap`, `ap50` (COCO), `intended`, and `frames` at the best threshold; shares of 1."""
    ap, ap50 = average_precision(found)
    return {
        "ap": ap,
        "ap50": ap50,
        "intended": intended_accuracy(found),
        "frames": frame_accuracy(found, best_threshold(found)),
    }


def intended_accuracy(found: list[FoundClip]) -> float:
    """0 where no frame shows its product."""
    shown = torch.cat([clip.shown for clip in found])
    hits = torch.cat([clip.hits for clip in found])
    return float(hits[shown].float().mean()) if shown.any() else 0.0


def frame_accuracy(found: list[FoundClip], threshold: float) -> float:
    return float(torch.cat([clip.right(threshold) for clip in found]).float().mean())


def best_threshold(found: list[FoundClip]) -> float:
    """At which most frames are right."""
    thresholds = torch.arange(1, 100) / 100
    right = torch.tensor([frame_accuracy(found, float(t)) for t in thresholds])
    best = thresholds[right >= right.max() - 1e-6]
    return float(best[len(best) // 2])


def by_group(found: list[FoundClip], data: QuerySet) -> dict[str, dict[str, tuple[int, float]]]:
    """Clips and intended accuracy by product scale, visible duration and number of products."""
    told: dict[str, dict[str, tuple[int, float]]] = {}
    for kind in GROUPS:
        groups: dict[str, list[FoundClip]] = {}
        for clip in found:
            groups.setdefault(getattr(data.queries[clip.query], kind), []).append(clip)
        told[kind] = {
            name: (len(clips), intended_accuracy(clips))
            for name, clips in sorted(groups.items())
            if name
        }
    return {kind: groups for kind, groups in told.items() if groups}


def average_precision(found: list[FoundClip]) -> tuple[float, float]:
    """COCO's AP (IoU 0.5 to 0.95) and AP50 of all boxes that a detector gives, by their scores."""
    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (boxes, scores, shown) in enumerate(
        (clip.boxes[f], clip.scores[f], clip.truth[f])
        for clip in found
        for f in range(len(clip.frames))
    ):
        for box in _coco(shown[has_area(shown)]):
            truth.append(
                {"id": len(truth) + 1, "image_id": image, "category_id": 1, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0}
            )  # fmt: skip
        results += [
            {"image_id": image, "category_id": 1, "bbox": box, "score": score}
            for box, score in zip(_coco(boxes), scores.tolist(), strict=True)
        ]
    images = sum(len(clip.frames) for clip in found)
    if not truth:
        return 0.0, 0.0
    data = COCO()
    data.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(images)],
        "annotations": truth,
        "categories": [{"id": 1, "name": "intended product"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of its progress by print
        data.createIndex()
        judge = COCOeval(data, data.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0]), float(judge.stats[1])


def _coco(boxes: Tensor) -> list[list[float]]:
    """Shares [K,4] -> left, top, width, height in thousandths: COCO's areas are in pixels."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).mul(1000).tolist()
