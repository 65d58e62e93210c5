"""The square that bodies are drawn on, and how flat pictures are bent and lit on it.

A body turns a design into a cut-out RGBA picture of CANVAS pixels, upright and lit from the upper
left; `turn` in -1..1 rotates what can be rotated about its upright axis.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

CANVAS = 640
MIDDLE = CANVAS / 2
Points = list[tuple[float, float]]
Matrix = npt.NDArray[np.float64]


def homography(source: Points, target: Points) -> Matrix:
    """The 3x3 matrix that carries four source points to four target points."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    solution = np.linalg.solve(np.asarray(rows, float), np.asarray(values, float))
    return np.append(solution, 1.0).reshape(3, 3)


def warp(picture: Image.Image, target: Points, size: tuple[int, int]) -> Image.Image:
    """`picture` carried to the corners `target` (clockwise from the upper left) of a new canvas."""
    width, height = picture.size
    corners: Points = [(0, 0), (width, 0), (width, height), (0, height)]
    back = homography(target, corners)
    coefficients = tuple((back / back[2, 2]).ravel()[:8])
    return picture.transform(
        size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR
    )


def shade(picture: Image.Image, factor: npt.NDArray[np.floating]) -> Image.Image:
    """Multiplies the colours by `factor` [height, width]; the opacity stays."""
    pixels = np.asarray(picture).copy()
    lit = pixels[..., :3] * factor[..., None]
    pixels[..., :3] = np.clip(lit, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels, picture.mode)


def quad(canvas: Image.Image, side: Image.Image, corners: Points, light: float) -> None:
    flat = side.convert("RGBA")
    if light != 1.0:
        flat = shade(flat, np.full((flat.height, flat.width), light, np.float32))
    canvas.alpha_composite(warp(flat, corners, canvas.size))
