"""Heads: a sprite of skin, hair and features, with the mouth closed or open."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from training.data.synthetic.chance import pick
from training.data.synthetic.sprites import Colour, Sprite, fill, smooth, tint, to_sprite

SKINS: tuple[Colour, ...] = (
    (246, 214, 190), (236, 194, 164), (224, 174, 140), (198, 142, 106), (160, 106, 76),
    (116, 76, 56),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (28, 24, 26), (52, 36, 30), (92, 60, 40), (140, 92, 52), (196, 154, 96), (120, 44, 36),
    (150, 146, 144),
)  # fmt: skip
HEAD = 128  # pixels of the head's sprite


@dataclass(frozen=True)
class Looks:
    """Of one head."""

    skin: Colour
    hair: Colour
    style: int
    """0 long, 1 a bob, 2 tied up, 3 short."""
    part: float
    """Where the hair is parted, share of the width."""
    fringe: float
    """How far it comes down, share of the height."""
    eye: float


def draw_looks(rng: Generator) -> Looks:
    return Looks(
        skin=pick(SKINS, rng),
        hair=pick(HAIRS, rng),
        style=int(rng.integers(4)),
        part=float(rng.uniform(0.35, 0.65)),
        fringe=float(rng.uniform(0.3, 0.38)),
        eye=float(rng.uniform(0.05, 0.065)),
    )


class _Paint:
    """Colour and alpha of a head; coordinates are shares of its width and height."""

    def __init__(self) -> None:
        self.size = (HEAD, round(HEAD * 1.25))
        self.colour = np.zeros((self.size[1], self.size[0], 3), np.uint8)
        self.alpha = np.zeros((self.size[1], self.size[0]), np.uint8)

    def area(self, points: np.ndarray, tone: Colour) -> None:
        fill(self.colour, points * self.size, tone)
        fill(self.alpha, points * self.size, (255,))

    def oval(self, x: float, y: float, across: float, down: float, tone: Colour) -> None:
        t = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        self.area(np.column_stack((x + across * np.cos(t), y + down * np.sin(t))), tone)

    def curve(self, points: list[tuple[float, float]], tone: Colour, rounds: int = 2) -> None:
        self.area(smooth(points, rounds), tone)


def draw_head(looks: Looks, *, open_mouth: bool) -> Sprite:
    """Hair behind, face, features, hair in front."""
    paint = _Paint()
    _hair_behind(paint, tint(looks.hair, 0.8), looks.style)
    for x in (0.155, 0.845):
        paint.oval(x, 0.53, 0.05, 0.075, tint(looks.skin, 0.86))
    paint.curve(_FACE, looks.skin)
    _features(paint, looks, open_mouth=open_mouth)
    _hair_in_front(paint, looks)
    _shade(paint.colour)
    return to_sprite(paint.colour, paint.alpha)


_FACE = [(0.17, 0.3), (0.5, 0.1), (0.83, 0.3), (0.82, 0.62), (0.64, 0.9), (0.5, 0.95), (0.36, 0.9),
         (0.18, 0.62)]  # fmt: skip


def _hair_behind(paint: _Paint, hair: Colour, style: int) -> None:
    if style == 0:  # long
        paint.curve([(0.14, 0.3), (0.3, 0.05), (0.7, 0.05), (0.86, 0.3), (0.92, 0.95), (0.68, 1.0),
                     (0.32, 1.0), (0.08, 0.95)], hair)  # fmt: skip
    elif style == 1:  # a bob
        paint.curve([(0.12, 0.35), (0.3, 0.06), (0.7, 0.06), (0.88, 0.35), (0.88, 0.72),
                     (0.12, 0.72)], hair)  # fmt: skip
    elif style == 2:  # tied up
        paint.oval(0.5, 0.07, 0.15, 0.09, hair)
        paint.oval(0.5, 0.38, 0.37, 0.34, hair)


def _hair_in_front(paint: _Paint, looks: Looks) -> None:
    hair, part, fringe = looks.hair, looks.part, looks.fringe
    if looks.style == 3:  # short
        paint.curve([(0.13, 0.48), (0.14, 0.2), (0.36, 0.04), (0.66, 0.04), (0.87, 0.2),
                     (0.87, 0.48), (0.8, 0.3), (0.5, 0.24), (0.2, 0.3)], hair)  # fmt: skip
    else:
        paint.curve([(0.13, 0.52), (0.16, 0.2), (0.4, 0.04), (0.62, 0.04), (0.85, 0.2),
                     (0.88, 0.52), (0.78, fringe), (part, 0.17), (0.22, fringe)], hair)  # fmt: skip


def _features(paint: _Paint, looks: Looks, *, open_mouth: bool) -> None:
    """Eyes, brows, cheeks, nose and mouth."""
    skin, brow = looks.skin, tint(looks.hair, 0.7)
    cheek = (min(skin[0] + 8, 255), max(skin[1] - 14, 0), max(skin[2] - 10, 0))
    for x in (0.34, 0.66):
        paint.oval(x, 0.52, looks.eye, 0.026, (246, 244, 240))
        paint.oval(x, 0.52, 0.026, 0.028, (52, 36, 30))
        paint.curve([(x - 0.075, 0.452), (x, 0.43), (x + 0.075, 0.452), (x, 0.455)], brow, 1)
        paint.oval(x + (x - 0.5) * 0.25, 0.64, 0.065, 0.035, cheek)
    paint.curve([(0.49, 0.5), (0.53, 0.63), (0.46, 0.635)], tint(skin, 0.9), 1)
    if open_mouth:
        paint.oval(0.5, 0.765, 0.085, 0.045, (96, 30, 36))
        paint.oval(0.5, 0.745, 0.06, 0.014, (240, 236, 230))
    paint.curve([(0.4, 0.745), (0.5, 0.725), (0.6, 0.745), (0.5, 0.762)], (190, 80, 84), 1)


def _shade(colour: np.ndarray) -> None:
    """Light from the upper left, in place."""
    height, width = colour.shape[:2]
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    light = 0.74 + 0.34 * np.sqrt(np.clip(1 - ((x + 0.2) ** 2 + (0.8 * y + 0.15) ** 2) / 1.9, 0, 1))
    level = (light * 128).astype(np.uint8)
    cv2.multiply(colour, cv2.merge((level, level, level)), colour, scale=1 / 128)
