"""Garments and other cloth: half an outline, mirrored."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from service.demo.canvas import CANVAS, MIDDLE, Points, shade
from service.demo.colours import WHITE, Colour, luminance, mix, readable_on
from service.demo.faces import Design, write
from service.demo.motifs import MOTIFS
from service.demo.patterns import PATTERNS


def _mirror(half: Points) -> Points:
    return half + [(CANVAS - x, y) for x, y in reversed(half)]


def _cloth(
    design: Design, outlines: list[Points], print_at: tuple[float, float, float] | None, turn: float
) -> Image.Image:
    """Cut cloth with pattern, folds and a print at (x, y, radius)."""
    fabric = Image.new("RGB", (CANVAS, CANVAS), design.ground)
    if design.pattern:
        PATTERNS[design.pattern](fabric, design.second, 64)
    if print_at is not None:
        draw, (x, y, radius) = ImageDraw.Draw(fabric), print_at
        if design.pattern:
            draw.ellipse(
                (x - radius * 1.25, y - radius * 1.25, x + radius * 1.25, y + radius * 1.25),
                fill=design.ground,
            )
        accent = design.accent
        if abs(luminance(accent) - luminance(design.ground)) < 0.16:
            accent = mix(accent, WHITE if luminance(design.ground) < 0.5 else (30, 30, 36), 0.5)
        MOTIFS[design.motif](draw, x, y, radius, accent, design.leaf)
        if design.numeral:
            ink = readable_on(design.ground)
            write(
                fabric,
                design.numeral,
                (x, y + radius * 1.55),
                (radius * 2.2, radius * 0.45),
                ink,
                weight=3,
            )
    mask = Image.new("L", (CANVAS, CANVAS))
    pen = ImageDraw.Draw(mask)
    for outline in outlines:
        pen.polygon(outline, fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(5)).point(lambda value: 255 if value > 127 else 0)
    seam = np.asarray(mask.filter(ImageFilter.GaussianBlur(14)), np.float32) / 255
    rng = np.random.default_rng(len(design.brand) + int(10 * (turn + 1)))
    folds = Image.fromarray(rng.normal(0, 1, (7, 10)).astype(np.float32))
    smooth = np.asarray(folds.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC))
    light = 0.72 + 0.32 * seam + 0.07 * smooth
    return shade(_cut(fabric, mask), light.astype(np.float32))


def _cut(fabric: Image.Image, mask: Image.Image) -> Image.Image:
    picture = fabric.convert("RGBA")
    picture.putalpha(mask)
    return picture


def _line(picture: Image.Image, points: Points, colour: Colour, width: int) -> None:
    ImageDraw.Draw(picture).line(points, fill=(*colour, 255), width=width, joint="curve")


def _trim(design: Design) -> Colour:
    return mix(design.second, (0, 0, 0), 0.1)


def t_shirt(design: Design, shape: float, turn: float) -> Image.Image:
    """Short sleeves; `shape` widens the cut."""
    side = 185 - 30 * shape
    half: Points = [(258, 74), (205, 92), (70, 200), (128, 292), (side, 250), (side - 6, 580)]
    picture = _cloth(design, [_mirror([(MIDDLE, 112), *half])], (MIDDLE, 300, 88), turn)
    neck = [(MIDDLE + 66 * math.cos(t), 78 + 46 * math.sin(t)) for t in np.linspace(0.15, 2.99, 20)]
    _line(picture, neck, _trim(design), 14)
    return picture


def jumper(design: Design, shape: float, turn: float) -> Image.Image:
    """Long sleeves with cuffs."""
    side = 196 - 26 * shape
    half: Points = [
        (262, 80),
        (208, 96),
        (128, 170),
        (52, 520),
        (122, 540),
        (side, 290),
        (side, 566),
    ]
    picture = _cloth(design, [_mirror([(MIDDLE, 110), *half])], (MIDDLE, 290, 84), turn)
    for mirror in (False, True):
        cuff: Points = [(56, 508), (124, 528)]
        _line(picture, [(CANVAS - x, y) for x, y in cuff] if mirror else cuff, _trim(design), 24)
    _line(picture, [(side + 6, 556), (CANVAS - side - 6, 556)], _trim(design), 24)
    neck = [(MIDDLE + 60 * math.cos(t), 84 + 34 * math.sin(t)) for t in np.linspace(0.15, 2.99, 20)]
    _line(picture, neck, _trim(design), 16)
    return picture


def dress(design: Design, shape: float, turn: float) -> Image.Image:
    """A sleeveless dress with a belt."""
    hem = 110 + 60 * (1 - shape)
    half: Points = [
        (282, 84),
        (272, 36),
        (236, 36),
        (232, 120),
        (205, 168),
        (246, 290),
        (hem, 596),
        (hem + 90, 610),
    ]
    picture = _cloth(design, [_mirror([(MIDDLE, 130), *half])], (MIDDLE, 455, 62), turn)
    _line(picture, [(244, 292), (CANVAS - 244, 292)], _trim(design), 24)
    return picture


def shorts(design: Design, shape: float, turn: float) -> Image.Image:
    """Wide legs and a waistband."""
    hem = 420 + 90 * shape
    half: Points = [(168, 150), (92, hem), (300, hem + 28)]
    picture = _cloth(design, [_mirror([*half, (MIDDLE, 300)])], (212, 372, 48), turn)
    _line(picture, [(170, 162), (CANVAS - 170, 162)], _trim(design), 34)
    _line(picture, [(MIDDLE, 182), (MIDDLE, 296)], mix(design.ground, (0, 0, 0), 0.3), 4)
    return picture


def trousers(design: Design, shape: float, turn: float) -> Image.Image:
    """Long legs; `shape` widens them."""
    half: Points = [(206, 40), (178 - 40 * shape, 606), (286 - 12 * shape, 610)]
    picture = _cloth(design, [_mirror([*half, (MIDDLE, 220)])], (248, 190, 34), turn)
    _line(picture, [(206, 52), (CANVAS - 206, 52)], _trim(design), 28)
    return picture


def skirt(design: Design, shape: float, turn: float) -> Image.Image:
    """A flared skirt."""
    half: Points = [(226, 110), (90 + 40 * shape, 520), (200, 548)]
    picture = _cloth(design, [_mirror(half)], (MIDDLE, 400, 74), turn)
    _line(picture, [(226, 122), (CANVAS - 226, 122)], _trim(design), 32)
    return picture


def socks(design: Design, shape: float, turn: float) -> Image.Image:
    """A pair, side by side."""
    heel, toe = 580 - 30 * shape, 575.0
    sock: Points = [(60, 50), (190, 50), (190, 380), (235, 500), (205, toe), (120, 590)]
    sock += [(10, heel), (6, 520), (66, 420)]
    outlines = [[(x + left, y) for x, y in sock] for left in (70.0, 330.0)]
    picture = _cloth(design, outlines, (195, 240, 46), turn)
    for x in (70.0, 330.0):
        _line(picture, [(x + 62, 68), (x + 190, 68)], _trim(design), 34)
    pen = ImageDraw.Draw(picture)
    MOTIFS[design.motif](pen, 455, 240, 46, design.accent, design.leaf)
    return picture


def cap(design: Design, shape: float, turn: float) -> Image.Image:
    """A peaked cap."""
    dome = [
        (MIDDLE + 20 - 210 * math.cos(t), 400 - (230 + 30 * shape) * math.sin(t))
        for t in np.linspace(0, math.pi, 40)
    ]
    picture = _cloth(design, [dome], (MIDDLE + 20, 300, 72), turn)
    brim = Image.new("RGBA", picture.size)
    ImageDraw.Draw(brim).pieslice((30, 330, 480, 500), 172, 368, fill=(*_trim(design), 255))
    picture.alpha_composite(brim)
    ImageDraw.Draw(picture).ellipse((326, 146, 356, 172), fill=(*_trim(design), 255))
    return picture


def tote(design: Design, shape: float, turn: float) -> Image.Image:
    """A cloth bag with two handles."""
    picture = _cloth(
        design, [_mirror([(130, 230), (118 - 20 * shape, 600)])], (MIDDLE, 400, 110), turn
    )
    strap = mix(design.second, (0, 0, 0), 0.15)
    pen = ImageDraw.Draw(picture)
    pen.arc((210, 60, 430, 440), 180, 360, fill=(*strap, 255), width=26)
    return picture


def sneaker(design: Design, shape: float, turn: float) -> Image.Image:
    """A low shoe seen from its side."""
    upper: Points = [
        (70, 210),
        (110, 190),
        (215, 210),
        (330, 330),
        (480, 385),
        (570, 430),
        (575, 470),
        (66, 470),
    ]
    picture = _cloth(design, [upper], None, turn)
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle((56, 450, 592, 512 + 20 * shape), 30, fill=(246, 244, 238, 255))
    pen.line((62, 486, 588, 486), fill=(*design.second, 255), width=12)
    pen.pieslice((480, 390, 592, 560), 180, 300, fill=(*mix(design.second, WHITE, 0.3), 255))
    for k in range(4):
        x, y = 262 + k * 44, 262 + k * 36
        pen.line((x - 34, y + 26, x + 26, y - 6), fill=(*WHITE, 255), width=11)
    accent = design.accent
    if abs(luminance(accent) - luminance(design.ground)) < 0.16:
        accent = mix(accent, WHITE if luminance(design.ground) < 0.5 else (30, 30, 36), 0.5)
    MOTIFS[design.motif](pen, 180, 355, 62, accent, design.leaf)
    return picture
