"""Patterns of made products: each covers a whole picture with a colour over what is there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from service.demo.colours import Colour
from service.demo.motifs import disc

Pattern = Callable[[Image.Image, Colour, float], None]


def _bars(picture: Image.Image, colour: Colour, pitch: float, *, upright: bool) -> None:
    draw = ImageDraw.Draw(picture)
    length = picture.width if upright else picture.height
    for start in np.arange(0, length, pitch):
        end = start + pitch * 0.5
        box = (start, 0, end, picture.height) if upright else (0, start, picture.width, end)
        draw.rectangle(box, fill=colour)


def _upright(picture: Image.Image, colour: Colour, pitch: float) -> None:
    _bars(picture, colour, pitch, upright=True)


def _hoops(picture: Image.Image, colour: Colour, pitch: float) -> None:
    _bars(picture, colour, pitch, upright=False)


def _slanted(picture: Image.Image, colour: Colour, pitch: float) -> None:
    draw = ImageDraw.Draw(picture)
    for start in np.arange(-picture.height, picture.width, pitch):
        end = start + picture.height
        half = pitch * 0.5
        draw.polygon(
            [(start, picture.height), (start + half, picture.height), (end + half, 0), (end, 0)],
            fill=colour,
        )


def _checks(picture: Image.Image, colour: Colour, pitch: float) -> None:
    x = (np.arange(picture.width) // (pitch / 2)).astype(int) % 2
    y = (np.arange(picture.height) // (pitch / 2)).astype(int) % 2
    weight = (x[None, :] + y[:, None]) / 2
    pixels = np.asarray(picture, np.float32)
    mixed = pixels + (np.asarray(colour, np.float32) - pixels) * weight[..., None]
    picture.paste(Image.fromarray(mixed.astype(np.uint8)))


def _dots(picture: Image.Image, colour: Colour, pitch: float) -> None:
    draw = ImageDraw.Draw(picture)
    for row, y in enumerate(np.arange(pitch / 2, picture.height + pitch, pitch * 0.87)):
        shift = pitch / 2 if row % 2 else 0
        for x in np.arange(shift, picture.width + pitch, pitch):
            disc(draw, x, y, pitch * 0.24, colour)


def _zigzag(picture: Image.Image, colour: Colour, pitch: float) -> None:
    draw = ImageDraw.Draw(picture)
    steps = np.arange(-1, int(picture.width / (pitch / 2)) + 3)
    for y in np.arange(0, picture.height + pitch, pitch):
        line = [(k * pitch / 2, y + (pitch * 0.3 if k % 2 else -pitch * 0.3)) for k in steps]
        draw.line(line, fill=colour, width=max(2, int(pitch * 0.28)), joint="curve")


PATTERNS: dict[str, Pattern] = {
    "Upright": _upright,
    "Hoop": _hoops,
    "Slant": _slanted,
    "Check": _checks,
    "Dot": _dots,
    "Zigzag": _zigzag,
}
