"""What is printed on a made product: colours, made-up words, motifs, patterns, whole faces.

Knows nothing of shapes, light or cameras: a face is a flat RGB picture. `products` puts it on a
body, `scenes` puts the body into the world. Everything is drawn at twice the wanted size or more
and scaled down by the caller, because Pillow's shapes have hard edges.
"""

# ruff: noqa: PLR0917 - all motifs share one short signature: draw, x, y, r, main, second

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Draw = ImageDraw.ImageDraw

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

_STARTS = "b br c ch d f fl g gr h j k kl l m n p pl r s sh st t tr v w z"
_VOWELS = "a e i o u a e i o ai ea oo"
_MIDDLES = "l ll m n nn r rr s v d t k nd lm"
_ENDS = "a o i e el en ia ino ona ix um ora et is"


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


def made_up_word(rng: np.random.Generator) -> str:
    """A pronounceable brand that means nothing, four to eight letters."""

    def sound(of: str) -> str:
        return str(rng.choice(of.split()))

    word = sound(_STARTS) + sound(_VOWELS) + sound(_MIDDLES)
    if rng.random() < 0.3:
        word += sound(_VOWELS) + sound(_MIDDLES)
    return (word + sound(_ENDS))[:8].capitalize()


# Motifs. Each draws around (x, y) with radius r in a main and a second colour.

Motif = Callable[[Draw, float, float, float, Colour, Colour], None]


def _disc(draw: Draw, x: float, y: float, r: float, colour: Colour) -> None:
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
    _disc(draw, x - r * 0.22, y + r * 0.15, r * 0.72, main)
    _disc(draw, x + r * 0.22, y + r * 0.15, r * 0.72, main)
    _disc(draw, x - r * 0.4, y - r * 0.08, r * 0.2, mix(main, WHITE, 0.45))
    draw.line((x, y - r * 0.4, x + r * 0.1, y - r * 0.85), fill=INK, width=max(2, int(r * 0.09)))
    _leaf_shape(draw, x + r * 0.08, y - r * 0.66, r * 0.75, -0.5, second)


