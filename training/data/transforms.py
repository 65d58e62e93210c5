"""Views of pictures, drawn for whole batches at once on the device that trains.

One affine map does crop, zoom, stretch, rotation and flip in a single resampling; colours, blur
and occlusion follow. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from training.configs import View
from training.models.encoder import IMAGE_MEAN, IMAGE_STD

# A clip that is only looked at: a photograph held by a hand and moved a little.
HELD = View(
    scale=(0.8, 1.0), aspect=0.0, rotation=4.0, flip=0.0, brightness=0.1, contrast=0.0,
    saturation=0.0, tint=0.0, blur=0.3, erase=0.0,
)  # fmt: skip


def normalise(pictures: Tensor) -> Tensor:
    """uint8 [...,H,W,3] -> float [...,3,H,W], CLIP's mean and deviation."""
    mean = torch.tensor(IMAGE_MEAN, device=pictures.device) * 255
    deviation = torch.tensor(IMAGE_STD, device=pictures.device) * 255
    return ((pictures.float() - mean) / deviation).movedim(-1, -3)


def draw_views(pictures: Tensor, size: int, view: View, generator: Generator) -> Tensor:
    """uint8 [B,H,W,3] -> normalised float [B,3,size,size], each varied on its own."""
    return normalise(vary(pictures, size, view, generator))


def draw_views_and_boxes(
    pictures: Tensor, boxes: Tensor, size: int, view: View, generator: Generator
) -> tuple[Tensor, Tensor]:
    """The same, and boxes [B,K,4] where the views show them."""
    moves = _draw_moves(pictures, view, generator)
    return normalise(_varied(pictures, moves, size, view, generator)), move_boxes(boxes, moves)


def vary(pictures: Tensor, size: int, view: View, generator: Generator) -> Tensor:
    """uint8 [B,H,W,3] -> float [B,size,size,3] of the same range, each varied on its own."""
    return _varied(pictures, _draw_moves(pictures, view, generator), size, view, generator)


def move_boxes(boxes: Tensor, moves: Tensor) -> Tensor:
    """Boxes [B,K,4] of pictures (left, top, right, bottom, as shares) -> those of their views.

    `moves` [B,2,3] are affine maps from a view's places to its picture's, -1 to 1 either way. Of
    a turned box it is the upright one around its corners, as far as the view shows it; all zeros
    where it shows nothing of it.
    """
    left, top, right, bottom = (2 * boxes - 1).unbind(dim=-1)
    across = torch.stack([left, right, left, right], dim=-1)
    down = torch.stack([top, top, bottom, bottom], dim=-1)
    corners = torch.stack([across, down], dim=-1) - moves[:, None, None, :, 2]  # [B,K,4,2]
    corners = corners @ torch.linalg.inv(moves[:, :, :2]).mT[:, None]
    seen = ((corners + 1) / 2).clamp(0, 1)
    moved = torch.cat([seen.amin(dim=-2), seen.amax(dim=-2)], dim=-1)
    has_area = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    is_seen = (moved[..., 2:] > moved[..., :2]).all(dim=-1)
    return torch.where((has_area & is_seen)[..., None], moved, 0.0)


def _varied(pictures: Tensor, moves: Tensor, size: int, view: View, generator: Generator) -> Tensor:
    pixels = pictures.movedim(-1, 1).float().div_(255)
    if not len(pixels):
        return pixels.new_zeros(0, size, size, 3)
    grid = F.affine_grid(moves, [len(pixels), 3, size, size], align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    pixels = _blur(pixels, view.blur, generator)
    pixels = _colour(pixels, view, generator)
    pixels = _erase(pixels, view.erase, generator)
    return pixels.mul_(255).movedim(1, -1)


def _uniform(shape: int, low: float, high: float, like: Tensor, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator).mul(high - low).add(low).to(like.device)


def _draw_moves(pictures: Tensor, view: View, generator: Generator) -> Tensor:
    """[B,2,3], affine maps from the places of a view to those of its picture, -1 to 1."""

    def draw(low: float, high: float) -> Tensor:
        return _uniform(len(pictures), low, high, pictures, generator)

    scale = draw(*view.scale)
    stretch = torch.exp(draw(-view.aspect, view.aspect) / 2)
    angle = draw(-view.rotation, view.rotation) * (math.pi / 180)
    mirror = torch.where(draw(0, 1) < view.flip, -1.0, 1.0)
    room = (1 - scale).clamp(min=0)  # the crop's centre stays where the crop fits
    cos, sin = torch.cos(angle), torch.sin(angle)
    across, down = scale * stretch, scale / stretch
    return torch.stack(
        [
            torch.stack([across * cos * mirror, -across * sin, room * draw(-1, 1)], dim=-1),
            torch.stack([down * sin * mirror, down * cos, room * draw(-1, 1)], dim=-1),
        ],
        dim=1,
    )


def _blur(pixels: Tensor, probability: float, generator: Generator) -> Tensor:
    chosen = _uniform(pixels.shape[0], 0, 1, pixels, generator) < probability
    pixels[chosen] = F.avg_pool2d(
        F.pad(pixels[chosen], (1, 1, 1, 1), mode="replicate"), kernel_size=3, stride=1
    )
    return pixels


def _colour(pixels: Tensor, view: View, generator: Generator) -> Tensor:
    count = pixels.shape[0]

    def gain(spread: float) -> Tensor:
        return _uniform(count, 1 - spread, 1 + spread, pixels, generator)[:, None, None, None]

    pixels = pixels * gain(view.brightness)
    tint = torch.cat([gain(view.tint) for _ in range(3)], dim=1)
    pixels = pixels * tint
    grey = pixels.mean(dim=1, keepdim=True)
    pixels = torch.lerp(grey, pixels, gain(view.saturation))
    mean = grey.mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean, pixels, gain(view.contrast)).clamp_(0, 1)


def _erase(pixels: Tensor, probability: float, generator: Generator) -> Tensor:
    size = pixels.shape[-1]
    for position in torch.nonzero(
        torch.rand(pixels.shape[0], generator=generator) < probability
    ).flatten():
        height, width = (
            int(size * side) for side in torch.empty(2).uniform_(0.15, 0.4, generator=generator)
        )
        top, left = (
            int(share * (size - side))
            for share, side in zip(torch.rand(2, generator=generator), (height, width), strict=True)
        )
        fill = torch.rand(3, 1, 1, generator=generator).to(pixels.device)
        pixels[position, :, top : top + height, left : left + width] = fill
    return pixels
