"""Frames of clips as squares, with the boxes of the intended product in them where these are known.

The centre crop that makes a frame square moves its boxes too. Knows nothing of views and batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.data.photographs import fit_square, upright_picture
from training.data.records import Box


class Frame(NamedTuple):
    pixels: np.ndarray  # uint8 [S,S,3]
    boxes: tuple[Box, ...] | None = None
    """Shares of the square, what lies outside cut off; None where nothing is annotated."""


def fit_frame(
    data: bytes, name: str, boxes: Sequence[Box] | None, original: tuple[int, int] | None, size: int
) -> Frame:
    """An encoded frame, and boxes that are relative or in pixels of the `original` (width, height;
    None: the frame as it is). Raises DataError, which begins with `name`."""
    picture, whole = upright_picture(data, name, size)
    pixels = fit_square(picture, size)
    if boxes is None:
        return Frame(pixels)
    relative = [box.relative(*(original or whole)) for box in boxes]
    return Frame(pixels, tuple(in_square(relative, *whole)))


def in_square(boxes: Iterable[Box], width: int, height: int) -> list[Box]:
    """Relative boxes of a picture -> those of its centre square that have an area there."""
    side = min(width, height)
    across, down = width / side, height / side

    def moved(share: float, stretch: float) -> float:
        return min(1.0, max(0.0, (share - 0.5) * stretch + 0.5))

    squared = (
        Box(
            moved(b.left, across), moved(b.top, down), moved(b.right, across), moved(b.bottom, down)
        )
        for b in boxes
    )
    return [box for box in squared if box.area > 0]


def annotated_boxes(frames: Sequence[Frame]) -> Tensor:
    """Float [M,K,4], all zeros where a frame has fewer."""
    return box_tensors(frames)[0]


def box_tensors(frames: Sequence[Frame]) -> tuple[Tensor, Tensor]:
    """Boxes float [M,K,4], all zeros where a frame has fewer; bool [M], whether it is annotated."""
    most = max((len(frame.boxes or ()) for frame in frames), default=0)
    boxes = torch.zeros(len(frames), most, 4)
    for row, frame in enumerate(frames):
        if frame.boxes:
            boxes[row, : len(frame.boxes)] = torch.tensor(frame.boxes)
    return boxes, torch.tensor([frame.boxes is not None for frame in frames])
