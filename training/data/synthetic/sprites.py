"""Sprites: small pictures with an alpha channel, and how they are put into a larger one.

A sprite is uint8 [H,W,4], RGB premultiplied by alpha, so that it can be resampled and blended
without seams; all coordinates are pixels, x before y. The renderer spends its time here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int]

SHIFT = 4  # bits of a pixel's fraction in OpenCV's drawing functions


@dataclass(frozen=True)
class Sprite:
    """A picture at several sizes, each half the one before: a small one is read for a small use."""

    levels: tuple[np.ndarray, ...]

    @property
    def width(self) -> int:
        return int(self.levels[0].shape[1])

    @property
    def height(self) -> int:
        return int(self.levels[0].shape[0])


def to_sprite(colour: np.ndarray, alpha: np.ndarray) -> Sprite:
    """uint8 [H,W,3] and uint8 [H,W]."""
    rgb = cv2.multiply(colour, cv2.merge((alpha, alpha, alpha)), scale=1 / 255)
    return pyramid(np.dstack((rgb, alpha)))


def pyramid(pixels: np.ndarray) -> Sprite:
    levels = [pixels]
    while min(levels[-1].shape[:2]) >= 32:
        height, width = levels[-1].shape[:2]
        levels.append(
            cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        )
    return Sprite(tuple(levels))


def placed(sprite: Sprite, centre: tuple[float, float], width: float, angle: float = 0.0,
           aspect: float = 1.0) -> np.ndarray:  # fmt: skip
    """The affine map [2,3] that puts a sprite there, `width` pixels wide, turned by degrees.

    `aspect` stretches its height.
    """
    scale = width / sprite.width
    radians = np.deg2rad(angle)
    cos, sin = np.cos(radians) * scale, np.sin(radians) * scale
    matrix = np.array([[cos, -sin * aspect, 0.0], [sin, cos * aspect, 0.0]])
    matrix[:, 2] = centre - matrix[:, :2] @ (sprite.width / 2, sprite.height / 2)
    return matrix


def turned(
    sprite: Sprite, centre: tuple[float, float], width: float, turn: tuple[float, float, float]
) -> np.ndarray:
    """The perspective map [3,3] of a flat sprite held `width` pixels wide, turned by yaw, pitch
    and roll in degrees."""
    y, p, r = np.deg2rad(turn)
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_p = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    turn_r = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    rotation = turn_r @ turn_p @ turn_y
    longest = max(sprite.width, sprite.height)
    distance = 2.6 * longest  # of the eye: an arm's length
    to_middle = np.array([[1, 0, -sprite.width / 2], [0, 1, -sprite.height / 2], [0, 0, 1]])
    flat = np.column_stack((rotation[:, 0], rotation[:, 1], (0.0, 0.0, distance)))
    scale = width / sprite.width
    seen = np.array([[distance * scale, 0, centre[0]], [0, distance * scale, centre[1]], [0, 0, 1]])
    matrix: np.ndarray = seen @ flat @ to_middle
    return matrix


def corners(sprite: Sprite, matrix: np.ndarray, points: np.ndarray | None = None) -> np.ndarray:
    """Where points [N,2] of a sprite land, given as shares of its width and height; without
    points, its four corners."""
    if points is None:
        points = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    at = points * (sprite.width, sprite.height)
    homogeneous = np.column_stack((at, np.ones(len(at)))) @ np.asarray(matrix).T
    if matrix.shape[0] == 2:
        return homogeneous
    landed: np.ndarray = homogeneous[:, :2] / homogeneous[:, 2:]
    return landed


def paste(
    frame: np.ndarray,
    sprite: Sprite,
    matrix: np.ndarray,
    *,
    own: np.ndarray | None = None,
    streak: tuple[int, int] = (1, 1),
) -> None:
    """Blends a sprite into `frame`, uint8 [H,W,3], by an affine [2,3] or perspective [3,3] map.

    `own`, uint8 [H,W], is how much of the intended product is seen: it is covered too.
    `streak` smears the sprite over so many pixels across and down: it moved.
    """
    region = _region(frame, corners(sprite, matrix), max(streak))
    if region is None:
        return
    left, top, right, bottom = region
    pixels = warp(sprite, matrix, region)
    if max(streak) > 1:
        pixels = cv2.blur(pixels, streak)
    blend(frame[top:bottom, left:right], pixels)
    if own is not None:
        cover = own[top:bottom, left:right]
        cv2.multiply(cover, cv2.bitwise_not(pixels[..., 3]), cover, scale=1 / 255)


def blend(target: np.ndarray, pixels: np.ndarray) -> None:
    """Premultiplied RGBA [H,W,4] over RGB [H,W,3], in place."""
    through = cv2.cvtColor(cv2.bitwise_not(pixels[..., 3]), cv2.COLOR_GRAY2RGB)
    cv2.multiply(target, through, target, scale=1 / 255)
    cv2.add(target, cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), target)


def mark(own: np.ndarray, sprite: Sprite, matrix: np.ndarray) -> None:
    """Adds a sprite's alpha to `own`: this is the intended product."""
    region = _region(own, corners(sprite, matrix), 0)
    if region is not None:
        left, top, right, bottom = region
        part = own[top:bottom, left:right]
        np.maximum(part, warp(sprite, matrix, region)[..., 3], out=part)


