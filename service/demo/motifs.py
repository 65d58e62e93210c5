"""Motifs of made products: each draws around (x, y) with radius r in a main and a second colour."""

# ruff: noqa: PLR0917 - all motifs share one short signature: draw, x, y, r, main, second

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import ImageDraw

from service.demo.colours import INK, WHITE, Colour, mix

Draw = ImageDraw.ImageDraw
Motif = Callable[[Draw, float, float, float, Colour, Colour], None]


def disc(draw: Draw, x: float, y: float, r: float, colour: Colour) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _star_points(x: float, y: float, r: float, points: int, inner: float) -> list[float]:
    corners: list[float] = []
    for k in range(2 * points):
        length = r if k % 2 == 0 else r * inner
        angle = math.pi * k / points - math.pi / 2
        corners += [x + length * math.cos(angle), y + length * math.sin(angle)]
    return corners


def _leaf_shape(
    draw: Draw, x: float, y: float, length: float, angle: float, colour: Colour
) -> None:
    side, steps = length * 0.26, np.linspace(0, 1, 12)
    along = [(t * length, side * math.sin(math.pi * t)) for t in steps]
    outline = along + [(a, -b) for a, b in reversed(along)]
    cos, sin = math.cos(angle), math.sin(angle)
    draw.polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in outline], fill=colour)


