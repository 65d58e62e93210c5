"""The shapes of made products: a body turns a design into a cut-out RGBA picture.

Knows nothing of families or scenes. Every body is drawn on a square canvas of CANVAS pixels,
upright and lit from the upper left; `turn` in -1..1 rotates what can be rotated about its upright
axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from service.demo.faces import (
    MOTIFS,
    PATTERNS,
    WHITE,
    Colour,
    Design,
    face,
    luminance,
    mix,
    readable_on,
    write,
)

CANVAS = 640
_MIDDLE = CANVAS / 2

Points = list[tuple[float, float]]
Matrix = npt.NDArray[np.float64]


def homography(source: Points, target: Points) -> Matrix:
    """The 3x3 matrix that carries four source points to four target points."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    solution = np.linalg.solve(np.asarray(rows, float), np.asarray(values, float))
    return np.append(solution, 1.0).reshape(3, 3)


def warp(picture: Image.Image, target: Points, size: tuple[int, int]) -> Image.Image:
    """`picture` carried to the corners `target` (clockwise from the upper left) of a new canvas."""
    width, height = picture.size
    corners: Points = [(0, 0), (width, 0), (width, height), (0, height)]
    back = homography(target, corners)
    coefficients = tuple((back / back[2, 2]).ravel()[:8])
    return picture.transform(
        size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR
    )


def _shade(picture: Image.Image, factor: npt.NDArray[np.floating]) -> Image.Image:
    """Multiplies the colours by `factor` [height, width]; the opacity stays."""
    pixels = np.asarray(picture).copy()
    lit = pixels[..., :3] * factor[..., None]
    pixels[..., :3] = np.clip(lit, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels, picture.mode)


# Flat-sided bodies.


def _quad(canvas: Image.Image, side: Image.Image, corners: Points, light: float) -> None:
    flat = side.convert("RGBA")
    if light != 1.0:
        flat = _shade(flat, np.full((flat.height, flat.width), light, np.float32))
    canvas.alpha_composite(warp(flat, corners, canvas.size))


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
    left = _MIDDLE - (front_width + depth) / 2 + (depth if turn > 0 else 0)
    right, top, bottom = left + front_width, _MIDDLE - height / 2, _MIDDLE + height / 2
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
        _quad(canvas, narrow, edge, light)
    _quad(canvas, front, corners, 1.0)
    return _glow(canvas, 0.1)


def _glow(picture: Image.Image, strength: float) -> Image.Image:
    """Light from the upper left, falling off towards the lower right."""
    ramp = np.linspace(1 + strength, 1 - strength, CANVAS, dtype=np.float32)
    return _shade(picture, (ramp[:, None] + ramp[None, :]) / 2)


