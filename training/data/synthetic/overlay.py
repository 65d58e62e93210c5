"""What a livestreaming app draws over the picture: chat, a badge, buttons, sometimes a banner."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from training.data.synthetic.chance import pick
from training.data.synthetic.sprites import Colour, to_sprite

CHAT = (
    "price?", "is it in M", "wow", "link pls", "love it", "second one?", "size 38", "hello",
    "so pretty", "ship to me", "colour?", "1 for me", "just bought", "hi from home",
)  # fmt: skip
BANNERS: tuple[Colour, ...] = ((214, 40, 60), (40, 90, 180), (240, 180, 40))
BUTTONS: tuple[Colour, ...] = ((240, 80, 100), (255, 255, 255), (250, 190, 60))
WHITE: Colour = (255, 255, 255)
INK: Colour = (30, 30, 34)


def draw_overlay(width: int, height: int, rng: Generator) -> np.ndarray:
    """Premultiplied RGBA [height,width,4]."""
    layer = _Layer(width, height)
    layer.bar(0.03, 0.025, 0.34, 0.045, INK, 120)
    layer.text(f"LIVE {int(rng.integers(100, 9999))}", 0.06, 0.057, 0.3, WHITE)
    for line in range(int(rng.integers(2, 5))):
        words, y = pick(CHAT, rng), 0.95 - 0.042 * line
        layer.bar(0.03, y - 0.028, 0.06 + 0.026 * len(words), 0.036, INK, 110)
        layer.text(words, 0.05, y, 0.28, WHITE)
    for place, colour in enumerate(BUTTONS):
        layer.disc(0.92, 0.7 + 0.075 * place, 8, colour)
    if rng.random() < 0.4:
        layer.bar(0.0, 0.1, 1.0, 0.05, pick(BANNERS, rng), 225)
        layer.text(f"SALE  -{int(rng.integers(2, 8)) * 10}%  TODAY", 0.16, 0.135, 0.42, WHITE)
    return to_sprite(layer.colour, layer.alpha).levels[0]


class _Layer:
    """Places are shares of width and height; sizes are for a width of 224."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._unit = width / 224
        self.colour = np.zeros((height, width, 3), np.uint8)
        self.alpha = np.zeros((height, width), np.uint8)

    def _at(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self._size[0]), round(y * self._size[1])

    def text(self, words: str, x: float, y: float, size: float, colour: Colour) -> None:
        for target, tone in ((self.colour, colour), (self.alpha, (230,))):
            cv2.putText(
                target, words, self._at(x, y), cv2.FONT_HERSHEY_SIMPLEX, size * self._unit, tone, 1,
                cv2.LINE_AA,
            )  # fmt: skip

    def bar(self, x: float, y: float, wide: float, high: float, tone: Colour, cover: int) -> None:  # noqa: PLR0917
        for target, value in ((self.colour, tone), (self.alpha, (cover,))):
            cv2.rectangle(target, self._at(x, y), self._at(x + wide, y + high), value, -1)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        for target, tone in ((self.colour, colour), (self.alpha, (200,))):
            cv2.circle(target, self._at(x, y), round(radius * self._unit), tone, -1, cv2.LINE_AA)
