"""Where a livestream is filmed: wall, shelves, table and light.

All clips of a livestream share its room. Canvases are larger than a frame, for the camera moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from training.data.synthetic.articles import Article
from training.data.synthetic.chance import pick
from training.data.synthetic.overlay import draw_overlay
from training.data.synthetic.sprites import (
    Colour,
    Sprite,
    corners,
    fill,
    paste,
    placed,
    tint,
    to_sprite,
    warp,
)

MARGIN = 0.12  # of the frame, around it on every side
WOODS: tuple[Colour, ...] = ((182, 142, 100), (120, 84, 58), (226, 214, 198), (88, 74, 66))
WALLS: tuple[Colour, ...] = (
    (226, 220, 212), (206, 214, 222), (232, 212, 204), (188, 200, 188), (150, 146, 152),
    (216, 202, 226), (240, 234, 220), (120, 134, 150), (196, 170, 150),
)  # fmt: skip
HUNG = frozenset(("tee", "sweater", "shirt", "coat", "dress", "trousers", "skirt", "scarf"))


@dataclass(frozen=True)
class Shelved:
    """A product that lies about: its corners on the canvas, [4,2]."""

    article: Article
    quad: np.ndarray


@dataclass(frozen=True)
class Room:
    """Made for frames of `width` x `height`."""

    width: int
    height: int
    backdrop: Sprite  # opaque
    shelved: tuple[Shelved, ...]
    table: Sprite | None
    tabled: tuple[Shelved, ...]
    light: np.ndarray  # uint8 [height,width,3], 128 is neutral
    overlay: np.ndarray | None  # premultiplied RGBA [height,width,4]


def make_room(
    width: int, height: int, stock: Sequence[Article], rng: Generator, *, crowded: float
) -> Room:
    """`stock` are products of the shop that may stand about; `crowded` in [0, 1] is how many do."""
    canvas = (round(width * (1 + 2 * MARGIN)), round(height * (1 + 2 * MARGIN)))
    wall = _wall(canvas, rng)
    shelved = _fill_shelves(wall, stock, rng, crowded)
    wall = cv2.GaussianBlur(wall, (0, 0), float(rng.uniform(0.4, 1.3)) * width / 224)
    alpha = np.full((canvas[1], canvas[0]), 255, np.uint8)
    backdrop = Sprite((np.dstack((wall, alpha)),))
    table, tabled = _table(canvas, stock, rng, crowded) if rng.random() < 0.65 else (None, ())
    light = _light(width, height, rng)
    overlay = draw_overlay(width, height, rng) if rng.random() < 0.6 else None
    return Room(width, height, backdrop, shelved, table, tabled, light, overlay)


# Walls.


def _wall(canvas: tuple[int, int], rng: Generator) -> np.ndarray:
    width, height = canvas
    colour = pick(WALLS, rng)
    wall = np.empty((height, width, 3), np.uint8)
    wall[:] = colour
    kinds = (_panels, _bricks, _curtain, _window, lambda *_: None)
    pick(kinds, rng)(wall, colour, rng)
    x = np.linspace(-1, 1, width)[None] - rng.uniform(-0.6, 0.6)
    y = np.linspace(-1, 1, height)[:, None] - rng.uniform(-0.8, 0.2)
    glow = (0.78 + 0.34 * np.exp(-(x**2 + y**2) / 1.2)) * 128
    level = glow.clip(0, 255).astype(np.uint8)
    return cv2.multiply(wall, cv2.merge((level, level, level)), scale=1 / 128)


def _panels(wall: np.ndarray, colour: Colour, rng: Generator) -> None:
    step = wall.shape[1] / float(rng.integers(4, 9))
    for number in range(10):
        x = round(number * step)
        cv2.line(wall, (x, 0), (x, wall.shape[0]), tint(colour, 0.82), 2)
        cv2.line(wall, (x + 2, 0), (x + 2, wall.shape[0]), tint(colour, 1.06), 1)


def _bricks(wall: np.ndarray, colour: Colour, rng: Generator) -> None:
    high = max(8, wall.shape[0] // 26)
    wide = round(high * 2.4)
    for row in range(wall.shape[0] // high + 1):
        for column in range(-1, wall.shape[1] // wide + 1):
            left = column * wide + (row % 2) * wide // 2
            shade = tint(colour, float(rng.uniform(0.8, 0.98)))
            cv2.rectangle(
                wall,
                (left + 1, row * high + 1),
                (left + wide - 1, row * high + high - 1),
                shade,
                -1,
            )


def _curtain(wall: np.ndarray, colour: Colour, rng: Generator) -> None:
    x = np.linspace(0, float(rng.uniform(40, 90)), wall.shape[1])
    fold = (110 + 18 * np.sin(x) + 6 * np.sin(2.7 * x)).astype(np.uint8)
    level = np.broadcast_to(fold[None, :, None], wall.shape).copy()
    cv2.multiply(wall, level, wall, scale=1 / 128)


def _window(wall: np.ndarray, colour: Colour, rng: Generator) -> None:
    height, width = wall.shape[:2]
    left, top = round(float(rng.uniform(0.05, 0.55)) * width), round(0.1 * height)
    right, bottom = left + round(0.38 * width), top + round(0.36 * height)
    wall[top:bottom, left:right] = np.linspace((214, 232, 250), (190, 206, 196), bottom - top)[
        :, None
    ]
    middle = (left + right) // 2
    for start, end in (((left, top), (right, bottom)), ((left, top), (middle, bottom))):
        cv2.rectangle(wall, start, end, (246, 244, 240), max(2, width // 80))


# What stands about.


def _fill_shelves(
    wall: np.ndarray, stock: Sequence[Article], rng: Generator, crowded: float
) -> tuple[Shelved, ...]:
    """Boards with products on them, and a rail where garments hang; in place."""
    height = wall.shape[0]
    rows = round(crowded * 4.2 - 0.2 + float(rng.uniform(-0.5, 0.5)))
    wood = pick(WOODS, rng)
    places: list[Shelved] = []
    for row in range(max(rows, 0)):
        board = round(height * (0.22 + 0.165 * row + float(rng.uniform(-0.01, 0.01))))
        garments = rng.random() < 0.5
        fitting = [a for a in stock if (a.product.category.shape in HUNG) == garments]
        if not fitting:
            continue
        _board(wall, board, wood, rail=garments)
        places += _stand(wall, fitting, rng, board, crowded, hang=garments)
    return tuple(places)


def _board(wall: np.ndarray, y: int, wood: Colour, *, rail: bool) -> None:
    height, width = wall.shape[:2]
    if rail:
        top = y - round(height * 0.125)
        cv2.line(wall, (0, top), (width, top), (120, 120, 126), max(2, height // 150))
        return
    thick = max(3, height // 70)
    cv2.rectangle(wall, (0, y), (width, y + thick), wood, -1)
    cv2.rectangle(wall, (0, y + thick), (width, y + 2 * thick), tint(wood, 0.55), -1)


def _stand(
    wall: np.ndarray,
    stock: Sequence[Article],
    rng: Generator,
    y: int,
    crowded: float,
    *,
    hang: bool,
) -> list[Shelved]:
    """A row of products from left to right; hung from the rail or standing on the board."""
    height, width = wall.shape[:2]
    places = []
    x = float(rng.uniform(0, 0.1)) * width
    while x < width:
        article = pick(stock, rng)
        sprite = article.sprite
        high = height * (0.125 if hang else float(rng.uniform(0.08, 0.12)))
        wide = min(high * sprite.width / sprite.height, 0.26 * width)
        high = wide * sprite.height / sprite.width
        middle = y - high / 2 if not hang else y - height * 0.122 + high / 2
        matrix = placed(sprite, (x + wide / 2, middle), wide)
        if not hang:  # a shadow where it stands
            cv2.ellipse(
                wall,
                (round(x + wide / 2), y),
                (round(wide * 0.5), 3),
                0,
                0,
                360,
                (70, 64, 60),
                -1,
                cv2.LINE_AA,
            )
        paste(wall, sprite, matrix)
        places.append(Shelved(article, corners(sprite, matrix)))
        x += wide + width * float(rng.uniform(0.03, 0.1 + 0.35 * (1 - crowded)))
    return places


def _table(
    canvas: tuple[int, int], stock: Sequence[Article], rng: Generator, crowded: float
) -> tuple[Sprite, tuple[Shelved, ...]]:
    """The table in front, from the frame's lower part on, with products on it."""
    width, height = canvas
    top = round(height * float(rng.uniform(0.74, 0.8)))
    colour, alpha = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    wood = pick(WOODS, rng) if rng.random() < 0.6 else pick(WALLS, rng)
    shape = np.array(
        [(0.03 * width, top), (0.97 * width, top), (1.1 * width, height), (-0.1 * width, height)]
    )
    fill(alpha, shape, (255,))
    colour[top:] = np.linspace(tint(wood, 0.92), tint(wood, 1.06), height - top)[:, None].astype(
        np.uint8
    )
    for line in range(top, height, max(6, height // 40)):
        cv2.line(colour, (0, line), (width, line), tint(wood, 0.86), 1)
    cv2.rectangle(colour, (0, top - 1), (width, top + 2), tint(wood, 1.2), -1)
    pixels = to_sprite(colour, alpha).levels[0].copy()
    fitting = [a for a in stock if a.product.category.shape not in HUNG]
    places = []
    for _ in range(round(crowded * 4 + float(rng.uniform(0, 1.2))) if fitting else 0):
        article = pick(fitting, rng)
        sprite = article.sprite
        wide = min(
            width * float(rng.uniform(0.14, 0.22)), height * 0.16 * sprite.width / sprite.height
        )
        side = (0.04, 0.34) if rng.random() < 0.5 else (0.66, 0.96)
        foot = (float(rng.uniform(*side)) * width, top + height * float(rng.uniform(0.03, 0.09)))
        high = wide * sprite.height / sprite.width
        matrix = placed(sprite, (foot[0], foot[1] - high / 2), wide, float(rng.uniform(-4, 4)))
        _paste_over(pixels, sprite, matrix)
        places.append(Shelved(article, corners(sprite, matrix)))
    return Sprite((pixels,)), tuple(places)


def _paste_over(pixels: np.ndarray, sprite: Sprite, matrix: np.ndarray) -> None:
    """Premultiplied RGBA over premultiplied RGBA."""
    height, width = pixels.shape[:2]
    layer = warp(sprite, matrix, (0, 0, width, height))
    through = 255 - layer[..., 3:]
    pixels[:] = layer + (pixels.astype(np.uint16) * through // 255).astype(np.uint8)


# Light.


def _light(width: int, height: int, rng: Generator) -> np.ndarray:
    """One lamp on a side, another tint on the other, darker corners."""
    x, y = np.linspace(-1, 1, width)[None], np.linspace(-1, 1, height)[:, None]
    side = float(rng.uniform(-0.16, 0.16)) * x + float(rng.uniform(-0.08, 0.05)) * y
    corner = -float(rng.uniform(0.02, 0.14)) * (x**2 + y**2)
    warm = rng.uniform(-0.05, 0.05, 3)
    level = (
        128
        * (1 + side + corner)[..., None]
        * (1 + warm * np.broadcast_to(x, (height, width))[..., None])
    )
    return level.clip(0, 255).astype(np.uint8)