def carton(design: Design, shape: float, turn: float) -> Image.Image:
    """A gable-top drink carton, with a screw cap on some."""
    canvas = Image.new("RGBA", (CANVAS, CANVAS))
    height, width = 420, 230 + 60 * shape
    depth = 0.5 * width * abs(turn)
    front_width = width * (1 - 0.15 * abs(turn))
    left = _MIDDLE - (front_width + depth) / 2 + (depth if turn > 0 else 0)
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
        _quad(canvas, narrow, corners, 1.02 if turn > 0 else 0.74)
        ImageDraw.Draw(canvas).polygon(
            [(far, top + tilt), (near, top), (near - 2 * lean, ridge)],
            fill=(*mix(design.ground, (60, 60, 70), 0.25), 255),
        )
    _quad(
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
    _quad(canvas, roof, peak, 1.08)
    _quad(
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
    canvas.paste(_shade(printed, light.astype(np.float32)), ((CANVAS - width) // 2, 40))
    return canvas


# Bodies of revolution: an unrolled skin and the radius at each height.

Profile = Sequence[tuple[float, float]]


def _revolve(skin: Image.Image, profile: Profile, turn: float, *, gloss: float) -> Image.Image:
    """Wraps `skin` (its width spans the half circle in view and a quarter beyond on each side)
    round an upright axis; `profile` lists (y, radius)."""
    ys, radii = zip(*profile, strict=True)
    rows = np.arange(CANVAS, dtype=np.float32)
    radius = np.interp(rows, ys, radii).astype(np.float32)
    across = (rows[None, :] - _MIDDLE) / np.maximum(radius[:, None], 1)
    inside = np.clip(across, -1, 1)
    depth = np.sqrt(1 - inside**2)
    sag = 16 * depth * (radius[:, None] / 200) - 8
    skin_y = np.clip(rows[:, None] - sag, 0, CANVAS - 1)
    angle = np.arcsin(inside) + 0.55 * turn
    skin_x = np.clip((angle / math.tau + 0.5) * skin.width, 0, skin.width - 1)
    pixels = np.asarray(skin)[skin_y.astype(int), skin_x.astype(int)].astype(np.float32)
    light = 0.5 + 0.58 * np.clip(depth * 0.85 - inside * 0.3, 0, 1)
    pixels *= light[..., None]
    shine = np.exp(-(((inside + 0.52) / 0.1) ** 2)) + 0.4 * np.exp(-(((inside - 0.7) / 0.06) ** 2))
    pixels += 255 * gloss * shine[..., None]
    inset = np.clip((1 - np.abs(across)) * radius[:, None] + 0.5, 0, 1)
    tall = (rows[:, None] - sag >= ys[0]) & (rows[:, None] - sag <= ys[-1])
    opacity = inset * tall * 255
    picture = np.dstack([np.clip(pixels, 0, 255), opacity]).astype(np.uint8)
    return Image.fromarray(picture, "RGBA")


def _smooth(profile: Profile) -> Profile:
    """Rounds the corners of a profile by a moving mean."""
    ys, radii = zip(*profile, strict=True)
    fine = np.arange(ys[0], ys[-1] + 1)
    values = np.interp(fine, ys, radii)
    padded = np.pad(values, 12, mode="edge")
    mean = np.convolve(padded, np.ones(25) / 25, mode="valid")
    return [(float(y), float(r)) for y, r in zip(fine, mean, strict=True)]


def _skin(base: Colour) -> Image.Image:
    return Image.new("RGB", (1400, CANVAS), base)


def _label(skin: Image.Image, design: Design, top: float, bottom: float, share: float) -> None:
    """Sticks the face to the middle of the skin, `share` of the half circle wide."""
    width, height = round(700 * share), round(bottom - top)
    skin.paste(mix(design.ground, design.second, 0.1), (0, round(top), skin.width, round(bottom)))
    front = face(design, (width, height))
    left = (skin.width - width) // 2
    skin.paste(front, (left, round(top)))
    edge = front.crop((0, 0, 2, height)).resize((left, height))
    skin.paste(edge, (0, round(top)))
    skin.paste(edge, (left + width, round(top)))


def _stripe(skin: Image.Image, top: float, bottom: float, colour: Colour) -> None:
    skin.paste(colour, (0, round(top), skin.width, round(bottom)))


def _ridges(skin: Image.Image, top: float, bottom: float, colour: Colour) -> None:
    _stripe(skin, top, bottom, colour)
    draw = ImageDraw.Draw(skin)
    for x in range(0, skin.width, 26):
        draw.rectangle((x, top, x + 8, bottom), fill=mix(colour, (0, 0, 0), 0.18))


def can(design: Design, shape: float, turn: float) -> Image.Image:
    """A drink can, printed all over."""
    half = 140 + 40 * shape
    top, bottom = 60.0, 590.0
    skin = _skin((190, 194, 200))
    _label(skin, design, top + 34, bottom - 22, 0.55)
    profile = [(top, half * 0.8), (top + 12, half * 0.82), (top + 48, half), (bottom - 34, half),
               (bottom, half * 0.84)]  # fmt: skip
    canvas = _revolve(skin, _smooth(profile), turn, gloss=0.22)
    lid = half * 0.8
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((_MIDDLE - lid, top - 16, _MIDDLE + lid, top + 14), fill=(206, 209, 214, 255))
    inner = lid * 0.88
    draw.ellipse((_MIDDLE - inner, top - 11, _MIDDLE + inner, top + 10), fill=(164, 168, 176, 255))
    return canvas


def tin(design: Design, shape: float, turn: float) -> Image.Image:
    """A wide, low food tin."""
    half, top, bottom = 250.0, 190.0 - 60 * shape, 500.0 + 40 * shape
    skin = _skin((196, 198, 202))
    _label(skin, design, top + 24, bottom - 20, 0.86)
    canvas = _revolve(skin, [(top, half), (bottom, half)], turn, gloss=0.12)
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((_MIDDLE - half, top - 26, _MIDDLE + half, top + 26), fill=(212, 214, 218, 255))
    draw.ellipse((_MIDDLE - 225, top - 20, _MIDDLE + 225, top + 20), fill=(176, 179, 185, 255))
    return canvas


def bottle(design: Design, shape: float, turn: float) -> Image.Image:
    """A drink bottle: the liquid has the accent's colour."""
    half, neck = 105 + 45 * shape, 40.0
    shoulder = 190 + 60 * (1 - shape)
    liquid = mix(design.accent, WHITE, 0.12)
    skin = _skin(liquid)
    _stripe(skin, 0, shoulder - 60, mix(liquid, WHITE, 0.55))
    _ridges(skin, 0, 86, design.second)
    _label(skin, design, shoulder + 24, 572, 0.45)
    profile = [(22, neck * 1.12), (82, neck * 1.12), (84, neck), (130, neck), (shoulder + 20, half),
               (560, half), (618, half * 0.86)]  # fmt: skip
    return _revolve(skin, _smooth(profile), turn, gloss=0.32)


def flask(design: Design, shape: float, turn: float) -> Image.Image:
    """A bath or cleaning bottle of opaque plastic with a large cap."""
    half = 120 + 50 * shape
    skin = _skin(design.ground)
    _ridges(skin, 0, 150, design.accent if luminance(design.accent) > 0.2 else design.second)
    _label(skin, design, 205, 582, 0.5)
    profile = [(30, 62), (150, 66), (152, 50), (168, 52), (205, half * 0.96), (560, half),
               (612, half * 0.92)]  # fmt: skip
    return _revolve(skin, _smooth(profile), turn, gloss=0.16)


def jar(design: Design, shape: float, turn: float) -> Image.Image:
    """A glass jar; its content has the accent's colour."""
    half = 165 + 35 * shape
    content = mix(design.accent, (70, 30, 20), 0.18)
    skin = _skin(content)
    speckles = np.random.default_rng(len(design.word)).integers(0, 1400, (160, 2))
    draw = ImageDraw.Draw(skin)
    for x, y in speckles:
        draw.ellipse((x, y % CANVAS, x + 15, y % CANVAS + 13), fill=mix(content, WHITE, 0.2))
    _ridges(skin, 0, 150, design.second)
    _stripe(skin, 150, 166, mix(WHITE, content, 0.35))
    _label(skin, design, 236, 536, 0.48)
    profile = [(70, half * 0.86), (148, half * 0.86), (152, half * 0.78), (170, half * 0.8),
               (222, half), (560, half), (590, half * 0.9)]  # fmt: skip
    return _revolve(skin, _smooth(profile), turn, gloss=0.26)


def cup(design: Design, shape: float, turn: float) -> Image.Image:
    """A tapered pot with a foil lid, as for yoghurt."""
    upper, lower = 205.0, 150 + 25 * shape
    top, bottom = 130.0, 570.0
    skin = _skin(WHITE)
    _label(skin, design, top + 34, bottom - 14, 0.55)
    canvas = _revolve(skin, [(top, upper), (bottom, lower)], turn, gloss=0.1)
    draw = ImageDraw.Draw(canvas)
    foil = mix(design.accent, (225, 225, 228), 0.45)
    rim = upper + 14
    draw.ellipse(
        (_MIDDLE - rim, top - 30, _MIDDLE + rim, top + 32), fill=(*mix(foil, (0, 0, 0), 0.2), 255)
    )
    draw.ellipse((_MIDDLE - rim, top - 38, _MIDDLE + rim, top + 22), fill=(*foil, 255))
    return canvas


def mug(design: Design, shape: float, turn: float) -> Image.Image:
    """A glazed mug with a print."""
    half, top, bottom = 185 + 15 * shape, 150.0, 550.0
    skin = _skin(design.ground)
    if design.pattern:
        PATTERNS[design.pattern](skin, mix(design.ground, design.second, 0.6), 150)
    draw = ImageDraw.Draw(skin)
    if design.pattern:
        draw.ellipse((540, 190, 860, 510), fill=design.ground)
    MOTIFS[design.motif](draw, 700, 350, 115, design.accent, design.leaf)
    _stripe(skin, 0, top + 22, design.second)
    handle = Image.new("RGBA", (CANVAS, CANVAS))
    side = 1 if turn <= 0 else -1
    x = _MIDDLE + side * half
    pen = ImageDraw.Draw(handle)
    pen.ellipse(
        (x - 95, 230, x + 95, 470), outline=(*mix(design.ground, (0, 0, 0), 0.25), 255), width=40
    )
    pen.ellipse(
        (x - 95, 228, x + 95, 468), outline=(*mix(design.ground, (0, 0, 0), 0.1), 255), width=30
    )
    handle.alpha_composite(
        _revolve(
            skin, [(top, half), (bottom - 30, half), (bottom, half * 0.94)], turn * 0.6, gloss=0.14
        )
    )
    pen = ImageDraw.Draw(handle)
    pen.ellipse(
        (_MIDDLE - half, top - 30, _MIDDLE + half, top + 28),
        fill=(*mix(design.second, WHITE, 0.3), 255),
    )
    pen.ellipse(
        (_MIDDLE - half + 14, top - 23, _MIDDLE + half - 14, top + 22),
        fill=(*mix(design.second, (20, 20, 20), 0.35), 255),
    )
    return handle


def tube(design: Design, shape: float, turn: float) -> Image.Image:
    """A squeezable tube standing on its cap."""
    half = 120 + 30 * shape
    canvas = Image.new("RGBA", (CANVAS, CANVAS))
    top, bottom, base = 40.0, 530.0, half * 0.8
    height = round(bottom - top)
    printed = Image.new("RGB", (400, height), design.ground)
    printed.paste(face(design, (300, height - 60)), (50, 50))
    edge = printed.crop((50, 0, 52, height)).resize((50, height))
    printed.paste(edge, (0, 0))
    printed.paste(edge, (350, 0))
    printed.paste(mix(design.ground, (120, 120, 120), 0.25), (0, 0, 400, 36))
    across = np.linspace(-1, 1, 400, dtype=np.float32)[None, :]
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    light = 1.08 - (0.1 + 0.34 * down) * (across + 0.1) ** 2
    light = light + 0.2 * np.exp(-(((across + 0.5) / 0.1) ** 2)) * down
    printed = _shade(printed, (light + 0.03 * turn * across).astype(np.float32))
    _quad(
        canvas,
        printed,
        [
            (_MIDDLE - half, top),
            (_MIDDLE + half, top),
            (_MIDDLE + base, bottom),
            (_MIDDLE - base, bottom),
        ],
        1.0,
    )
    skin = _skin(design.accent)
    _ridges(skin, 0, CANVAS, mix(design.accent, WHITE, 0.1))
    cap = _revolve(skin, [(bottom - 4, base * 0.96), (612, base * 0.9)], turn, gloss=0.1)
    canvas.alpha_composite(cap)
    return canvas


# Garments and other cloth: half an outline, mirrored.


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
    return _shade(_cut(fabric, mask), light.astype(np.float32))


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
    picture = _cloth(design, [_mirror([(_MIDDLE, 112), *half])], (_MIDDLE, 300, 88), turn)
    neck = [
        (_MIDDLE + 66 * math.cos(t), 78 + 46 * math.sin(t)) for t in np.linspace(0.15, 2.99, 20)
    ]
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
    picture = _cloth(design, [_mirror([(_MIDDLE, 110), *half])], (_MIDDLE, 290, 84), turn)
    for mirror in (False, True):
        cuff: Points = [(56, 508), (124, 528)]
        _line(picture, [(CANVAS - x, y) for x, y in cuff] if mirror else cuff, _trim(design), 24)
    _line(picture, [(side + 6, 556), (CANVAS - side - 6, 556)], _trim(design), 24)
    neck = [
        (_MIDDLE + 60 * math.cos(t), 84 + 34 * math.sin(t)) for t in np.linspace(0.15, 2.99, 20)
    ]
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
    picture = _cloth(design, [_mirror([(_MIDDLE, 130), *half])], (_MIDDLE, 455, 62), turn)
    _line(picture, [(244, 292), (CANVAS - 244, 292)], _trim(design), 24)
    return picture


def shorts(design: Design, shape: float, turn: float) -> Image.Image:
    """Wide legs and a waistband."""
    hem = 420 + 90 * shape
    half: Points = [(168, 150), (92, hem), (300, hem + 28)]
    picture = _cloth(design, [_mirror([*half, (_MIDDLE, 300)])], (212, 372, 48), turn)
    _line(picture, [(170, 162), (CANVAS - 170, 162)], _trim(design), 34)
    _line(picture, [(_MIDDLE, 182), (_MIDDLE, 296)], mix(design.ground, (0, 0, 0), 0.3), 4)
    return picture


def trousers(design: Design, shape: float, turn: float) -> Image.Image:
    """Long legs; `shape` widens them."""
    half: Points = [(206, 40), (178 - 40 * shape, 606), (286 - 12 * shape, 610)]
    picture = _cloth(design, [_mirror([*half, (_MIDDLE, 220)])], (248, 190, 34), turn)
    _line(picture, [(206, 52), (CANVAS - 206, 52)], _trim(design), 28)
    return picture


def skirt(design: Design, shape: float, turn: float) -> Image.Image:
    """A flared skirt."""
    half: Points = [(226, 110), (90 + 40 * shape, 520), (200, 548)]
    picture = _cloth(design, [_mirror(half)], (_MIDDLE, 400, 74), turn)
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
        (_MIDDLE + 20 - 210 * math.cos(t), 400 - (230 + 30 * shape) * math.sin(t))
        for t in np.linspace(0, math.pi, 40)
    ]
    picture = _cloth(design, [dome], (_MIDDLE + 20, 300, 72), turn)
    brim = Image.new("RGBA", picture.size)
    ImageDraw.Draw(brim).pieslice((30, 330, 480, 500), 172, 368, fill=(*_trim(design), 255))
    picture.alpha_composite(brim)
    ImageDraw.Draw(picture).ellipse((326, 146, 356, 172), fill=(*_trim(design), 255))
    return picture


def tote(design: Design, shape: float, turn: float) -> Image.Image:
    """A cloth bag with two handles."""
    picture = _cloth(
        design, [_mirror([(130, 230), (118 - 20 * shape, 600)])], (_MIDDLE, 400, 110), turn
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


@dataclass(frozen=True)
class Article:
    """What a kind of product is called, how it is drawn, and whether it is made of cloth."""

    name: str
    draw: Callable[[Design, float, float], Image.Image]
    cloth: bool = False


ARTICLES: tuple[Article, ...] = (
    Article("Cereal", box),
    Article("Tea", box),
    Article("Juice", carton),
    Article("Oat drink", carton),
    Article("Crisps", pouch),
    Article("Coffee", pouch),
    Article("Soda", can),
    Article("Soup", can),
    Article("Tuna", tin),
    Article("Lemonade", bottle),
    Article("Shampoo", flask),
    Article("Soap", flask),
    Article("Jam", jar),
    Article("Yoghurt", cup),
    Article("Hand cream", tube),
    Article("Toothpaste", tube),
    Article("Mug", mug),
    Article("Tee", t_shirt, cloth=True),
    Article("Jumper", jumper, cloth=True),
    Article("Dress", dress, cloth=True),
    Article("Shorts", shorts, cloth=True),
    Article("Trousers", trousers, cloth=True),
    Article("Skirt", skirt, cloth=True),
    Article("Socks", socks, cloth=True),
    Article("Cap", cap, cloth=True),
    Article("Bag", tote, cloth=True),
    Article("Sneakers", sneaker, cloth=True),
)
