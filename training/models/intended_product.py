"""IPD, intended-product detection of RICE, as the encoder and the decoder see it: patch masks.

Boxes of the product being sold decide which patches of a frame take part: in the encoder's
attention, among the decoder's keys and values, and in patch feature reconstruction. Where the
boxes come from, annotations or a detector, is not known here.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

KEPT_IOU = 0.02  # the paper's threshold


def patch_mask(boxes: Tensor, grid: int) -> Tensor:
    """Boxes [...,K,4] of frames of grid x grid patches -> bool [...,P], True for patches kept.

    Boxes are left, top, right, bottom, as shares of the picture that the encoder sees; one without
    an area, such as all zeros, is none. A patch is kept when its intersection over union with a
    box is at least 0.02, row by row from the top; all are kept when none qualifies. Class tokens
    are no patches: they always take part.
    """
    boxes = boxes.clamp(0, 1)
    step = torch.arange(grid, device=boxes.device, dtype=boxes.dtype)
    across = _overlap(boxes[..., 0], boxes[..., 2], step, grid)  # [...,K,grid]
    down = _overlap(boxes[..., 1], boxes[..., 3], step, grid)
    intersection = (down[..., :, None] * across[..., None, :]).flatten(-2)  # [...,K,P]
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) * grid**2
    union = 1 + area[..., None] - intersection
    kept = ((intersection > 0) & (intersection >= KEPT_IOU * union)).any(dim=-2)
    return kept | ~kept.any(dim=-1, keepdim=True)


def kept_places(kept: Tensor) -> tuple[Tensor, Tensor]:
    """Bool [B,P] -> places int64 [B,K] of the patches kept, in their order, K those of the picture
    that keeps most, at least 1; and bool [B,K], False where a picture keeps fewer."""
    patches = kept.shape[1]
    most = cast("int", kept.sum(dim=1).max().clamp(min=1).item())  # int() would fix it
    torch._check(most >= 1)  # else the exporter takes it for anything
    torch._check(most <= patches)
    # All numbers differ: kept patches come first, each group in its order.
    order = kept * patches - torch.arange(patches, device=kept.device)
    places = torch.topk(order, patches, dim=1).indices[:, :most]
    return places, kept.gather(1, places)


def _overlap(low: Tensor, high: Tensor, step: Tensor, grid: int) -> Tensor:
    """Length of [low, high] within each patch's side, in patches: [...,K] -> [...,K,grid]."""
    start, end = (grid * low)[..., None], (grid * high)[..., None]
    return (torch.minimum(end, step + 1) - torch.maximum(start, step)).clamp(min=0)
