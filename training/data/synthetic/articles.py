"""A product as a sprite: its printed face cut to its shape, and shaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from training.data.synthetic.catalogue import COLOURS, Product
from training.data.synthetic.prints import SIDE, draw_badge, draw_face
from training.data.synthetic.shapes import Part, Shading, Shape, shape_of
from training.data.synthetic.sprites import Sprite, fill, to_sprite

CONSTANT = {
    "metal": (196, 196, 202), "glass": (206, 222, 226), "dark": (36, 34, 40),
    "white": (240, 240, 238), "skin": (224, 178, 148),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Article:
    """What is seen of a product. One drawing is one article: compared by identity."""

    product: Product
    sprite: Sprite
    shape: Shape


def draw_article(product: Product, *, worn: bool = False) -> Article:
    """A garment that is worn is drawn without its sleeves."""
    shape = shape_of(product.category.shape, product.cut)
    aspect = shape.aspect * product.stretch
    width, height = (SIDE, round(SIDE * aspect)) if aspect <= 1 else (round(SIDE / aspect), SIDE)
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    face = draw_face(product)[top : top + height, left : left + width].copy()
    draw_badge(face, product, shape.room)
    canvas = _Canvas(face, np.zeros_like(face), np.zeros((height, width), np.uint8))
    folds = np.random.default_rng(product.seed + 1)
    for part in (part for part in shape.parts if not (worn and part.sleeve)):
        _add(part, product, canvas, folds)
    return Article(product, to_sprite(canvas.colour, canvas.alpha), shape)


class _Canvas(NamedTuple):
    face: np.ndarray  # what parts are cut from, uint8 [H,W,3]
    colour: np.ndarray  # uint8 [H,W,3]
    alpha: np.ndarray  # uint8 [H,W]


def _add(part: Part, product: Product, canvas: _Canvas, folds: Generator) -> None:
    """Draws one part onto the canvas."""
    height, width = canvas.alpha.shape
    points = np.asarray(part.points) * (width, height)
    left, top = np.floor(points.min(axis=0)).clip(0).astype(int)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 1, (width, height))
    if right - left < 1 or bottom - top < 1:
        return
    mask = np.zeros((bottom - top, right - left), np.uint8)
    fill(mask, points - (left, top), (255,))
    drawn = canvas.face[top:bottom, left:right]
    if part.fill != "face":
        drawn = np.full_like(drawn, _plain(part, product))
    drawn = cv2.multiply(drawn, _light(part, mask, folds), scale=1 / 128)
    through = cv2.merge((mask, mask, mask))
    under = canvas.colour[top:bottom, left:right]
    kept = cv2.multiply(under, cv2.bitwise_not(through), scale=1 / 255)
    cv2.add(kept, cv2.multiply(drawn, through, scale=1 / 255), under)
    seen = canvas.alpha[top:bottom, left:right]
    np.maximum(seen, mask, out=seen)


def _plain(part: Part, product: Product) -> tuple[int, int, int]:
    names = {"ground": 0, "print": 1, "detail": 2}
    if part.fill in names:
        return COLOURS[product.colours[names[part.fill]]]
    return CONSTANT[part.fill]


def _light(part: Part, mask: np.ndarray, folds: Generator) -> np.ndarray:
    """uint8 [H,W,3], 128 where the colour stays as it is; darker towards the part's edge."""
    height, width = mask.shape
    light = cv2.resize(_shading(part.shading), (width, height), interpolation=cv2.INTER_LINEAR)
    if part.shading == "cloth" and min(height, width) > 24:
        coarse = folds.uniform(0.84, 1.14, (5, 9)).astype(np.float32)
        light = light * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    if min(height, width) > 24:
        reach = max(3, min(height, width) // 8) | 1
        inside = cv2.blur(mask, (reach, reach), borderType=cv2.BORDER_CONSTANT)
        light = light * cv2.LUT(inside, _EDGE)
    level = (light * (128 * part.dim)).clip(0, 255).astype(np.uint8)
    return cv2.merge((level, level, level))


_EDGE = np.interp(np.arange(256), (100, 255), (0.74, 1.03)).astype(np.float32)


@lru_cache(maxsize=8)
def _shading(kind: Shading) -> np.ndarray:
    """float32 [64,64] in about [0.5, 1.3], light from the upper left."""
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64))
    if kind == "round":  # a cylinder that stands, with a streak of light
        light = 0.55 + 0.55 * np.sqrt(1 - 0.85 * (x + 0.15) ** 2 / 1.32)
        light += 0.22 * np.exp(-(((x + 0.5) / 0.12) ** 2))
    elif kind == "ball":
        light = 0.72 + 0.4 * np.sqrt(np.clip(1 - ((x + 0.25) ** 2 + (y + 0.3) ** 2) / 2.2, 0, 1))
    elif kind == "none":
        light = np.ones_like(x)
    else:
        light = 1.03 - 0.05 * x - 0.05 * y
    return light.astype(np.float32)
