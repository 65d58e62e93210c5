"""Made products of revolution: an unrolled skin, and the radius at each height."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from service.demo.canvas import CANVAS, MIDDLE, quad, shade
from service.demo.colours import WHITE, Colour, luminance, mix
from service.demo.faces import Design, face
from service.demo.motifs import MOTIFS
from service.demo.patterns import PATTERNS

Profile = Sequence[tuple[float, float]]


def _revolve(skin: Image.Image, profile: Profile, turn: float, *, gloss: float) -> Image.Image:
    """Wraps `skin` (its width spans the half circle in view and a quarter beyond on each side)
    round an upright axis; `profile` lists (y, radius)."""
    ys, radii = zip(*profile, strict=True)
    rows = np.arange(CANVAS, dtype=np.float32)
    radius = np.interp(rows, ys, radii).astype(np.float32)
    across = (rows[None, :] - MIDDLE) / np.maximum(radius[:, None], 1)
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
    draw.ellipse((MIDDLE - lid, top - 16, MIDDLE + lid, top + 14), fill=(206, 209, 214, 255))
    inner = lid * 0.88
    draw.ellipse((MIDDLE - inner, top - 11, MIDDLE + inner, top + 10), fill=(164, 168, 176, 255))
    return canvas


def tin(design: Design, shape: float, turn: float) -> Image.Image:
    """A wide, low food tin."""
    half, top, bottom = 250.0, 190.0 - 60 * shape, 500.0 + 40 * shape
    skin = _skin((196, 198, 202))
    _label(skin, design, top + 24, bottom - 20, 0.86)
    canvas = _revolve(skin, [(top, half), (bottom, half)], turn, gloss=0.12)
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((MIDDLE - half, top - 26, MIDDLE + half, top + 26), fill=(212, 214, 218, 255))
    draw.ellipse((MIDDLE - 225, top - 20, MIDDLE + 225, top + 20), fill=(176, 179, 185, 255))
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
        (MIDDLE - rim, top - 30, MIDDLE + rim, top + 32), fill=(*mix(foil, (0, 0, 0), 0.2), 255)
    )
    draw.ellipse((MIDDLE - rim, top - 38, MIDDLE + rim, top + 22), fill=(*foil, 255))
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
    x = MIDDLE + side * half
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
        (MIDDLE - half, top - 30, MIDDLE + half, top + 28),
        fill=(*mix(design.second, WHITE, 0.3), 255),
    )
    pen.ellipse(
        (MIDDLE - half + 14, top - 23, MIDDLE + half - 14, top + 22),
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
    printed = shade(printed, (light + 0.03 * turn * across).astype(np.float32))
    quad(
        canvas,
        printed,
        [
            (MIDDLE - half, top),
            (MIDDLE + half, top),
            (MIDDLE + base, bottom),
            (MIDDLE - base, bottom),
        ],
        1.0,
    )
    skin = _skin(design.accent)
    _ridges(skin, 0, CANVAS, mix(design.accent, WHITE, 0.1))
    cap = _revolve(skin, [(bottom - 4, base * 0.96), (612, base * 0.9)], turn, gloss=0.1)
    canvas.alpha_composite(cap)
    return canvas
