"""Made products with flat sides: boxes, cartons, pouches."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from service.demo.canvas import CANVAS, MIDDLE, Points, quad, shade
from service.demo.colours import WHITE, mix, readable_on
from service.demo.faces import Design, face, write


def _side_face(design: Design, size: tuple[int, int]) -> Image.Image:
    picture = Image.new("RGB", size, mix(design.ground, design.second, 0.15))
    draw = ImageDraw.Draw(picture)
    width, height = size
    ink = mix(design.ground, readable_on(design.ground), 0.55)
    for row in range(9):
        y = height * (0.3 + 0.045 * row)
        draw.rectangle((width * 0.18, y, width * (0.82 - 0.2 * (row % 3 == 2)), y + 4), fill=ink)
    draw.rectangle((0, height * 0.86, width, height), fill=design.second)
    write(picture, design.brand, (width / 2, height * 0.15), (width * 0.8, height * 0.1), ink)
    return picture


def box(design: Design, shape: float, turn: float) -> Image.Image:
    """A cuboid of folding board; `shape` 0..1 goes from tall to wide."""
    canvas = Image.new("RGBA", (CANVAS, CANVAS))
    width = 300 + 240 * shape
    height = 560 - 240 * shape
    depth = 0.35 * width * abs(turn) * 0.6
    front = face(design, (round(width), round(height)))
    front_width = width * (1 - 0.18 * abs(turn))
    left = MIDDLE - (front_width + depth) / 2 + (depth if turn > 0 else 0)
    right, top, bottom = left + front_width, MIDDLE - height / 2, MIDDLE + height / 2
    tilt = 0.09 * depth
    corners: Points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    if depth > 2:
        narrow = _side_face(design, (160, round(height)))
        if turn > 0:
            edge: Points = [
                (left - depth, top + tilt),
                (left, top),
                (left, bottom),
                (left - depth, bottom - tilt),
            ]
            light = 1.03
        else:
            edge = [
                (right, top),
                (right + depth, top + tilt),
                (right + depth, bottom - tilt),
                (right, bottom),
            ]
            light = 0.72
        quad(canvas, narrow, edge, light)
    quad(canvas, front, corners, 1.0)
    return _glow(canvas, 0.1)


def _glow(picture: Image.Image, strength: float) -> Image.Image:
    """Light from the upper left, falling off towards the lower right."""
    ramp = np.linspace(1 + strength, 1 - strength, CANVAS, dtype=np.float32)
    return shade(picture, (ramp[:, None] + ramp[None, :]) / 2)


def carton(design: Design, shape: float, turn: float) -> Image.Image:
    """A gable-top drink carton, with a screw cap on some."""
    canvas = Image.new("RGBA", (CANVAS, CANVAS))
    height, width = 420, 230 + 60 * shape
    depth = 0.5 * width * abs(turn)
    front_width = width * (1 - 0.15 * abs(turn))
    left = MIDDLE - (front_width + depth) / 2 + (depth if turn > 0 else 0)
    right, top, bottom = left + front_width, 190.0, 190.0 + height
    ridge = top - 105
    roof = Image.new("RGB", (round(width), 110), mix(design.ground, design.second, 0.35))
    write(roof, design.brand, (width / 2, 62), (width * 0.5, 34), readable_on(design.ground))
    fin = Image.new("RGB", (round(width), 40), mix(design.ground, WHITE, 0.25))
    lean = 0.22 * depth if turn > 0 else -0.22 * depth
    if depth > 2:
        far = left - depth if turn > 0 else right + depth
        near = left if turn > 0 else right
        narrow = _side_face(design, (160, height))
        tilt = 0.1 * depth
        corners: Points = [(far, top + tilt), (near, top), (near, bottom), (far, bottom - tilt)]
        if turn < 0:
            corners = [corners[1], corners[0], corners[3], corners[2]]
        quad(canvas, narrow, corners, 1.02 if turn > 0 else 0.74)
        ImageDraw.Draw(canvas).polygon(
            [(far, top + tilt), (near, top), (near - 2 * lean, ridge)],
            fill=(*mix(design.ground, (60, 60, 70), 0.25), 255),
        )
    quad(
        canvas,
        face(design, (round(width), height)),
        [
            (left, top),
            (right, top),
            (right, bottom),
            (left, bottom),
        ],
        1.0,
    )
    peak: Points = [(left - lean, ridge), (right - lean, ridge), (right, top), (left, top)]
    quad(canvas, roof, peak, 1.08)
    quad(
        canvas,
        fin,
        [
            (left - lean, ridge - 38),
            (right - lean, ridge - 38),
            (right - lean, ridge),
            (left - lean, ridge),
        ],
        0.96,
    )
    if shape > 0.45:
        draw, x, y = ImageDraw.Draw(canvas), (left + right) / 2 - lean / 2, (ridge + top) / 2
        draw.ellipse(
            (x - 44, y - 30, x + 44, y + 34), fill=(*mix(design.accent, (0, 0, 0), 0.3), 255)
        )
        draw.ellipse((x - 44, y - 38, x + 44, y + 24), fill=(*design.accent, 255))
    return _glow(canvas, 0.09)


def pouch(design: Design, shape: float, turn: float) -> Image.Image:
    """A crimped bag, as for crisps or coffee."""
    width, height = round(400 + 60 * shape), 560
    printed = Image.new("RGB", (width, height), design.ground)
    printed.paste(face(design, (width, height - 80)), (0, 40))
    for y in (0, height - 40):
        printed.paste(mix(design.ground, (160, 160, 160), 0.3), (0, y, width, y + 40))
    mask = Image.new("L", (width, height))
    t = np.linspace(0, 1, 50)
    waist = 12 + 9 * np.sin(t * math.tau * 2) - 14 * np.sin(t * math.pi)
    edge = [(float(x), float(y)) for x, y in zip(waist + 6, t * height, strict=True)]
    ImageDraw.Draw(mask).polygon(edge + [(width - x, y) for x, y in reversed(edge)], fill=255)
    printed.putalpha(mask)
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    crease = 0.06 * np.sin(9 * across + 5 * turn + 2 * down) * (np.abs(down - 0.5) + 0.1)
    light = 1.06 - 0.3 * np.abs(across + 0.15) ** 2.2 + crease
    light += 0.16 * np.exp(-(((across + 0.45 + 0.1 * turn) / 0.09) ** 2)) * np.sin(math.pi * down)
    crimp = (down < 0.07) | (down > 0.93)
    light = np.where(crimp, 0.86 + 0.12 * np.sin(across * width * 0.35), light)
    canvas = Image.new("RGBA", (CANVAS, CANVAS))
    canvas.paste(shade(printed, light.astype(np.float32)), ((CANVAS - width) // 2, 40))
    return canvas
