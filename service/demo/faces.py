"""What is printed on a made product: made-up words, and whole faces of words, motifs and patterns.

Knows nothing of shapes, light or cameras: a face is a flat RGB picture. `products` puts it on a
body, `scenes` puts the body into the world. Everything is drawn at twice the wanted size or more
and scaled down by the caller, because Pillow's shapes have hard edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from service.demo.colours import INK, WHITE, Colour, luminance, mix, readable_on
from service.demo.motifs import MOTIFS, disc
from service.demo.patterns import PATTERNS

_STARTS = "b br c ch d f fl g gr h j k kl l m n p pl r s sh st t tr v w z"
_VOWELS = "a e i o u a e i o ai ea oo"
_MIDDLES = "l ll m n nn r rr s v d t k nd lm"
_ENDS = "a o i e el en ia ino ona ix um ora et is"


def made_up_word(rng: np.random.Generator) -> str:
    """A pronounceable brand that means nothing, four to eight letters."""

    def sound(of: str) -> str:
        return str(rng.choice(of.split()))

    word = sound(_STARTS) + sound(_VOWELS) + sound(_MIDDLES)
    if rng.random() < 0.3:
        word += sound(_VOWELS) + sound(_MIDDLES)
    return (word + sound(_ENDS))[:8].capitalize()


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
        disc(draw, width / 2, height * 0.62, min(width * 0.56, height * 0.42), design.second)
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
        disc(draw, motif_x, height * motif_y, radius * 1.3, WHITE)
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