def _region(frame: np.ndarray, points: np.ndarray, margin: int) -> tuple[int, int, int, int] | None:
    """The part of the frame that the points span, as left, top, right, bottom."""
    low = np.floor(points.min(axis=0)).astype(int) - margin
    high = np.ceil(points.max(axis=0)).astype(int) + 1 + margin
    left, top = max(int(low[0]), 0), max(int(low[1]), 0)
    right, bottom = min(int(high[0]), frame.shape[1]), min(int(high[1]), frame.shape[0])
    return (left, top, right, bottom) if left < right and top < bottom else None


def warp(sprite: Sprite, matrix: np.ndarray, region: tuple[int, int, int, int]) -> np.ndarray:
    """The part of the mapped sprite that lies in a region: left, top, right, bottom."""
    left, top, right, bottom = region
    shrink = sprite.width / max(float(np.hypot(matrix[0, 0], matrix[1, 0])) * sprite.width, 1.0)
    if matrix.shape[0] == 3:
        edge = corners(sprite, matrix)
        shrink = sprite.width / max(float(np.linalg.norm(edge[1] - edge[0])), 1.0)
    level = min(max(int(np.log2(max(shrink, 1.0)) + 0.3), 0), len(sprite.levels) - 1)
    pixels = sprite.levels[level]
    halved = np.diag((sprite.width / pixels.shape[1], sprite.height / pixels.shape[0], 1.0))
    moved = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]], float)
    size = (right - left, bottom - top)
    whole = matrix if matrix.shape[0] == 3 else np.vstack((matrix, (0, 0, 1)))
    whole = moved @ whole @ halved
    if matrix.shape[0] == 2:
        return cv2.warpAffine(pixels, whole[:2], size, flags=cv2.INTER_LINEAR)
    return cv2.warpPerspective(pixels, whole, size, flags=cv2.INTER_LINEAR)


def fill(target: np.ndarray, points: np.ndarray, colour: tuple[int, ...]) -> None:
    """A filled polygon [N,2], its edge antialiased."""
    fixed = np.round(np.asarray(points) * (1 << SHIFT)).astype(np.int32)
    cv2.fillPoly(target, [fixed], colour, cv2.LINE_AA, SHIFT)


_TURN = np.linspace(-np.pi / 2, np.pi / 2, 7)
_TOWARDS = np.column_stack((np.cos(_TURN), np.sin(_TURN)))  # half a circle, open to the left


def limb(start: np.ndarray, end: np.ndarray, thick: float, thin: float) -> np.ndarray:
    """Outline [14,2] of a limb: two half circles of those radii and what lies between."""
    along = end - start
    along = along / max(math.hypot(*along), 1e-6)
    turn = np.array((along, (-along[1], along[0])))
    cap = _TOWARDS @ turn
    return np.concatenate((start - thick * cap, end + thin * cap))


def round_limb(
    target: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    radii: tuple[float, float],
    colour: Colour,
    *,
    edge: float = 0.8,
) -> None:
    """A limb in three tones, from the shaded edge to the lit middle, which make it look round."""
    (start, end), (thick, thin) = ends, radii
    fill(target, limb(start, end, thick, thin), tint(colour, edge))
    lit = np.array((-0.12, -0.16)) * thin
    fill(target, limb(start + lit, end + lit, thick * 0.82, thin * 0.82), tint(colour, 0.95))
    lit = 2 * lit
    fill(target, limb(start + lit, end + lit, thick * 0.45, thin * 0.45), tint(colour, 1.04))


def smooth(points: np.ndarray | list[tuple[float, float]], rounds: int = 2) -> np.ndarray:
    """A closed polygon with its corners cut off, twice over: Chaikin's curve."""
    curve = np.asarray(points, float)
    for _ in range(rounds):
        after = np.roll(curve, -1, axis=0)
        curve = np.stack((0.75 * curve + 0.25 * after, 0.25 * curve + 0.75 * after), axis=1)
        curve = curve.reshape(-1, 2)
    return curve


def tint(colour: Colour, factor: float) -> Colour:
    """Lighter (above 1) or darker."""
    red, green, blue = (int(min(255.0, max(0.0, value * factor))) for value in colour)
    return red, green, blue
