"""The printed face of a product: its pattern, its motif, and the label of packaging.

A face is uint8 RGB [S,S,3], flat and evenly lit; shapes cut it out and shade it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from training.data.synthetic.catalogue import COLOURS, Product
from training.data.synthetic.sprites import Colour, fill, tint

SIDE = 256
PAPER = (248, 246, 240)
INK = (38, 36, 40)


def draw_face(product: Product) -> np.ndarray:
    """uint8 [SIDE,SIDE,3]: pattern only; labels and motifs are drawn where a shape has room."""
    ground, printed, detail = (COLOURS[name] for name in product.colours)
    rng = np.random.default_rng(product.seed)
    if product.print in ("flowers", "motifs"):
        return _scattered(product, ground, printed, detail, rng)
    share = _MASKS[product.print](product.pitch, rng)
    face = _mix(ground, printed, share)
    if product.print == "plaid":
        thin = _wave(_across() + product.pitch * 0.4, product.pitch * 2) > 0.93
        face[thin] = detail
        face[thin.T] = detail
    if product.print == "blobs":
        face[_noise(rng, 5) > 0.62] = detail
    return face


def draw_badge(face: np.ndarray, product: Product, room: tuple[float, float, float, float]) -> None:
    """The label of packaging, or the motif of a plain product, into `room` of the face [H,W,3].

    Room is left, top, right, bottom as shares of the face.
    """
    height, width = face.shape[:2]
    left, right = round(room[0] * width), round(room[2] * width)
    top, bottom = round(room[1] * height), round(room[3] * height)
    if product.category.labelled:
        _label(face, product, (left, top, right, bottom))
    elif product.motif_shown and product.print != "motifs":
        _emblem(face, product, (left, top, right, bottom))


def draw_motif(  # noqa: PLR0917 - six plain numbers
    target: np.ndarray, name: str, centre: tuple[float, float], radius: float, colour: Colour,
    angle: float = 0.0,
) -> None:  # fmt: skip
    """A motif as wide as twice the radius."""
    cos, sin = np.cos(angle) * radius, np.sin(angle) * radius
    for points, hole in motif(name):
        turned = points @ np.array([[cos, sin], [-sin, cos]]) + centre
        fill(target, turned, tint(colour, 0.55) if hole else colour)


# Patterns: share of the print's colour, float or bool [SIDE,SIDE].


@lru_cache(maxsize=1)
def _across() -> np.ndarray:
    """x in [0, 1), [SIDE,SIDE]; its transpose is y."""
    return np.broadcast_to(np.arange(SIDE, dtype=np.float32) / SIDE, (SIDE, SIDE))


def _wave(position: np.ndarray, period: float) -> np.ndarray:
    """A triangle wave in [0, 1]."""
    wave: np.ndarray = np.abs(2 * np.mod(position / period, 1) - 1)
    return wave


def _edge(wave: np.ndarray, period: float) -> np.ndarray:
    """A wave cut at its middle, with edges about a pixel soft."""
    return np.clip((wave - 0.5) * period * SIDE / 2 + 0.5, 0, 1)


def _stripes(pitch: float, rng: Generator) -> np.ndarray:
    return _edge(_wave(_across(), pitch), pitch)


def _diagonals(pitch: float, rng: Generator) -> np.ndarray:
    return _edge(_wave(_across() + _across().T, pitch * 1.4), pitch)


def _checks(pitch: float, rng: Generator) -> np.ndarray:
    stripes = _stripes(pitch, rng) * 2 - 1
    return (stripes * stripes.T + 1) / 2


def _plaid(pitch: float, rng: Generator) -> np.ndarray:
    stripes = _edge(_wave(_across(), pitch * 2), pitch)
    return (stripes + stripes.T) / 2


def _dots(pitch: float, rng: Generator) -> np.ndarray:
    x, y = _across() / pitch, _across().T / pitch
    x = x + 0.5 * (np.floor(y) % 2)
    apart = np.hypot(np.mod(x, 1) - 0.5, np.mod(y, 1) - 0.5)
    return np.clip((0.32 - apart) * pitch * SIDE + 0.5, 0, 1)


def _zigzag(pitch: float, rng: Generator) -> np.ndarray:
    return _edge(_wave(_across().T + 0.5 * pitch * _wave(_across(), pitch), pitch), pitch)


def _gradient(pitch: float, rng: Generator) -> np.ndarray:
    return np.clip(1.3 * _across().T - 0.15, 0, 1)


_MASKS: dict[str, Callable[[float, Generator], np.ndarray]] = {
    "plain": lambda pitch, rng: np.zeros((SIDE, SIDE), np.float32),
    "stripes": _stripes,
    "hoops": lambda pitch, rng: _stripes(pitch * 1.3, rng).T,
    "diagonals": _diagonals,
    "checks": _checks,
    "plaid": _plaid,
    "dots": _dots,
    "blobs": lambda pitch, rng: _noise(rng, 6) > 0.5,
    "zigzag": _zigzag,
    "halves": lambda pitch, rng: 0.35 + 2 * pitch < _across().T,
    "gradient": _gradient,
}


def _noise(rng: Generator, cells: int) -> np.ndarray:
    """Smooth noise in [0, 1]."""
    coarse = rng.random((cells, cells), dtype=np.float32)
    return cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def _mix(ground: Colour, printed: Colour, share: np.ndarray) -> np.ndarray:
    weight = np.round(share * 255).astype(np.uint8)
    table = np.linspace(ground, printed, 256).round().astype(np.uint8)  # [256,3]
    return cv2.LUT(cv2.merge((weight, weight, weight)), table[None])


def _scattered(
    product: Product, ground: Colour, printed: Colour, detail: Colour, rng: Generator
) -> np.ndarray:
    face = np.empty((SIDE, SIDE, 3), np.uint8)
    face[:] = ground
    step = SIDE * max(product.pitch, 0.1) * 1.3
    name = "flower" if product.print == "flowers" else product.motif
    rows = int(SIDE / step) + 2
    for row in range(rows):
        for column in range(rows):
            at = ((column + 0.5 * (row % 2)) * step, row * step)
            loose = rng.uniform(-0.2, 0.2, 2) * step if product.print == "flowers" else (0, 0)
            radius = step * (rng.uniform(0.25, 0.48) if product.print == "flowers" else 0.36)
            colour = detail if (row + column) % 3 == 0 else printed
            place = (at[0] + float(loose[0]), at[1] + float(loose[1]))
            draw_motif(face, name, place, radius, colour, float(rng.uniform(-0.3, 0.3)))
    return face


# What is printed on top.


def _emblem(face: np.ndarray, product: Product, room: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = room
    width, height = right - left, bottom - top
    printed, detail = COLOURS[product.colours[1]], COLOURS[product.colours[2]]
    radius = 0.5 * min(width, height)
    centre = ((left + right) / 2, (top + bottom) / 2)
    if product.layout == 1:  # a small one on one side
        draw_motif(
            face,
            product.motif,
            (left + 0.72 * width, centre[1] - 0.2 * radius),
            radius * 0.6,
            printed,
        )
    elif product.layout == 2:  # on a disc
        cv2.circle(
            face, (round(centre[0]), round(centre[1])), round(radius), detail, -1, cv2.LINE_AA
        )
        draw_motif(face, product.motif, centre, radius * 0.7, printed)
    elif product.layout == 3:  # above the brand
        draw_motif(
            face, product.motif, (centre[0], centre[1] - 0.2 * radius), radius * 0.7, printed
        )
        _write(face, product.brand, (left, round(centre[1] + 0.5 * radius), right, bottom), printed)
    else:
        draw_motif(face, product.motif, centre, radius * 0.95, printed)


def _label(face: np.ndarray, product: Product, room: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = room
    width, height = right - left, bottom - top
    printed, detail = COLOURS[product.colours[1]], COLOURS[product.colours[2]]
    paper = PAPER if product.layout != 2 else detail
    ink = printed if sum(printed) < 480 and product.layout != 2 else INK
    if product.layout == 0:
        cv2.rectangle(face, (left, top), (right, bottom), paper, -1)
    elif product.layout == 1:
        middle = ((left + right) // 2, (top + bottom) // 2)
        cv2.ellipse(face, (middle, (width, height), 0), paper, -1, cv2.LINE_AA)
    elif product.layout == 2:
        cv2.rectangle(face, (0, top + height // 8), (SIDE, bottom - height // 8), paper, -1)
    else:
        cv2.rectangle(face, (left, top), (right, bottom), printed, -1)
        cv2.rectangle(face, (left + 5, top + 5), (right - 5, bottom - 5), paper, -1)
    cut = width // 8
    _write(
        face, product.brand, (left + cut, top + height // 8, right - cut, top + height // 3), ink
    )
    clear = [c for c in (COLOURS[name] for name in product.colours) if math.dist(c, paper) > 120]
    radius = 0.23 * min(width, height * 1.2)
    draw_motif(
        face, product.motif, ((left + right) / 2, top + 0.56 * height), radius, (*clear, INK)[0]
    )
    words = product.size or product.noun
    _write(face, words, (left + cut, bottom - height // 4, right - cut, bottom - height // 12), INK)


@lru_cache(maxsize=8)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def _write(face: np.ndarray, text: str, room: tuple[int, int, int, int], colour: Colour) -> None:
    """Text as large as its room allows, in the middle of it."""
    left, top, right, bottom = room
    if right - left < 8 or bottom - top < 5:
        return
    font = _font(32)
    box = font.getbbox(text)
    ink = Image.new("L", (int(box[2] - box[0]) + 2, int(box[3] - box[1]) + 2))
    ImageDraw.Draw(ink).text((1 - box[0], 1 - box[1]), text, font=font, fill=255)
    scale = min((right - left) / ink.width, (bottom - top) / ink.height)
    size = (max(1, int(ink.width * scale)), max(1, int(ink.height * scale)))
    mask = cv2.resize(np.asarray(ink), size, interpolation=cv2.INTER_AREA)
    x, y = (left + right - size[0]) // 2, (top + bottom - size[1]) // 2
    part = face[y : y + size[1], x : x + size[0]]
    mask = mask[: part.shape[0], : part.shape[1]]
    weight = mask[..., None].astype(np.float32) / 255
    part[:] = (part * (1 - weight) + np.array(colour, np.float32) * weight).astype(np.uint8)


# Motifs: polygons in [-1, 1], y down; the second of a pair says that it is drawn darker.


@lru_cache(maxsize=32)
def motif(name: str) -> tuple[tuple[np.ndarray, bool], ...]:
    return tuple((np.asarray(points, float), hole) for points, hole in _MOTIFS[name]())


def _ring(radii: np.ndarray, turn: float = -np.pi / 2) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False) + turn
    return np.column_stack((np.cos(angles), np.sin(angles))) * radii[:, None]


def _disc(x: float, y: float, radius: float) -> np.ndarray:
    return np.add(_ring(np.full(20, radius)), (x, y))


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.column_stack((x, y)) / 17


def _leaf() -> np.ndarray:
    t = np.linspace(0, np.pi, 14)
    right = np.column_stack((0.55 * np.sin(t), -np.cos(t)))
    return np.concatenate((right, right[::-1] * (-1, 1)))


def _moon() -> np.ndarray:
    outer = np.linspace(0.3 * np.pi, 1.7 * np.pi, 20)
    inner = np.linspace(1.65 * np.pi, 0.35 * np.pi, 16)
    return np.concatenate(
        (
            np.column_stack((np.cos(outer), np.sin(outer))),
            np.column_stack((0.35 + 0.75 * np.cos(inner), 0.75 * np.sin(inner))),
        )
    )


def _wave_band(shift: float) -> np.ndarray:
    x = np.linspace(-1, 1, 20)
    y = 0.22 * np.sin(x * 2 * np.pi) + shift
    return np.concatenate((np.column_stack((x, y)), np.column_stack((x, y + 0.22))[::-1]))


Polygons = list[tuple[np.ndarray | list[tuple[float, float]], bool]]
_PETALS = 0.62 + 0.38 * np.cos(5 * np.linspace(0, 2 * np.pi, 60, endpoint=False))
_RAYS = np.tile((1.0, 0.62), 9)
_MOTIFS: dict[str, Callable[[], Polygons]] = {
    "star": lambda: [(_ring(np.tile((1.0, 0.42), 5)), False)],
    "heart": lambda: [(_heart(), False)],
    "flower": lambda: [(_ring(_PETALS), False), (_disc(0, 0, 0.24), True)],
    "leaf": lambda: [
        (_leaf(), False), ([(-0.04, -0.8), (0.04, -0.8), (0.04, 1), (-0.04, 1)], True),
    ],
    "moon": lambda: [(_moon(), False)],
    "bolt": lambda: [
        ([(0.3, -1), (-0.55, 0.15), (-0.05, 0.15), (-0.3, 1), (0.55, -0.2), (0.05, -0.2)], False)
    ],
    "drop": lambda: [
        (np.concatenate(([(0.0, -1.0)], _disc(0, 0.35, 0.62)[2:19])), False),
        (_disc(-0.2, 0.4, 0.16), True),
    ],
    "crown": lambda: [
        ([(-1, 0.7), (-1, -0.5), (-0.45, 0.1), (0, -0.8), (0.45, 0.1), (1, -0.5), (1, 0.7)], False),
        ([(-0.9, 0.4), (0.9, 0.4), (0.9, 0.55), (-0.9, 0.55)], True),
    ],
    "cat": lambda: [
        (_disc(0, 0.2, 0.75), False), ([(-0.72, 0.1), (-0.7, -0.9), (-0.1, -0.45)], False),
        ([(0.72, 0.1), (0.7, -0.9), (0.1, -0.45)], False), (_disc(-0.3, 0.1, 0.11), True),
        (_disc(0.3, 0.1, 0.11), True), ([(-0.12, 0.4), (0.12, 0.4), (0, 0.55)], True),
    ],
    "sun": lambda: [(_ring(_RAYS), False), (_disc(0, 0, 0.4), True)],
    "cherry": lambda: [
        ([(-0.5, 0.4), (0.35, -0.95), (0.45, -0.9), (-0.4, 0.4)], True),
        ([(0.5, 0.5), (0.35, -0.95), (0.45, -0.95), (0.62, 0.5)], True),
        (_disc(-0.48, 0.5, 0.42), False), (_disc(0.52, 0.55, 0.42), False),
    ],
    "wave": lambda: [(_wave_band(shift), False) for shift in (-0.55, -0.05, 0.45)],
}  # fmt: skip
