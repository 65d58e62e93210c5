"""The shop's own picture of a product: evenly lit, sharp, and as varied as shops make them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from training.data.synthetic.articles import Article
from training.data.synthetic.chance import pick
from training.data.synthetic.film import encode
from training.data.synthetic.room import WALLS, WOODS
from training.data.synthetic.sprites import Colour, paste, placed, tint

BANNERS: tuple[Colour, ...] = ((206, 34, 52), (24, 70, 150), (30, 30, 34), (226, 150, 30))
PASTELS = (*WALLS, (250, 226, 226), (226, 240, 250), (252, 244, 214))


def shop_picture(article: Article, size: int, rng: Generator) -> bytes:
    """JPEG, square with sides of `size` pixels."""
    picture = _ground(size, rng)
    sprite = article.sprite
    share = float(rng.uniform(0.62, 0.9)) * size
    width = share if sprite.width >= sprite.height else share * sprite.width / sprite.height
    height = width * sprite.height / sprite.width
    centre = (size * float(rng.uniform(0.47, 0.53)), size * float(rng.uniform(0.49, 0.54)))
    detail = rng.random() < 0.15
    if detail:  # room for a second view in a corner
        width, height = 0.78 * width, 0.78 * height
        centre = (0.42 * size, centre[1])
    _shadow(picture, centre, width, height)
    angle = float(rng.normal(0, 3))
    paste(picture, sprite, placed(sprite, centre, width, angle))
    if detail:
        second = (0.84 * size, 0.8 * size)
        paste(picture, sprite, placed(sprite, second, width * 0.36, angle))
    if rng.random() < 0.25:
        _banner(picture, article, rng)
    return encode(picture, int(rng.integers(80, 95)))


def _ground(size: int, rng: Generator) -> np.ndarray:
    """White, pastel, or a board under a wall."""
    picture = np.empty((size, size, 3), np.uint8)
    kind = rng.random()
    if kind < 0.55:
        picture[:] = (255, 255, 255)
        return picture
    colour = pick(PASTELS, rng)
    upper, lower = tint(colour, 1.08), tint(colour, 0.9)
    picture[:] = np.linspace(upper, lower, size)[:, None].astype(np.uint8)
    if kind > 0.85:
        floor = round(size * float(rng.uniform(0.7, 0.85)))
        wood = pick(WOODS, rng)
        picture[floor:] = np.linspace(wood, tint(wood, 1.15), size - floor)[:, None].astype(
            np.uint8
        )
    return picture


def _shadow(picture: np.ndarray, centre: tuple[float, float], width: float, height: float) -> None:
    """Soft, under the product."""
    size = picture.shape[0]
    shade = np.zeros((size, size), np.uint8)
    foot = (round(centre[0] + 0.02 * size), round(centre[1] + height / 2 - 0.01 * size))
    cv2.ellipse(
        shade, foot, (round(0.46 * width), max(2, round(0.035 * size))), 0, 0, 360, (110,), -1
    )
    soft = cv2.bitwise_not(cv2.blur(shade, (size // 16 | 1, size // 16 | 1)))
    cv2.multiply(picture, cv2.merge((soft, soft, soft)), picture, scale=1 / 255)


def _banner(picture: np.ndarray, article: Article, rng: Generator) -> None:
    """A strip of advertising along an edge."""
    size = picture.shape[0]
    brand, off = article.product.brand, int(rng.integers(1, 7)) * 10
    colour = pick(BANNERS, rng)
    high = round(size * 0.1)
    top = 0 if rng.random() < 0.3 else size - high
    cv2.rectangle(picture, (0, top), (size, top + high), colour, -1)
    words = pick((f"{brand}  -{off}%", brand.upper(), "FREE SHIPPING"), rng)
    place = (round(size * 0.06), top + round(high * 0.72))
    font, scale = cv2.FONT_HERSHEY_DUPLEX, size / 400
    cv2.putText(picture, words, place, font, scale, (255, 255, 255), 1, cv2.LINE_AA)
