"""The shapes of products: what is cut out of a printed face, and how it is shaded.

A shape is drawn in a box of width 1 and height `aspect`; all its coordinates are shares of that
box, y down. It knows where hands hold it and where a label has room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.data.synthetic.sprites import smooth

Fill = Literal["face", "ground", "print", "detail", "metal", "glass", "dark", "white", "skin"]
Shading = Literal["round", "flat", "cloth", "ball", "none"]
Points = np.ndarray | list[tuple[float, float]]


@dataclass(frozen=True)
class Part:
    points: Points
    fill: Fill
    shading: Shading
    dim: float = 1.0
    """Darker below 1: the inside, the far side."""
    sleeve: bool = False
    """Left out where the garment is worn: arms have sleeves of their own."""


@dataclass(frozen=True)
class Shape:
    aspect: float
    """Height over width."""
    parts: tuple[Part, ...]
    room: tuple[float, float, float, float] = (0.3, 0.3, 0.7, 0.7)
    """Of a label or motif: left, top, right, bottom."""
    grips: tuple[tuple[float, float], tuple[float, float]] = ((0.06, 0.6), (0.94, 0.6))
    """Where the left and the right hand hold it."""


Cut = tuple[float, float, float]


def shape_of(name: str, cut: Cut) -> Shape:
    return _SHAPES[name](*cut)


def _mirror(right: list[tuple[float, float]]) -> Points:
    """A symmetric outline from its right half, from top to bottom."""
    half = np.asarray(right, float)
    return np.concatenate((half, half[::-1] * (-1, 1) + (1, 0)))


def _profile(steps: list[tuple[float, float]]) -> Points:
    """A turned body: half widths at heights, (y, half width)."""
    return _mirror([(0.5 + half, y) for y, half in steps])


def _blend(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


# Garments: sleeves at the sides, the middle of the body at x = 0.5.


def _top(sleeve: float, length: float, flare: float, collar: float) -> list[Part]:
    """Sleeves reach down to `sleeve`; the body is cut straight at `length`."""
    arm = 0.115  # width of a sleeve's end
    body = _mirror(
        [
            (0.5, 0.07 + collar),
            (0.6, 0.02),
            (0.74, 0.06),
            (0.745, 0.3),
            (0.74 + flare, length - 0.02),
            (0.74 + flare, length),
            (0.7, length),
        ]
    )
    right = [(0.72, 0.05), (0.83, 0.1), (0.985, sleeve), (0.985 - arm, sleeve + 0.035), (0.72, 0.3)]
    left = [(1 - x, y) for x, y in right]
    neck = [(0.4, 0.025), (0.6, 0.025), (0.56, 0.06 + collar), (0.44, 0.06 + collar)]
    return [
        Part(smooth(neck, 1), "ground", "flat", 0.45),
        Part(smooth(left, 1), "face", "cloth", 0.88, sleeve=True),
        Part(smooth(right, 1), "face", "cloth", 0.94, sleeve=True),
        Part(smooth(body, 1), "face", "cloth"),
    ]


def _tee(a: float, b: float, c: float) -> Shape:
    collar = _blend(0.02, 0.08, b)
    parts = _top(_blend(0.26, 0.36, a), 0.98, _blend(-0.02, 0.03, c), collar)
    ring = [
        (0.4, 0.03),
        (0.5, 0.085 + collar),
        (0.6, 0.03),
        (0.625, 0.035),
        (0.5, 0.12 + collar),
        (0.375, 0.035),
    ]
    parts.append(Part(smooth(ring, 1), "detail", "none"))
    return Shape(1.05, tuple(parts), (0.34, 0.26, 0.66, 0.58), ((0.27, 0.07), (0.73, 0.07)))


def _sweater(a: float, b: float, c: float) -> Shape:
    parts = _top(_blend(0.72, 0.86, a), 0.92, _blend(-0.04, 0.01, b), 0.01)
    hem = [(0.27, 0.9), (0.73, 0.9), (0.72, 0.985), (0.28, 0.985)]
    turtle = [(0.4, 0.0), (0.6, 0.0), (0.61, 0.09), (0.39, 0.09)]
    parts += [Part(hem, "detail", "cloth", 0.9), Part(turtle, "detail", "cloth", 0.95)]
    return Shape(1.1, tuple(parts), (0.33, 0.25, 0.67, 0.58), ((0.27, 0.07), (0.73, 0.07)))


def _shirt(a: float, b: float, c: float) -> Shape:
    parts = _top(_blend(0.6, 0.85, a), 0.98, _blend(-0.01, 0.03, b), 0.04)
    placket = [(0.485, 0.12), (0.515, 0.12), (0.515, 0.97), (0.485, 0.97)]
    wing = [(0.4, 0.02), (0.5, 0.13), (0.42, 0.17), (0.36, 0.05)]
    parts += [Part(placket, "detail", "none", 0.95), Part(wing, "detail", "none")]
    parts += [Part([(1 - x, y) for x, y in wing], "detail", "none", 0.93)]
    parts += [
        Part(_round(0.5, y, 0.012, 1.1), "white", "none") for y in (0.25, 0.41, 0.57, 0.73, 0.88)
    ]
    return Shape(1.1, tuple(parts), (0.53, 0.22, 0.68, 0.38), ((0.27, 0.07), (0.73, 0.07)))


def _coat(a: float, b: float, c: float) -> Shape:
    parts = _top(_blend(0.68, 0.78, a), 0.985, _blend(0.02, 0.08, b), 0.05)
    opening = [(0.46, 0.05), (0.54, 0.05), (0.515, 0.98), (0.5, 0.98)]
    lapel = [(0.4, 0.02), (0.505, 0.36), (0.4, 0.28), (0.33, 0.05)]
    belt = [(0.25, 0.52), (0.75, 0.52), (0.755, 0.57), (0.245, 0.57)]
    parts += [Part(opening, "dark", "none"), Part(lapel, "detail", "flat")]
    parts += [Part([(1 - x, y) for x, y in lapel], "detail", "flat", 0.9)]
    if c > 0.5:
        parts.append(Part(belt, "detail", "flat", 0.8))
    parts += [Part(_round(0.57, y, 0.018, 1.3), "dark", "ball") for y in (0.42, 0.62, 0.76)]
    return Shape(1.3, tuple(parts), (0.56, 0.24, 0.7, 0.36), ((0.27, 0.06), (0.73, 0.06)))


def _dress(a: float, b: float, c: float) -> Shape:
    waist, flare = _blend(0.36, 0.46, a), _blend(0.1, 0.26, b)
    body = _mirror([(0.5, 0.1), (0.56, 0.08), (0.6, 0.01), (0.64, 0.01), (0.68, 0.12), (0.66, 0.2),
                    (0.62, waist), (0.68 + flare * 0.5, 0.7), (0.695 + flare, 0.96),
                    (0.7 + flare, 0.985), (0.66 + flare, 0.985)])  # fmt: skip
    belt = [
        (0.38, waist - 0.015),
        (0.62, waist - 0.015),
        (0.625, waist + 0.02),
        (0.375, waist + 0.02),
    ]
    parts = [Part(smooth(body, 1), "face", "cloth"), Part(belt, "detail", "flat", 0.9)]
    if c > 0.4:
        hem = _mirror([(0.69 + flare * 0.9, 0.93), (0.7 + flare, 0.985)])
        parts.append(Part(hem, "detail", "cloth"))
    return Shape(1.6, tuple(parts), (0.4, 0.14, 0.6, 0.3), ((0.37, 0.03), (0.63, 0.03)))


def _skirt(a: float, b: float, c: float) -> Shape:
    top, bottom = _blend(0.18, 0.24, a), _blend(0.38, 0.49, b)
    body = _mirror([(0.5 + top, 0.06), (0.5 + 0.6 * bottom, 0.4), (0.5 + bottom, 0.98)])
    band = _mirror([(0.5 + top - 0.01, 0.01), (0.5 + top + 0.005, 0.1)])
    return Shape(
        _blend(0.8, 1.3, c), (Part(body, "face", "cloth"), Part(band, "detail", "flat")),
        (0.36, 0.42, 0.64, 0.72), ((0.5 - top, 0.05), (0.5 + top, 0.05)),
    )  # fmt: skip


def _trousers(a: float, b: float, c: float) -> Shape:
    leg = _blend(0.13, 0.24, a)
    right = [(0.5, 0.05), (0.76, 0.05), (0.82, 0.3), (0.66 + leg / 2 + 0.08, 0.99),
             (0.66 - leg / 2 + 0.06, 0.99), (0.51, 0.36)]  # fmt: skip
    band = _mirror([(0.755, 0.01), (0.765, 0.075)])
    parts = (
        Part([(1 - x, y) for x, y in right], "face", "cloth", 0.9),
        Part(right, "face", "cloth"),
        Part(band, "detail", "flat", 0.95),
        Part([(0.49, 0.08), (0.51, 0.08), (0.51, 0.3), (0.49, 0.33)], "dark", "none"),
    )
    return Shape(_blend(1.5, 1.9, b), parts, (0.56, 0.12, 0.74, 0.24), ((0.25, 0.04), (0.75, 0.04)))


def _scarf(a: float, b: float, c: float) -> Shape:
    body = _mirror([(0.9, 0.02), (0.88, 0.5), (0.92, 0.93)])
    fringe = [
        Part(
            [(x, 0.92), (x + 0.05, 0.92), (x + 0.045, 0.995), (x + 0.005, 0.995)], "detail", "none"
        )
        for x in np.arange(0.1, 0.88, 0.075)
    ]
    band = [(0.11, 0.8), (0.89, 0.8), (0.89, 0.87), (0.11, 0.87)]
    return Shape(
        _blend(1.2, 1.7, a), (Part(body, "face", "cloth"), Part(band, "detail", "cloth"), *fringe),
        (0.3, 0.25, 0.7, 0.6), ((0.14, 0.04), (0.86, 0.04)),
    )  # fmt: skip


def _socks(a: float, b: float, c: float) -> Shape:
    def one(x: float) -> list[Part]:
        foot = [(0.02, 0.02), (0.3, 0.02), (0.31, 0.56), (0.5, 0.78), (0.5, 0.96), (0.32, 0.98),
                (0.03, 0.72)]  # fmt: skip
        cuff = [(0.02, 0.01), (0.3, 0.01), (0.305, 0.13), (0.02, 0.13)]
        toe = [(0.4, 0.75), (0.5, 0.8), (0.5, 0.96), (0.36, 0.97)]
        moved = [[(px * 0.98 + x, py) for px, py in points] for points in (foot, cuff, toe)]
        fills: tuple[Fill, ...] = ("face", "detail", "detail")
        return [Part(smooth(p, 1), f, "cloth") for p, f in zip(moved, fills, strict=True)]

    return Shape(_blend(0.85, 1.1, a), (*one(0.44), *one(0.0)), (0.06, 0.2, 0.28, 0.5),
                 ((0.05, 0.2), (0.75, 0.2)))  # fmt: skip


# Turned bodies and packaging.


def _bottle(a: float, b: float, c: float) -> Shape:
    neck, shoulder = _blend(0.16, 0.26, a), _blend(0.2, 0.34, b)
    body = _profile([(0.1, neck), (0.16, neck), (shoulder, 0.47), (0.96, 0.47), (0.99, 0.42)])
    cap = _profile([(0.005, neck + 0.03), (0.1, neck + 0.03)])
    return Shape(_blend(2.1, 2.7, c), (Part(body, "face", "round"), Part(cap, "detail", "round")),
                 (0.12, 0.42, 0.88, 0.82), ((0.05, 0.62), (0.95, 0.62)))  # fmt: skip


def _wine(a: float, b: float, c: float) -> Shape:
    shoulder = _blend(0.36, 0.46, a)
    body = _profile([(0.02, 0.15), (0.3, 0.16), (shoulder, 0.47), (0.97, 0.47), (0.99, 0.42)])
    foil = _profile([(0.0, 0.165), (0.24, 0.17)])
    label = _profile([(0.52, 0.472), (0.86, 0.472)])
    parts = (
        Part(body, "dark", "round"),
        Part(foil, "detail", "round"),
        Part(label, "face", "round"),
    )
    return Shape(_blend(3.2, 3.8, b), parts, (0.1, 0.53, 0.9, 0.85), ((0.05, 0.45), (0.95, 0.45)))


def _jar(a: float, b: float, c: float) -> Shape:
    lid = _blend(0.22, 0.38, a)
    body = _profile([(lid, 0.47), (0.9, 0.48), (0.99, 0.43)])
    top = _profile([(0.02, 0.46), (0.05, 0.485), (lid, 0.485)])
    return Shape(_blend(0.75, 1.0, b), (Part(body, "face", "round"), Part(top, "detail", "round")),
                 (0.2, lid + 0.08, 0.8, 0.92), ((0.03, 0.6), (0.97, 0.6)))  # fmt: skip


def _pump(a: float, b: float, c: float) -> Shape:
    body = _profile([(0.26, 0.2), (0.31, 0.44), (0.36, 0.48), (0.97, 0.48), (0.995, 0.44)])
    collar = _profile([(0.17, 0.14), (0.26, 0.15)])
    stem = _profile([(0.07, 0.05), (0.18, 0.05)])
    head = [(0.08, 0.03), (0.64, 0.01), (0.64, 0.085), (0.12, 0.075)]
    parts = (Part(stem, "white", "round"), Part(head, "detail", "flat"),
             Part(collar, "detail", "round"), Part(body, "face", "round"))  # fmt: skip
    return Shape(_blend(2.0, 2.5, a), parts, (0.1, 0.42, 0.9, 0.88), ((0.04, 0.62), (0.96, 0.62)))


def _dropper(a: float, b: float, c: float) -> Shape:
    bulb = _profile([(0.0, 0.1), (0.05, 0.15), (0.17, 0.15)])
    collar = _profile([(0.17, 0.24), (0.31, 0.24)])
    body = _profile([(0.31, 0.22), (0.38, 0.45), (0.96, 0.47), (0.99, 0.43)])
    parts = (
        Part(bulb, "dark", "round"),
        Part(collar, "metal", "round"),
        Part(body, "face", "round"),
    )
    return Shape(_blend(1.9, 2.3, a), parts, (0.12, 0.48, 0.88, 0.9), ((0.06, 0.66), (0.94, 0.66)))


def _jug(a: float, b: float, c: float) -> Shape:
    body = smooth(
        [
            (0.12, 0.22),
            (0.42, 0.13),
            (0.6, 0.13),
            (0.97, 0.34),
            (0.97, 0.99),
            (0.04, 0.99),
            (0.04, 0.34),
        ],
        1,
    )
    cap = [(0.38, 0.01), (0.63, 0.01), (0.65, 0.14), (0.36, 0.14)]
    hole = smooth([(0.7, 0.32), (0.86, 0.38), (0.86, 0.6), (0.74, 0.58)], 2)
    parts = (
        Part(body, "face", "round"),
        Part(cap, "detail", "round"),
        Part(hole, "ground", "none", 0.4),
    )
    return Shape(_blend(1.25, 1.5, a), parts, (0.12, 0.5, 0.68, 0.92), ((0.05, 0.66), (0.95, 0.5)))


def _tin(a: float, b: float, c: float) -> Shape:
    body = _profile([(0.14, 0.48), (0.97, 0.48), (0.99, 0.46)])
    lid = _profile([(0.01, 0.44), (0.03, 0.49), (0.16, 0.49)])
    parts = (Part(body, "face", "round"), Part(lid, "metal", "round"))
    return Shape(_blend(1.0, 1.5, a), parts, (0.15, 0.26, 0.85, 0.86), ((0.03, 0.6), (0.97, 0.6)))


def _mug(a: float, b: float, c: float) -> Shape:
    wall = _blend(0.66, 0.72, a)
    handle = _ring_part((0.72, 0.5), (0.25, 0.3), 0.09)
    taper = _blend(0.0, 0.07, b)
    body = smooth(
        [(0.02, 0.06), (wall + 0.06, 0.06), (wall + 0.06 - taper, 0.985), (0.02 + taper, 0.985)], 0
    )
    mouth = _ellipse(0.02 + (wall + 0.04) / 2, 0.065, (wall + 0.04) / 2, 0.055)
    parts = (handle, Part(body, "face", "round"), Part(mouth, "ground", "flat", 0.5))
    return Shape(
        _blend(0.85, 1.15, c), parts, (0.14, 0.26, 0.62, 0.82), ((0.03, 0.55), (0.93, 0.5))
    )


def _lipstick(a: float, b: float, c: float) -> Shape:
    stick = [(0.26, 0.34), (0.26, 0.1), (0.66, 0.005), (0.74, 0.05), (0.74, 0.34)]
    collar = _profile([(0.3, 0.3), (0.48, 0.32)])
    base = _profile([(0.47, 0.44), (0.99, 0.45)])
    parts = (
        Part(stick, "print", "round"),
        Part(collar, "metal", "round"),
        Part(base, "face", "round"),
    )
    return Shape(_blend(2.6, 3.2, a), parts, (0.12, 0.52, 0.88, 0.95), ((0.08, 0.7), (0.92, 0.7)))


def _flacon(a: float, b: float, c: float) -> Shape:
    wide = _blend(0.4, 0.49, a)
    neck = _profile([(0.2, 0.12), (0.32, 0.12)])
    cap = _profile([(0.01, _blend(0.14, 0.26, b)), (0.22, _blend(0.16, 0.26, b))])
    outline = [(0.3, wide * 0.75), (0.36, wide), (0.95, wide), (0.99, wide * 0.9)]
    inner = _profile([(0.42, wide - 0.06), (0.92, wide - 0.06)])
    parts = (Part(neck, "metal", "round"), Part(cap, "detail", "round"),
             Part(_profile(outline), "glass", "flat"), Part(inner, "face", "round"))  # fmt: skip
    return Shape(_blend(1.2, 1.7, c), parts, (0.2, 0.5, 0.8, 0.9), ((0.06, 0.65), (0.94, 0.65)))


def _pouch(a: float, b: float, c: float) -> Shape:
    body = _mirror([(0.97, 0.02), (0.93, 0.12), (0.97, 0.5), (0.94, 0.9), (0.97, 0.98)])
    seals = [[(0.03, 0.02), (0.97, 0.02), (0.965, 0.075), (0.035, 0.075)],
             [(0.04, 0.93), (0.96, 0.93), (0.97, 0.98), (0.03, 0.98)]]  # fmt: skip
    parts = [Part(body, "face", "cloth"), *(Part(seal, "detail", "flat") for seal in seals)]
    return Shape(
        _blend(1.2, 1.6, a), tuple(parts), (0.16, 0.22, 0.84, 0.78), ((0.04, 0.6), (0.96, 0.6))
    )


def _sack(a: float, b: float, c: float) -> Shape:
    body = smooth(_mirror([(0.9, 0.12), (0.98, 0.3), (0.99, 0.85), (0.9, 0.99)]), 1)
    neck = smooth(_mirror([(0.86, 0.015), (0.78, 0.08), (0.88, 0.15)]), 1)
    parts = (Part(neck, "detail", "cloth"), Part(body, "face", "cloth"))
    return Shape(_blend(1.25, 1.5, a), parts, (0.16, 0.3, 0.84, 0.84), ((0.05, 0.6), (0.95, 0.6)))


def _box(a: float, b: float, c: float) -> Shape:
    depth = _blend(0.16, 0.3, a)
    front = [(0.015, depth), (0.985, depth), (0.985, 0.985), (0.015, 0.985)]
    lid = [(0.12, 0.02), (0.88, 0.02), (0.985, depth), (0.015, depth)]
    slit = _ellipse(0.5, depth * 0.55, 0.2, 0.05)
    tissue = smooth(
        [(0.4, depth * 0.6), (0.36, 0.02), (0.5, 0.06), (0.62, 0.0), (0.6, depth * 0.6)], 2
    )
    parts = (Part(lid, "detail", "flat", 0.9), Part(slit, "dark", "none"),
             Part(tissue, "white", "cloth"), Part(front, "face", "flat"))  # fmt: skip
    return Shape(
        _blend(0.6, 0.85, b), parts, (0.2, depth + 0.1, 0.8, 0.92), ((0.03, 0.65), (0.97, 0.65))
    )


def _stack(a: float, b: float, c: float) -> Shape:
    layers = 4 if a > 0.5 else 3
    step = 0.98 / layers
    parts = []
    for layer in range(layers):
        top = 0.01 + layer * step
        inset = 0.03 * ((layer * 7) % 3)
        fold = [
            (0.02 + inset, top + 0.01),
            (0.95, top),
            (0.99, top + step * 0.5),
            (0.95, top + step),
            (0.02 + inset, top + step),
        ]
        fills: tuple[Fill, ...] = ("face", "print", "face", "detail")
        parts.append(Part(smooth(fold, 1), fills[layer], "cloth", 1.0 - 0.06 * layer))
    ribbon = [(0.44, 0.0), (0.54, 0.0), (0.54, 1.0), (0.44, 1.0)]
    if b > 0.4:
        parts.append(Part(ribbon, "detail", "flat"))
    return Shape(
        _blend(0.6, 0.85, c), tuple(parts), (0.12, 0.05, 0.4, 0.28), ((0.03, 0.7), (0.97, 0.7))
    )


def _case(a: float, b: float, c: float) -> Shape:
    round_ = 0.06
    body = smooth(
        [
            (0.02, round_ * 0.5),
            (0.02 + round_, 0.01),
            (0.98 - round_, 0.01),
            (0.98, round_ * 0.5),
            (0.98, 0.965),
            (0.98 - round_, 0.99),
            (0.02 + round_, 0.99),
            (0.02, 0.965),
        ],
        2,
    )
    island = smooth([(0.09, 0.04), (0.45, 0.04), (0.45, 0.2 + 0.06 * a), (0.09, 0.2 + 0.06 * a)], 2)
    lenses = [
        Part(_round(x, y, 0.075, 2.0), "metal", "ball") for x, y in ((0.19, 0.09), (0.35, 0.15))
    ]
    parts = (Part(body, "face", "flat"), Part(island, "dark", "flat"), *lenses)
    return Shape(2.0, parts, (0.18, 0.4, 0.82, 0.8), ((0.04, 0.66), (0.96, 0.66)))


# Everything else.


def _shoe(a: float, b: float, c: float) -> Shape:
    upper = smooth(
        [
            (0.05, 0.12),
            (0.26, 0.02),
            (0.42, 0.1),
            (0.56, 0.38),
            (0.88, 0.5),
            (0.98, 0.72),
            (0.96, 0.84),
            (0.04, 0.84),
        ],
        2,
    )
    sole = smooth(
        [(0.02, 0.8), (0.98, 0.78), (0.985, 0.93), (0.93, 0.99), (0.05, 0.99), (0.015, 0.9)], 1
    )
    swoosh = smooth([(0.14, 0.45), (0.34, 0.62), (0.62, 0.5), (0.36, 0.74), (0.18, 0.66)], 1)
    opening = smooth([(0.07, 0.13), (0.25, 0.04), (0.38, 0.12), (0.2, 0.2)], 2)
    tie = ((0, 0), (0.13, -0.08), (0.14, -0.05), (0.01, 0.03))
    laces = [
        Part([(x + dx, y + dy) for dx, dy in tie], "white", "none")
        for x, y in ((0.36, 0.26), (0.42, 0.34), (0.48, 0.42))
    ]
    toe = smooth([(0.78, 0.5), (0.9, 0.52), (0.985, 0.74), (0.96, 0.83), (0.74, 0.83)], 2)
    parts = [
        Part(upper, "face", "cloth"),
        Part(swoosh, "print" if a > 0.4 else "detail", "none"),
        Part(opening, "dark", "none"),
        *laces,
        Part(sole, "white" if b > 0.4 else "detail", "flat", 0.95),
    ]
    if c > 0.5:
        parts.insert(1, Part(toe, "detail", "flat"))
    return Shape(0.55, tuple(parts), (0.12, 0.3, 0.34, 0.6), ((0.08, 0.5), (0.9, 0.8)))


def _boot(a: float, b: float, c: float) -> Shape:
    shaft = smooth(
        [
            (0.06, 0.02),
            (0.52, 0.02),
            (0.54, 0.56),
            (0.84, 0.66),
            (0.97, 0.82),
            (0.96, 0.9),
            (0.05, 0.9),
        ],
        1,
    )
    sole = [(0.04, 0.88), (0.97, 0.88), (0.96, 0.94), (0.38, 0.94), (0.36, 0.995), (0.05, 0.995)]
    cuff = [(0.055, 0.01), (0.525, 0.01), (0.53, 0.12), (0.055, 0.12)]
    zipper = [(0.3, 0.12), (0.325, 0.12), (0.325, 0.8), (0.3, 0.8)]
    parts = [
        Part(shaft, "face", "round"),
        Part(sole, "dark", "flat"),
        Part(zipper, "metal", "none"),
    ]
    if a > 0.35:
        parts.append(Part(cuff, "detail", "cloth"))
    return Shape(
        _blend(1.0, 1.35, b), tuple(parts), (0.1, 0.2, 0.5, 0.5), ((0.07, 0.2), (0.8, 0.75))
    )


def _bag(a: float, b: float, c: float) -> Shape:
    top = _blend(0.28, 0.42, a)
    handle = _ring_part((0.5, top + 0.06), (0.3, top + 0.03), 0.06)
    trapeze = _blend(0.0, 0.1, b)
    body = smooth(
        [
            (0.02 + trapeze, top),
            (0.98 - trapeze, top),
            (0.985, 0.93),
            (0.93, 0.99),
            (0.07, 0.99),
            (0.015, 0.93),
        ],
        1,
    )
    flap = smooth(
        [(0.02 + trapeze, top), (0.98 - trapeze, top), (0.9, 0.62), (0.5, 0.72), (0.1, 0.62)], 1
    )
    clasp = _round(0.5, 0.66, 0.05, 1.0)
    parts = [handle, Part(body, "face", "flat")]
    if c > 0.4:
        parts += [Part(flap, "detail", "flat"), Part(clasp, "metal", "ball")]
    room = (0.3, 0.72, 0.7, 0.95) if c > 0.4 else (0.3, 0.5, 0.7, 0.88)
    return Shape(_blend(0.9, 1.15, c), tuple(parts), room, ((0.3, 0.1), (0.95, 0.7)))


def _backpack(a: float, b: float, c: float) -> Shape:
    loop = _ring_part((0.5, 0.08), (0.13, 0.07), 0.04)
    body = smooth(
        [
            (0.16, 0.12),
            (0.5, 0.04),
            (0.84, 0.12),
            (0.96, 0.4),
            (0.95, 0.97),
            (0.05, 0.97),
            (0.04, 0.4),
        ],
        2,
    )
    pocket = smooth([(0.16, 0.58), (0.84, 0.58), (0.86, 0.94), (0.14, 0.94)], 1)
    zipper = [(0.16, 0.5), (0.84, 0.5), (0.84, 0.525), (0.16, 0.525)]
    parts = (
        loop,
        Part(body, "face", "ball"),
        Part(pocket, "detail", "flat"),
        Part(zipper, "metal", "none"),
    )
    return Shape(_blend(1.15, 1.4, a), parts, (0.3, 0.18, 0.7, 0.46), ((0.06, 0.5), (0.94, 0.5)))


def _cap(a: float, b: float, c: float) -> Shape:
    crown = smooth(
        [(0.06, 0.76), (0.1, 0.3), (0.32, 0.04), (0.56, 0.05), (0.72, 0.3), (0.76, 0.76)], 2
    )
    brim = smooth(
        [(0.4, 0.72), (0.76, 0.66), (0.99, 0.86), (0.98, 0.97), (0.7, 0.92), (0.36, 0.84)], 2
    )
    button = _round(0.43, 0.05, 0.04, 0.7)
    parts = (
        Part(crown, "face", "ball"),
        Part(brim, "detail", "flat"),
        Part(button, "detail", "ball"),
    )
    return Shape(_blend(0.62, 0.75, a), parts, (0.26, 0.26, 0.6, 0.66), ((0.08, 0.6), (0.95, 0.85)))


def _bear(a: float, b: float, c: float) -> Shape:
    ears = [Part(_round(x, 0.1, 0.1, 1.25), "face", "ball", 0.9) for x in (0.27, 0.73)]
    arms = [Part(_ellipse(x, 0.56, 0.13, 0.14), "face", "ball", 0.9) for x in (0.16, 0.84)]
    legs = [Part(_round(x, 0.86, 0.16, 1.25), "face", "ball") for x in (0.26, 0.74)]
    soles = [Part(_round(x, 0.875, 0.09, 1.25), "detail", "flat") for x in (0.26, 0.74)]
    body = Part(_ellipse(0.5, 0.66, 0.32, 0.27), "face", "ball")
    head = Part(_round(0.5, 0.26, 0.3, 1.25), "face", "ball")
    belly = Part(_ellipse(0.5, 0.68, 0.2, 0.17), "print", "ball")
    muzzle = Part(_ellipse(0.5, 0.33, 0.13, 0.08), "detail", "ball")
    dots = [
        Part(_round(x, y, r, 1.25), "dark", "none")
        for x, y, r in ((0.38, 0.23, 0.03), (0.62, 0.23, 0.03), (0.5, 0.3, 0.035))
    ]
    parts = (*ears, *arms, body, belly, *legs, *soles, head, muzzle, *dots)
    return Shape(1.25, parts, (0.4, 0.6, 0.6, 0.76), ((0.08, 0.58), (0.92, 0.58)))


def _watch(a: float, b: float, c: float) -> Shape:
    strap = _mirror([(0.7, 0.01), (0.74, 0.3), (0.74, 0.7), (0.7, 0.99)])
    case = Part(_ellipse(0.5, 0.5, 0.46, 0.46 / 2.2), "metal", "ball")
    dial = Part(_ellipse(0.5, 0.5, 0.37, 0.37 / 2.2), "print", "flat")
    ticks = [
        Part(_round(0.5 + 0.3 * np.cos(t), 0.5 + 0.3 / 2.2 * np.sin(t), 0.03, 2.2), "white", "none")
        for t in np.arange(0, 2 * np.pi, np.pi / (6 if a > 0.5 else 2))
    ]
    hands = [
        Part([(0.48, 0.5), (0.52, 0.5), (0.51, 0.39), (0.49, 0.39)], "dark", "none"),
        Part([(0.5, 0.49), (0.5, 0.51), (0.7, 0.53), (0.7, 0.52)], "dark", "none"),
    ]
    parts = (Part(strap, "face", "round"), case, dial, *ticks, *hands)
    return Shape(2.2, parts, (0.3, 0.08, 0.7, 0.25), ((0.28, 0.85), (0.72, 0.85)))


def _pan(a: float, b: float, c: float) -> Shape:
    handle = [(0.56, 0.44), (0.99, 0.41), (0.995, 0.55), (0.56, 0.56)]
    rim = Part(_ellipse(0.32, 0.5, 0.315, 0.49), "face", "flat")
    inside = Part(_ellipse(0.32, 0.5, 0.265, 0.41), "dark", "ball")
    base = Part(_ellipse(0.32, 0.5, 0.2, 0.31), "print", "flat", 0.75)
    parts = (Part(handle, "detail", "flat"), rim, inside, *((base,) if a > 0.4 else ()))
    return Shape(0.64, parts, (0.22, 0.36, 0.42, 0.64), ((0.1, 0.8), (0.93, 0.5)))


def _glasses(a: float, b: float, c: float) -> Shape:
    high = _blend(0.42, 0.5, a)
    frames = [Part(smooth(_lens(x, 0.5, 0.22, high), 2), "face", "flat") for x in (0.25, 0.75)]
    lenses = [
        Part(
            smooth(_lens(x, 0.5, 0.175, high - 0.09), 2),
            "dark" if b > 0.5 else "print",
            "flat",
            0.8,
        )
        for x in (0.25, 0.75)
    ]
    bridge = [(0.42, 0.28), (0.58, 0.28), (0.58, 0.42), (0.42, 0.42)]
    temples = [
        [(0.0, 0.14), (0.07, 0.14), (0.06, 0.36), (0.0, 0.34)],
        [(1.0, 0.14), (0.93, 0.14), (0.94, 0.36), (1.0, 0.34)],
    ]
    parts = (
        *(Part(t, "detail", "flat") for t in temples),
        *frames,
        Part(bridge, "face", "flat"),
        *lenses,
    )
    return Shape(0.38, parts, (0.0, 0.0, 0.02, 0.02), ((0.03, 0.4), (0.97, 0.4)))


def _necklace(a: float, b: float, c: float) -> Shape:
    beads = []
    count = int(_blend(18, 30, a))
    for t in np.linspace(0.12 * np.pi, 0.88 * np.pi, count):
        x, y = 0.5 - 0.45 * np.cos(t), 0.02 + 0.72 * np.sin(t) - 0.2
        beads.append(
            Part(_round(x, max(y, 0.03), 0.03, 1.1), "detail" if b > 0.5 else "metal", "ball")
        )
    drop = Part(smooth(_lens(0.5, 0.76, 0.16, 0.2), 2), "face", "ball")
    stone = Part(_ellipse(0.5, 0.77, 0.09, 0.1), "print", "ball")
    return Shape(1.1, (*beads, drop, stone), (0.4, 0.66, 0.6, 0.86), ((0.08, 0.12), (0.92, 0.12)))


def _round(x: float, y: float, radius: float, aspect: float) -> Points:
    """A circle in a shape of that aspect."""
    return _ellipse(x, y, radius, radius / aspect)


def _ellipse(x: float, y: float, across: float, down: float) -> Points:
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.column_stack((x + across * np.cos(t), y + down * np.sin(t)))


def _lens(x: float, y: float, across: float, down: float) -> list[tuple[float, float]]:
    return [
        (x - across, y - down * 0.8),
        (x, y - down),
        (x + across, y - down * 0.8),
        (x + across * 0.85, y + down * 0.6),
        (x, y + down),
        (x - across * 0.85, y + down * 0.6),
    ]


def _ring_part(centre: tuple[float, float], radii: tuple[float, float], thick: float) -> Part:
    """A handle: an ellipse with a hole, as one outline that runs round and back."""
    t = np.linspace(0, 2 * np.pi, 40)
    outer = np.column_stack((np.cos(t), np.sin(t))) * radii + centre
    inner = np.column_stack((np.cos(t), np.sin(t))) * (radii[0] - thick, radii[1] - thick) + centre
    return Part(np.concatenate((outer, inner[::-1])), "detail", "flat", 0.9)


_SHAPES: dict[str, Callable[[float, float, float], Shape]] = {
    "tee": _tee, "dress": _dress, "pouch": _pouch, "jar": _jar, "sweater": _sweater,
    "trousers": _trousers, "shoe": _shoe, "bag": _bag, "shirt": _shirt, "pump": _pump,
    "coat": _coat, "bottle": _bottle, "skirt": _skirt, "mug": _mug, "lipstick": _lipstick,
    "backpack": _backpack, "jug": _jug, "box": _box, "dropper": _dropper, "tin": _tin,
    "stack": _stack, "bear": _bear, "flacon": _flacon, "cap": _cap, "scarf": _scarf,
    "case": _case, "sack": _sack, "socks": _socks, "boot": _boot, "wine": _wine,
    "watch": _watch, "pan": _pan, "glasses": _glasses, "necklace": _necklace,
}  # fmt: skip
