"""One picture of a demo, understood at a glance: frames, the product recognised, right or wrong.

Knows how to lay out cards; knows nothing of the service. Everything is drawn at twice the final
size and scaled down once, so that shapes and letters have smooth edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from service.demo.figures import Box

FRAMES = 3
MOST_CARDS = 12
FRAME_PIXELS = 272
"""The side at which frames are best handed in: what they have on the sheet before it is scaled."""

_SCALE = 2
_WIDTH, _MARGIN, _GAP, _PAD = 2000, 52, 26, 20
_COLUMNS = 2
_PRODUCT, _SEAM = 136, 6
_HEADER, _CARD, _FOOTER = 150, 176, 54

Colour = tuple[int, int, int]
_GROUND: Colour = (244, 242, 237)
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (32, 34, 40)
_SOFT: Colour = (112, 116, 126)
_FAINT: Colour = (226, 224, 218)
_GREEN: Colour = (30, 142, 90)
_RED: Colour = (206, 60, 58)
_AMBER: Colour = (190, 130, 20)
_YELLOW: Colour = (255, 214, 0)


@dataclass(frozen=True)
class Card:
    """One clip: its frames, the product that was put first, and the one it shows.

    `decided` is whether the service was sure enough to answer; `answer` is None for an empty shop.
    `boxes` are the product's in the frames.
    """

    frames: tuple[Image.Image, ...]
    answer: str | None
    answer_picture: Path | None
    truth: str
    truth_picture: Path
    right: bool
    decided: bool
    confidence: float
    boxes: tuple[Box | None, ...] = (None,) * FRAMES


@dataclass(frozen=True)
class Headline:
    """What stands above the cards: a sentence, the line below it, the small print at the foot."""

    title: str
    line: str
    foot: str


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size * _SCALE)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which its bundled font needs")
    return font


class _Sheet:
    """A page measured in final pixels and drawn at `_SCALE` times as many."""

    def __init__(self, width: int, height: int) -> None:
        self.picture = Image.new("RGB", (width * _SCALE, height * _SCALE), _GROUND)
        self.draw = ImageDraw.Draw(self.picture)

    def box(
        self, left: float, top: float, size: tuple[float, float], radius: float, fill: Colour
    ) -> None:
        """A filled rectangle of that width and height with rounded corners."""
        corners = (left, top, left + size[0], top + size[1])
        self.draw.rounded_rectangle(
            tuple(_SCALE * value for value in corners), radius * _SCALE, fill=fill
        )

    def line(self, points: Sequence[tuple[float, float]], width: float, fill: Colour) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self.draw.line(scaled, fill=fill, width=round(width * _SCALE), joint="curve")
        for x, y in (scaled[0], scaled[-1]):
            r = width * _SCALE / 2
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        box = (x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse(tuple(_SCALE * value for value in box), fill=fill)

    def write(
        self, x: float, y: float, text: str, size: int, fill: Colour, *, bold: bool = False
    ) -> None:
        """Text with its left middle at (x, y)."""
        stroke = max(1, round(size * _SCALE / 34)) if bold else 0
        self.draw.text(
            (x * _SCALE, y * _SCALE),
            text,
            fill,
            _font(size),
            anchor="lm",
            stroke_width=stroke,
            stroke_fill=fill,
        )

    def put(self, picture: Image.Image, left: float, top: float, side: int, radius: int) -> None:
        """A square picture with rounded corners."""
        pixels = side * _SCALE
        mask = Image.new("L", (pixels, pixels))
        ImageDraw.Draw(mask).rounded_rectangle(
            (0, 0, pixels - 1, pixels - 1), radius * _SCALE, fill=255
        )
        square = ImageOps.pad(picture.convert("RGB"), (pixels, pixels), color=_PAPER)
        self.picture.paste(square, (round(left * _SCALE), round(top * _SCALE)), mask)

    def frame_box(self, box: Box, left: float, top: float, side: int) -> None:
        """The outline of a box in a square picture that was put there."""
        corners = [place + side * share for place, share in zip((left, top) * 2, box, strict=True)]
        self.draw.rectangle(
            [_SCALE * corner for corner in corners], outline=_YELLOW, width=3 * _SCALE
        )

    def shade(self, left: float, top: float, width: float, height: float) -> None:
        """The soft shadow a card throws."""
        blur, dark = 9 * _SCALE, 26
        size = (round(width * _SCALE) + 4 * blur, round(height * _SCALE) + 4 * blur)
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).rounded_rectangle(
            (2 * blur, 2 * blur, size[0] - 2 * blur, size[1] - 2 * blur), 16 * _SCALE, fill=dark
        )
        mask = mask.filter(ImageFilter.BoxBlur(blur // 2)).filter(ImageFilter.BoxBlur(blur // 2))
        place = round(left * _SCALE) - 2 * blur, round((top + 4) * _SCALE) - 2 * blur
        self.picture.paste((60, 50, 40), place, mask)

    def finished(self) -> Image.Image:
        size = self.picture.width // _SCALE, self.picture.height // _SCALE
        return self.picture.resize(size, Image.Resampling.LANCZOS)


def _lines(text: str, size: int, room: float, most: int) -> list[str]:
    """`text` broken at spaces into at most `most` lines of `room` pixels, the last one cut."""
    font = _font(size)

    def fits(line: str) -> bool:
        return font.getlength(line) <= room * _SCALE

    lines: list[str] = []
    for word in text.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [_cut(line, fits) for line in lines]


def _cut(line: str, fits: Callable[[str], bool]) -> str:
    if fits(line):
        return line
    while line and not fits(line + "…"):
        line = line[:-1]
    return line.rstrip() + "…"


def _tick(sheet: _Sheet, x: float, y: float, radius: float) -> None:
    sheet.disc(x, y, radius, _GREEN)
    unit = radius / 14
    points = [(x - 6 * unit, y + 0.5 * unit), (x - 1.6 * unit, y + 5 * unit),
              (x + 6.4 * unit, y - 4.6 * unit)]  # fmt: skip
    sheet.line(points, 3 * unit, _PAPER)


def _cross(sheet: _Sheet, x: float, y: float, radius: float) -> None:
    sheet.disc(x, y, radius, _RED)
    arm = radius * 0.36
    sheet.line([(x - arm, y - arm), (x + arm, y + arm)], radius * 0.21, _PAPER)
    sheet.line([(x - arm, y + arm), (x + arm, y - arm)], radius * 0.21, _PAPER)


def _arrow(sheet: _Sheet, x: float, y: float) -> None:
    sheet.line([(x, y), (x + 20, y)], 2.6, _SOFT)
    sheet.line([(x + 13, y - 7), (x + 20, y), (x + 13, y + 7)], 2.6, _SOFT)


def _shop_picture(sheet: _Sheet, path: Path, left: float, top: float, side: int) -> None:
    sheet.box(left - 1.5, top - 1.5, (side + 3, side + 3), 13, _FAINT)
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    sheet.put(upright, left, top, side, 12)


def _words(sheet: _Sheet, card: Card, left: float, top: float, room: float) -> None:
    """Name, confidence with its bar, and what the clip shows if that is something else."""
    colour = _GREEN if card.right else _RED
    name = card.answer or "nothing in this shop"
    y = top + 14
    for line in _lines(name, 22, room, 3):
        sheet.write(left, y, line, 22, _INK, bold=True)
        y += 27
    y += 8
    sheet.box(left, y - 4, (room, 8), 4, _FAINT)
    sheet.box(left, y - 4, (max(8.0, room * min(1.0, card.confidence)), 8), 4, colour)
    y += 24
    said = f"{card.confidence:.0%} sure" + ("" if card.decided else ", undecided")
    sheet.write(left, y, said, 17, _SOFT if card.decided else _AMBER)


def _card(sheet: _Sheet, card: Card, left: float, top: float, width: float) -> None:
    sheet.shade(left, top, width, _CARD)
    sheet.box(left, top, (width, _CARD), 16, _PAPER)
    x, y = left + _PAD, top + _PAD
    for frame, box in zip(card.frames, card.boxes, strict=True):
        sheet.put(frame, x, y, _PRODUCT, 12)
        if box is not None:
            sheet.frame_box(box, x, y, _PRODUCT)
        x += _PRODUCT + _SEAM
    x += 16 - _SEAM
    _arrow(sheet, x, top + _CARD / 2)
    x += 20 + 18
    if card.answer_picture is not None:
        _shop_picture(sheet, card.answer_picture, x, y, _PRODUCT)
    mark = _tick if card.right else _cross
    mark(sheet, x + _PRODUCT - 4, y + 4, 15)
    x += _PRODUCT + 24
    right_edge = left + width - _PAD
    if card.right:
        _words(sheet, card, x, y + 14, right_edge - x)
        return
    small = 84
    _words(sheet, card, x, y - 2, right_edge - x - small - 18)
    _shop_picture(sheet, card.truth_picture, right_edge - small, y, small)
    for k, line in enumerate(_lines(f"was {card.truth}", 14, small + 14, 3)):
        sheet.write(right_edge - small, y + small + 15 + 17 * k, line, 14, _SOFT)


def draw_picture(out: Path, headline: Headline, cards: Sequence[Card]) -> Path:
    """Writes the picture of the first MOST_CARDS cards; returns `out`."""
    cards = cards[:MOST_CARDS]
    rows = -(-len(cards) // _COLUMNS)
    sheet = _Sheet(_WIDTH, _HEADER + rows * (_CARD + _GAP) + _FOOTER)
    sheet.write(_MARGIN, 58, headline.title, 44, _INK, bold=True)
    sheet.write(_MARGIN, 106, headline.line, 23, _SOFT)
    width = (_WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) / _COLUMNS
    for k, card in enumerate(cards):
        left = _MARGIN + (k % _COLUMNS) * (width + _GAP)
        top = _HEADER + (k // _COLUMNS) * (_CARD + _GAP)
        _card(sheet, card, left, top, width)
    sheet.write(_MARGIN, _HEADER + rows * (_CARD + _GAP) + 16, headline.foot, 16, _SOFT)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.finished().save(out)
    return out
