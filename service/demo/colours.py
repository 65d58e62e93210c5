"""Colours of made products: named ones, and how they are told apart and mixed."""

from __future__ import annotations

import colorsys
import math

import numpy as np

Colour = tuple[int, int, int]

WHITE: Colour = (252, 251, 247)
INK: Colour = (38, 36, 44)

_NAMED: dict[str, Colour] = {
    "Tomato": (214, 62, 48),
    "Coral": (239, 118, 96),
    "Apricot": (247, 166, 92),
    "Honey": (240, 184, 54),
    "Lemon": (250, 218, 88),
    "Lime": (163, 200, 72),
    "Leaf": (86, 150, 78),
    "Forest": (34, 92, 66),
    "Mint": (140, 208, 178),
    "Teal": (28, 132, 136),
    "Sky": (124, 186, 226),
    "Ocean": (40, 104, 176),
    "Navy": (32, 48, 98),
    "Lilac": (176, 156, 214),
    "Plum": (112, 58, 118),
    "Rose": (232, 140, 168),
    "Berry": (180, 40, 88),
    "Cocoa": (108, 70, 52),
    "Sand": (222, 200, 164),
    "Cream": (246, 234, 208),
    "Slate": (92, 104, 118),
    "Coal": (52, 50, 56),
}
COLOUR_NAMES = tuple(_NAMED)


def named_colour(name: str, rng: np.random.Generator | None = None) -> Colour:
    """The colour of that name, moved a little where `rng` is given."""
    colour = _NAMED[name]
    if rng is None:
        return colour
    hue, light, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in colour))
    hue += rng.uniform(-0.015, 0.015)
    light = float(np.clip(light * rng.uniform(0.92, 1.06), 0.08, 0.95))
    red, green, blue = colorsys.hls_to_rgb(hue % 1, light, saturation * rng.uniform(0.85, 1.0))
    return round(red * 255), round(green * 255), round(blue * 255)


def luminance(colour: Colour) -> float:
    """Perceived brightness, 0 to 1."""
    return (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) / 255


def distance(first: Colour, second: Colour) -> float:
    """How far apart two colours look, 0 (the same) to about 1 (black and white)."""
    red, green, blue = ((a - b) / 255 for a, b in zip(first, second, strict=True))
    return math.sqrt(0.3 * red**2 + 0.45 * green**2 + 0.25 * blue**2)


def readable_on(ground: Colour) -> Colour:
    """White or ink, whichever is legible on `ground`."""
    return INK if luminance(ground) > 0.58 else WHITE


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of the second colour in the first."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