def _berries(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    for angle in (-0.3, -1.5, -2.7):
        _leaf_shape(draw, x, y - r * 0.35, r * 0.65, angle, second)
    for row, count in enumerate((3, 4, 3, 2, 1)):
        for k in range(count):
            bx, by = x + (k - (count - 1) / 2) * r * 0.42, y + (row - 1) * r * 0.36
            _disc(draw, bx, by, r * 0.24, mix(main, INK, 0.12 * ((row + k) % 2)))
            _disc(draw, bx - r * 0.07, by - r * 0.08, r * 0.06, mix(main, WHITE, 0.6))


def _citrus(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    _disc(draw, x, y, r, main)
    _disc(draw, x, y, r * 0.86, mix(main, WHITE, 0.82))
    for k in range(9):
        start = k * 40 + 3
        box = (x - r * 0.78, y - r * 0.78, x + r * 0.78, y + r * 0.78)
        draw.pieslice(box, start, start + 33, fill=mix(main, second, 0.08))


def _star(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    draw.polygon(_star_points(x, y, r, 5, 0.44), fill=main)
    draw.polygon(_star_points(x, y, r * 0.5, 5, 0.44), fill=second)


def _sun(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    draw.polygon(_star_points(x, y, r, 14, 0.7), fill=main)
    _disc(draw, x, y, r * 0.52, second)


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
        _disc(draw, x + r * 0.58 * math.cos(angle), y + r * 0.58 * math.sin(angle), r * 0.36, main)
    _disc(draw, x, y, r * 0.36, second)


def _hills(draw: Draw, x: float, y: float, r: float, main: Colour, second: Colour) -> None:
    _disc(draw, x + r * 0.45, y - r * 0.5, r * 0.27, second)
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
    _disc(draw, x - r * 0.64, y - r * 0.1, r * 0.1, WHITE)
    _disc(draw, x - r * 0.64, y - r * 0.1, r * 0.05, INK)


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
    _disc(draw, x, y + r * 0.32, r * 0.64, main)
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
    _disc(draw, x, y, r, second)
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
        _disc(draw, x, y, r * scale, colour)


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
        _disc(draw, x + tx * r, y + ty * r, r * 0.22, second)


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

# Patterns. Each covers a whole picture with the second colour over the first.

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
            _disc(draw, x, y, pitch * 0.24, colour)


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


# Words.


@lru_cache(maxsize=2048)
def _word_mask(text: str, weight: int, slant: float) -> Image.Image:
    font = ImageFont.load_default(96)
    left, top, right, bottom = font.getbbox(text, stroke_width=weight)
    mask = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(mask).text((2 - left, 2 - top), text, 255, font, stroke_width=weight)
    if slant:
        lean = int(abs(slant) * mask.height)
        wide = Image.new("L", (mask.width + lean, mask.height))
        wide.paste(mask, (lean if slant < 0 else 0, 0))
        mask = wide.transform(wide.size, Image.Transform.AFFINE, (1, slant, 0, 0, 1, 0))
        mask = mask.crop(mask.getbbox())
    return mask


def write(
    picture: Image.Image,
    text: str,
    centre: tuple[float, float],
    room: tuple[float, float],
    colour: Colour,
    *,
    weight: int = 0,
    slant: float = 0.0,
) -> None:
    """Writes `text` as large as fits into `room` (width, height), centred; stretched a little."""
    mask = _word_mask(text, weight, slant)
    height = room[1]
    width = min(room[0], mask.width * height / mask.height * 1.15)
    height = min(height, mask.height * width / mask.width * 1.6)
    size = max(1, round(width)), max(1, round(height))
    place = round(centre[0] - size[0] / 2), round(centre[1] - size[1] / 2)
    picture.paste(colour, place, mask.resize(size, Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Design:
    """Everything that is printed on one product.

    `ground` and `second` colour the face, `accent` its motif and variant word. `layout` chooses
    the composition, `pattern` is a key of PATTERNS or empty, `motif` a key of MOTIFS.
    """

    brand: str
    word: str
    numeral: str
    layout: str
    motif: str
    pattern: str
    ground: Colour
    second: Colour
    accent: Colour
    leaf: Colour
    weight: int
    slant: float


LAYOUTS = ("split", "band", "oval", "window", "diagonal", "badge", "bold")


def _small_print(picture: Image.Image, left: float, right: float, y: float, colour: Colour) -> None:
    """Lines that stand for the text nobody reads."""
    draw, height = ImageDraw.Draw(picture), max(2, picture.height // 110)
    for k in range(2):
        x, end = left, right - k * (right - left) * 0.3
        while x < end:
            length = (right - left) * (0.12 + 0.08 * ((x * 7 + k * 3) % 3))
            draw.rectangle((x, y, min(x + length, end), y + height), fill=colour)
            x += length + height * 2.5
        y += height * 3.2


def _background(design: Design, size: tuple[int, int]) -> Image.Image:
    width, height = size
    picture = Image.new("RGB", size, design.ground)
    draw = ImageDraw.Draw(picture)
    if design.pattern:
        PATTERNS[design.pattern](picture, mix(design.ground, design.second, 0.28), width * 0.16)
    if design.layout == "split":
        draw.rectangle((0, height * 0.46, width, height), fill=design.second)
    elif design.layout == "band":
        draw.rectangle((0, height * 0.1, width, height * 0.34), fill=design.second)
        draw.rectangle((0, height * 0.92, width, height), fill=design.accent)
    elif design.layout == "diagonal":
        draw.polygon(
            [(0, height * 0.62), (width, height * 0.38), (width, height), (0, height)],
            fill=design.second,
        )
    elif design.layout == "window":
        inset = width * 0.1
        draw.rounded_rectangle(
            (inset, height * 0.34, width - inset, height * 0.93), width * 0.08, fill=WHITE
        )
    elif design.layout == "bold" and height > width:
        _disc(draw, width / 2, height * 0.62, min(width * 0.56, height * 0.42), design.second)
    return picture


def face(design: Design, size: tuple[int, int]) -> Image.Image:
    """The printed face [height, width, RGB] of a package or label, `size` in pixels."""
    width, height = size
    picture = _background(design, size)
    draw = ImageDraw.Draw(picture)
    tall = height > width * 0.85
    radius = min(width * 0.33, height * (0.2 if tall else 0.27))
    brand_y, motif_y, word_y = (0.21, 0.56, 0.83) if tall else (0.24, 0.6, 0.86)
    motif_ground = {
        "split": design.second,
        "diagonal": design.second,
        "window": WHITE,
        "bold": design.second if tall else design.ground,
    }.get(design.layout, design.ground)
    brand_ground = design.second if design.layout == "band" else design.ground
    motif_x = width / 2 if tall else width * 0.27
    word_x, word_room = (width / 2, width * 0.8) if tall else (width * 0.7, width * 0.46)
    if design.layout == "oval":
        box = (width * 0.06, height * 0.07, width * 0.94, height * 0.36)
        draw.ellipse(box, fill=design.second)
        brand_ground = design.second
    if design.layout == "badge":
        radius *= 0.86
        _disc(draw, motif_x, height * motif_y, radius * 1.3, WHITE)
        motif_ground = WHITE
    write(
        picture,
        design.brand,
        (width / 2, height * brand_y),
        (width * 0.84, height * 0.17),
        readable_on(brand_ground),
        weight=design.weight,
        slant=design.slant,
    )
    accent = design.accent
    if abs(luminance(accent) - luminance(motif_ground)) < 0.14:
        accent = mix(accent, INK if luminance(motif_ground) > 0.5 else WHITE, 0.35)
    MOTIFS[design.motif](draw, motif_x, height * motif_y, radius, accent, design.leaf)
    below = (
        motif_ground if tall or design.layout in ("split", "diagonal", "window") else design.ground
    )
    y = height * word_y if tall else height * 0.58
    pill = (
        word_x - word_room / 2,
        y - height * 0.055,
        word_x + word_room / 2,
        y + height * 0.055,
    )
    if tall and design.layout not in ("window",):
        draw.rounded_rectangle(pill, height * 0.05, fill=design.accent)
        below = design.accent
    write(
        picture,
        design.word,
        (word_x, y),
        (word_room * 0.86, height * (0.075 if tall else 0.13)),
        readable_on(below),
        weight=2,
    )
    ink = readable_on(motif_ground if tall else below)
    numeral_y = height * (0.945 if tall else 0.82)
    if design.layout == "band":
        ink = readable_on(design.accent if tall else design.ground)
        numeral_y = height * (0.96 if tall else 0.82)
    write(picture, design.numeral, (width * 0.8, numeral_y), (width * 0.28, height * 0.045), ink)
    _small_print(
        picture, width * 0.1, width * 0.5, height * (0.935 if tall else 0.95), mix(ink, below, 0.5)
    )
    return picture
