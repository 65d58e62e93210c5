"""How a clip is looked at once its intended product is found.

A model that was trained for it sees patch masks, RICE's IPD (`training.models.intended_product`).
Any other looks closer instead: the square around the box is cut out of a larger frame, so that the
product fills the encoder's grid, as it may in the crops that the model was trained on. A frame in
which nothing is found takes no part where it is found in others; in a clip in which it is found
nowhere all frames are looked at whole.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.models.detector import ClipDetector, Detections, best_of_frame, between
from training.models.encoder import IMAGE_MEAN, IMAGE_STD, PatchGrid
from training.models.intended_product import patch_mask

CLOSEST = 2  # times: so many encoder's sides has a frame that may be looked at closer
MARGIN = 1.3  # side of a view over the longer side of its box, which is not exact


class Looked(NamedTuple):
    """Of N clips of F frames."""

    boxes: Tensor  # [N,F,4], left, top, right, bottom, as shares of the frame
    scores: Tensor  # [N,F], 0 to 1
    found: Tensor  # bool [N,F], whether the score is enough
    patch_mask: Tensor  # bool [N,F,P], the patches of `pixels` that take part
    views: Tensor  # [N,F,4], what of each frame `pixels` show, in shares like a box
    pixels: Tensor  # uint8 [N,F,S,S,3], what the encoder is to see


class Looking(nn.Module):
    """A detector, and what its boxes do."""

    def __init__(
        self, detector: ClipDetector, threshold: float, encoder: PatchGrid, *, closer: bool
    ) -> None:
        super().__init__()
        self.detector = detector
        self.threshold = threshold
        self.grid, self.size, self.closer = encoder.grid, encoder.image_size, closer
        self.frame_size = frame_size(encoder.image_size, closer=closer)

    def forward(self, frames: Tensor, frame_mask: Tensor) -> Looked:
        """uint8 [N,F,D,D,3], D the `frame_size`, and bool [N,F]."""
        boxes, scores = best_of_frame(self._detected(frames, frame_mask))
        found = scores >= self.threshold
        if not self.closer:
            kept = patch_mask((boxes * found[..., None])[..., None, :], self.grid)
            return Looked(boxes, scores, found, kept, whole_like(boxes), frames)
        views = torch.where(found[..., None], views_around(boxes), whole_like(boxes))
        seen = cut_out(frames.flatten(0, 1), views.flatten(0, 1), self.size)
        seen = seen.round().to(torch.uint8).unflatten(0, found.shape)
        everything = found[..., None].expand(*found.shape, self.grid**2) | True
        return Looked(boxes, scores, found, everything, views, seen)

    def _detected(self, frames: Tensor, frame_mask: Tensor) -> Detections:
        """In frames uint8 [N,F,D,D,3], bool [N,F]; they are made small first, then normalised."""
        pixels = frames.movedim(-1, -3).flatten(0, 1)
        mean, deviation = (
            255 * torch.tensor(each, device=pixels.device).view(3, 1, 1)
            for each in (IMAGE_MEAN, IMAGE_STD)
        )
        normalised = (self.detector.resized(pixels.float()) - mean) / deviation
        found: Detections = self.detector(normalised.unflatten(0, frame_mask.shape), frame_mask)
        return found


def taking_part(found: Tensor) -> Tensor:
    """Bool [...,F], in which frames the product is found -> those that the encoder is to see."""
    return found | ~found.any(dim=-1, keepdim=True)


def frame_size(image_size: int, *, closer: bool) -> int:
    """Side of the frames that are looked at, in pixels."""
    return CLOSEST * image_size if closer else image_size


def whole_like(boxes: Tensor) -> Tensor:
    """Views [...,4] that show all of a frame."""
    return boxes.new_tensor([0.0, 0.0, 1.0, 1.0]).expand_as(boxes)


def views_around(boxes: Tensor) -> Tensor:
    """Boxes [...,4] -> squares [...,4] around them, a margin larger, within the frame and no
    smaller than what it has pixels for."""
    low, high = boxes[..., :2], boxes[..., 2:]
    side = (MARGIN * (high - low)).amax(dim=-1, keepdim=True).clamp(1 / CLOSEST, 1.0)
    corner = torch.minimum(((low + high - side) / 2).clamp(min=0.0), 1 - side)
    return torch.cat([corner, corner + side], dim=-1)


def cut_out(frames: Tensor, views: Tensor, size: int) -> Tensor:
    """Frames [B,D,D,C] and squares [B,4] of them -> float [B,size,size,C], bilinear. A whole frame
    of twice the size is the mean of each four pixels."""
    step = (torch.arange(size, device=frames.device) + 0.5) / size
    across, down = (
        views[:, i, None] + step * (views[:, i + 2] - views[:, i])[:, None] for i in (0, 1)
    )
    side, channels = frames.shape[2:]
    # Rows first, then columns in place of rows: only whole matrices are transposed, which is fast.
    columns = _rows_at(frames.flatten(2), down).mT.reshape(-1, side, channels * size)
    seen = _rows_at(columns, across).reshape(-1, size * channels, size)
    return seen.mT.unflatten(2, (size, channels))


def _rows_at(rows: Tensor, places: Tensor) -> Tensor:
    """Rows of numbers [B,D,R] at places [B,K], shares of their height -> float [B,K,R], each
    between the two nearest. Whole rows are copied: by pixels, `grid_sample` takes three times as
    long on a CPU."""
    count, height = rows.shape[:2]
    (above, _), (below, share) = between(places, height)
    begin = height * torch.arange(count, device=rows.device)[:, None]
    upper, lower = (
        rows.flatten(0, 1)
        .index_select(0, (begin + each).flatten())
        .unflatten(0, places.shape)
        .float()
        for each in (above, below)
    )
    return upper + share[..., None] * (lower - upper)