def _fruit(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    disc(draw, x - r * 0.22, y + r * 0.15, r * 0.72, main)
    disc(draw, x + r * 0.22, y + r * 0.15, r * 0.72, main)
    disc(draw, x - r * 0.4, y - r * 0.08, r * 0.2, mix(main, WHITE, 0.45))
    draw.line((x, y - r * 0.4, x + r * 0.1, y - r * 0.85), fill=INK, width=max(2, int(r * 0.09)))
    _leaf_shape(draw, x + r * 0.08, y - r * 0.66, r * 0.75, -0.5, second)


def _berries(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    for angle in (-0.3, -1.5, -2.7):
        _leaf_shape(draw, x, y - r * 0.35, r * 0.65, angle, second)
    for row, count in enumerate((3, 4, 3, 2, 1)):
        for k in range(count):
            bx, by = x + (k - (count - 1) / 2) * r * 0.42, y + (row - 1) * r * 0.36
            disc(draw, bx, by, r * 0.24, mix(main, INK, 0.12 * ((row + k) % 2)))
            disc(draw, bx - r * 0.07, by - r * 0.08, r * 0.06, mix(main, WHITE, 0.6))


def _citrus(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    disc(draw, x, y, r, main)
    disc(draw, x, y, r * 0.86, mix(main, WHITE, 0.82))
    for k in range(9):
        start = k * 40 + 3
        box = (x - r * 0.78, y - r * 0.78, x + r * 0.78, y + r * 0.78)
        draw.pieslice(box, start, start + 33, fill=mix(main, second, 0.08))


def _star(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    draw.polygon(_star_points(x, y, r, 5, 0.44), fill=main)
    draw.polygon(_star_points(x, y, r * 0.5, 5, 0.44), fill=second)


def _sun(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    draw.polygon(_star_points(x, y, r, 14, 0.7), fill=main)
    disc(draw, x, y, r * 0.52, second)


def _wave(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    width = max(3, int(r * 0.24))
    for row, colour in zip((-0.55, 0.0, 0.55), (main, second, main), strict=True):
        line = [
            (x + r * t, y + r * (row + 0.17 * math.sin(t * 6.3))) for t in np.linspace(-1, 1, 40)
        ]
        draw.line(line, fill=colour, width=width, joint="curve")


def _leaves(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    stem = max(2, int(r * 0.08))
    draw.line((x, y + r, x, y - r * 0.4), fill=second, width=stem)
    for k, height in enumerate((0.7, 0.25, -0.2)):
        _leaf_shape(draw, x, y + height * r, r * 0.9, -0.65, main if k % 2 else second)
        _leaf_shape(draw, x, y + height * r, r * 0.9, math.pi + 0.65, second if k % 2 else main)
    _leaf_shape(draw, x, y - r * 0.3, r * 0.75, -math.pi / 2, main)


def _flower(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    for k in range(7):
        angle = k * math.tau / 7
        disc(draw, x + r * 0.58 * math.cos(angle), y + r * 0.58 * math.sin(angle), r * 0.36, main)
    disc(draw, x, y, r * 0.36, second)


def _hills(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    disc(draw, x + r * 0.45, y - r * 0.5, r * 0.27, second)
    peaks = ((-0.3, 0.9, main), (0.42, 0.5, mix(main, INK, 0.25)))
    for centre, height, colour in peaks:
        base = y + r * 0.75
        left, right = x + (centre - 0.7) * r, x + (centre + 0.7) * r
        top = (x + centre * r, base - 1.6 * height * r)
        draw.polygon([(left, base), top, (right, base)], fill=colour)
        cap = 0.28
        draw.polygon(
            [
                top,
                (top[0] + (right - top[0]) * cap, top[1] + (base - top[1]) * cap),
                (top[0] + (left - top[0]) * cap, top[1] + (base - top[1]) * cap),
            ],
            fill=WHITE,
        )


def _fish(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    draw.polygon(
        [(x + r * 0.45, y), (x + r, y - r * 0.5), (x + r * 0.86, y), (x + r, y + r * 0.5)],
        fill=second,
    )
    draw.ellipse((x - r, y - r * 0.5, x + r * 0.62, y + r * 0.5), fill=main)
    for k in range(3):
        left = x - r * 0.35 + k * r * 0.28
        box = (left, y - r * 0.3, left + r * 0.3, y + r * 0.3)
        draw.arc(box, -70, 70, fill=second, width=max(2, int(r * 0.07)))
    disc(draw, x - r * 0.64, y - r * 0.1, r * 0.1, WHITE)
    disc(draw, x - r * 0.64, y - r * 0.1, r * 0.05, INK)


def _heart(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    for scale, colour in ((1.0, main), (0.55, second)):
        angles = np.linspace(0, math.tau, 40)
        points = [
            (
                x + scale * r * math.sin(t) ** 3,
                y
                - scale
                * r
                * (0.81 * math.cos(t) - 0.31 * math.cos(2 * t) - 0.12 * math.cos(3 * t)),
            )
            for t in angles
        ]
        draw.polygon(points, fill=colour)


def _drop(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    draw.polygon(
        [(x, y - r), (x + r * 0.58, y + r * 0.14), (x - r * 0.58, y + r * 0.14)], fill=main
    )
    disc(draw, x, y + r * 0.32, r * 0.64, main)
    draw.arc(
        (x - r * 0.4, y - r * 0.05, x + r * 0.4, y + r * 0.75), 100, 190, second, int(r * 0.12) + 1
    )


def _wheat(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    for lean in (-0.35, 0.0, 0.35):
        root, tip = (x + lean * r * 0.3, y + r), (x + lean * r * 1.9, y - r * 0.8)
        draw.line((*root, *tip), fill=second, width=max(2, int(r * 0.06)))
        for t in np.linspace(0.42, 1.0, 5):
            px, py = root[0] + (tip[0] - root[0]) * t, root[1] + (tip[1] - root[1]) * t
            _leaf_shape(draw, px, py, r * 0.36, -math.pi / 2 + lean + 0.6, main)
            _leaf_shape(draw, px, py, r * 0.36, -math.pi / 2 + lean - 0.6, main)


def _moon(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    disc(draw, x, y, r, second)
    outer = [
        (x + r * 0.8 * math.cos(t), y + r * 0.8 * math.sin(t)) for t in np.linspace(0.9, 5.4, 30)
    ]
    inner = [
        (x + r * (0.28 + 0.62 * math.cos(t)), y + r * 0.62 * math.sin(t))
        for t in np.linspace(5.0, 1.28, 24)
    ]
    draw.polygon(outer + inner, fill=main)
    draw.polygon(_star_points(x + r * 0.36, y - r * 0.1, r * 0.24, 5, 0.45), fill=main)


def _rings(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    for scale, colour in ((1.0, main), (0.78, second), (0.54, main), (0.28, second)):
        disc(draw, x, y, r * scale, colour)


def _bolt(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    outline = [(0.25, -1), (-0.62, 0.16), (-0.06, 0.16), (-0.3, 1), (0.62, -0.24), (0.06, -0.24)]
    for shift, colour in ((0.1, second), (0.0, main)):
        draw.polygon([(x + r * (a + shift), y + r * (b + shift)) for a, b in outline], fill=colour)


def _cup(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    draw.arc((x + r * 0.25, y - r * 0.2, x + r, y + r * 0.45), -90, 90, main, max(3, int(r * 0.14)))
    draw.rounded_rectangle(
        (x - r * 0.8, y - r * 0.3, x + r * 0.6, y + r * 0.75), r * 0.35, fill=main
    )
    for k in range(3):
        left = x - r * 0.5 + k * r * 0.36
        steam = [
            (left + r * 0.09 * math.sin(5 * t), y - r * (0.42 + 0.5 * t)) for t in (0, 0.3, 0.6, 1)
        ]
        draw.line(steam, fill=second, width=max(2, int(r * 0.09)), joint="curve")


def _paw(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    draw.ellipse((x - r * 0.55, y - r * 0.05, x + r * 0.55, y + r * 0.8), fill=main)
    for tx, ty in ((-0.68, -0.2), (-0.26, -0.62), (0.26, -0.62), (0.68, -0.2)):
        disc(draw, x + tx * r, y + ty * r, r * 0.22, second)


MOTIFS: dict[str, Motif] = {
    "Fruit": _fruit,
    "Berry": _berries,
    "Citrus": _citrus,
    "Star": _star,
    "Sun": _sun,
    "Wave": _wave,
    "Herb": _leaves,
    "Bloom": _flower,
    "Alpine": _hills,
    "Fish": _fish,
    "Heart": _heart,
    "Drop": _drop,
    "Wheat": _wheat,
    "Moon": _moon,
    "Ring": _rings,
    "Bolt": _bolt,
    "Cup": _cup,
    "Paw": _paw,
}
