"""Where made products are seen: the clean shop picture, and photographs out in the world.

A photograph shows one product turned and foreshortened, often held by a hand, before shelves with
other products, rooms or textures, under uneven coloured light, through a camera that blurs and has
noise. Everything is decided by the generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from service.demo.canvas import Points, warp
from service.demo.colours import COLOUR_NAMES, WHITE, Colour, mix, named_colour
from service.demo.motifs import MOTIFS
from service.demo.patterns import PATTERNS
from service.demo.products import TURNS, Product, sprite

SKIN_TONES: tuple[Colour, ...] = (
    (250, 218, 196),
    (238, 194, 164),
    (224, 172, 138),
    (198, 140, 104),
    (166, 110, 78),
    (126, 80, 56),
    (92, 58, 42),
    (66, 42, 34),
)

Rng = np.random.Generator
Floats = npt.NDArray[np.float32]

SCALES = (0.34, 0.8)
"""The product's longer side as a share of the frame's shorter side."""


def shop_picture(product: Product, size: int = 400) -> Image.Image:
    """The product clean on white or a soft studio ground, RGB [size, size]."""
    rng = np.random.default_rng([product.product_id, product.family, 11])
    picture = Image.new("RGB", (size, size), (255, 255, 255))
    if rng.random() < 0.35:
        picture = _studio(size, named_colour(str(rng.choice(COLOUR_NAMES))))
    cut = sprite(product, int(rng.integers(1, 3)), round(size * 0.86))
    left, top = (size - cut.width) // 2, (size - cut.height) // 2
    if not product.kind.cloth:
        _ground_shadow(picture, left, top + cut.height, cut.width)
    picture.paste(cut, (left, top), cut)
    return picture


def _studio(size: int, colour: Colour) -> Image.Image:
    pale = np.asarray(mix(colour, WHITE, 0.82), np.float32)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    glow = 1.02 - 0.09 * (axis[None, :] ** 2 + axis[:, None] ** 2)
    return Image.fromarray(np.clip(pale * glow[..., None], 0, 255).astype(np.uint8))


def _ground_shadow(picture: Image.Image, left: int, bottom: int, width: int) -> None:
    mask = Image.new("L", picture.size)
    depth = max(2, width // 22)
    ImageDraw.Draw(mask).ellipse((left, bottom - depth, left + width, bottom + depth), fill=96)
    mask = mask.filter(ImageFilter.GaussianBlur(max(2, width / 45)))
    picture.paste((60, 56, 60), (0, 0), mask)


# Backgrounds.


def _vivid(rng: Rng) -> Colour:
    return named_colour(str(rng.choice(COLOUR_NAMES)), rng)


def _shelves(size: int, others: Sequence[Product], rng: Rng) -> Image.Image:
    """Rows of other products, several of each side by side, boards and price tags."""
    wall = mix(_vivid(rng), (120, 116, 112), 0.7)
    board = mix(_vivid(rng), (210, 206, 200), 0.75)
    picture = Image.new("RGB", (size, size), mix(wall, (0, 0, 0), 0.35))
    draw = ImageDraw.Draw(picture)
    row_height = size * rng.uniform(0.24, 0.42)
    y = -row_height * rng.uniform(0.0, 0.7)
    while y < size:
        floor = y + row_height * 0.9
        x = -rng.uniform(0, size * 0.1)
        while x < size:
            other = others[int(rng.integers(len(others)))]
            item = sprite(other, other.product_id % len(TURNS), 16 * round(row_height * 0.05))
            for _ in range(int(rng.integers(1, 4))):
                picture.paste(item, (round(x), round(floor - item.height)), item)
                x += item.width * rng.uniform(1.0, 1.12)
        draw.rectangle((0, floor, size, floor + row_height * 0.1), fill=board)
        for tag in np.arange(rng.uniform(0, size * 0.2), size, size * 0.24):
            box = (tag, floor + 1, tag + size * 0.07, floor + row_height * 0.085)
            draw.rectangle(box, fill=WHITE if rng.random() < 0.7 else (250, 214, 70))
        y += row_height
    return picture


def _room(size: int, rng: Rng) -> Image.Image:
    """A wall with paper or pictures on it, a floor or table, some furniture."""
    wall = mix(_vivid(rng), (225, 220, 212), rng.uniform(0.2, 0.7))
    picture = Image.new("RGB", (size, size), wall)
    if rng.random() < 0.6:
        pattern = PATTERNS[str(rng.choice(list(PATTERNS)))]
        pattern(
            picture, mix(wall, _vivid(rng), rng.uniform(0.15, 0.5)), size * rng.uniform(0.06, 0.2)
        )
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(-0.1, 0.9, 2) * size
        w, h = rng.uniform(0.12, 0.4, 2) * size
        frame = _vivid(rng)
        draw.rectangle((x, y, x + w, y + h), fill=mix(frame, (40, 30, 30), 0.4))
        inset = size * 0.014
        draw.rectangle((x + inset, y + inset, x + w - inset, y + h - inset), fill=_vivid(rng))
        if rng.random() < 0.6:
            motif = MOTIFS[str(rng.choice(list(MOTIFS)))]
            motif(draw, x + w / 2, y + h / 2, min(w, h) * 0.3, frame, _vivid(rng))
    floor = size * rng.uniform(0.55, 1.1)
    draw.rectangle((0, floor, size, 2 * size), fill=mix(_vivid(rng), (130, 96, 66), 0.6))
    for _ in range(int(rng.integers(0, 3))):
        x, w = rng.uniform(-0.1, 0.9) * size, rng.uniform(0.15, 0.45) * size
        h = rng.uniform(0.1, 0.35) * size
        draw.rounded_rectangle(
            (x, floor - h, x + w, floor + size * 0.1), size * 0.03, fill=_vivid(rng)
        )
    return picture


def _wood(size: int, rng: Rng) -> Image.Image:
    """Planks or a cloth seen from above."""
    base = mix(_vivid(rng), (168, 124, 84), rng.uniform(0.4, 0.9))
    grain = rng.normal(0, 1, (int(rng.integers(30, 90)), 5)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(grain).resize((size, size), Image.Resampling.BICUBIC))
    planks = 1 + 0.06 * ((np.arange(size) * int(rng.integers(3, 9)) // size) % 2)[:, None]
    pixels = np.asarray(base, np.float32) * (planks * (1 + 0.09 * smooth))[..., None]
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return picture.transpose(Image.Transpose.ROTATE_90) if rng.random() < 0.5 else picture


def _texture(size: int, rng: Rng) -> Image.Image:
    """Coloured clouds at several scales: foliage, carpets, crowds out of focus."""
    mixed = np.zeros((size, size, 3), np.float32)
    ends = np.asarray([_vivid(rng) for _ in range(3)], np.float32)
    for cells in (4, 11, 33):
        noise = rng.random((cells, cells)).astype(np.float32)
        weight = np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))
        mixed += ends[cells % 3] * weight[..., None] * (0.9 if cells < 30 else 0.5)
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def background(size: int, others: Sequence[Product], rng: Rng) -> Image.Image:
    """A cluttered ground [size, size], sharp or out of focus."""
    choice = rng.random()
    if choice < 0.45:
        picture = _shelves(size, others, rng)
    elif choice < 0.75:
        picture = _room(size, rng)
    elif choice < 0.88:
        picture = _wood(size, rng)
    else:
        picture = _texture(size, rng)
    angle = rng.uniform(-8, 8)
    if rng.random() < 0.6:
        zoom = 1.15
        grown = picture.resize((round(size * zoom),) * 2, Image.Resampling.BILINEAR)
        edge = (grown.width - size) // 2
        picture = grown.rotate(angle, Image.Resampling.BILINEAR).crop(
            (edge, edge, edge + size, edge + size)
        )
    return picture.filter(ImageFilter.BoxBlur(size / 256 * rng.uniform(0.3, 3.2)))


# The product in the scene.


@dataclass(frozen=True)
class Pose:
    """Where the product's upright rectangle lands in the frame: a projected plane, in pixels."""

    centre: tuple[float, float]
    half: tuple[float, float]
    turn: npt.NDArray[np.float64]

    def at(self, u: float, v: float) -> tuple[float, float]:
        """The place of a point given in -1..1 across (left to right) and down."""
        x, y, z = self.turn @ (u * self.half[0], v * self.half[1], 0.0)
        away = 3.2 * max(self.half)
        scale = away / (away + z)
        return self.centre[0] + x * scale, self.centre[1] + y * scale

    def corners(self) -> Points:
        """Clockwise from the upper left."""
        return [self.at(-1, -1), self.at(1, -1), self.at(1, 1), self.at(-1, 1)]


def _rotation(roll: float, yaw: float, pitch: float) -> npt.NDArray[np.float64]:
    (cr, sr), (cy, sy), (cp, sp) = ((math.cos(a), math.sin(a)) for a in (roll, yaw, pitch))
    about_z = np.asarray([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    about_y = np.asarray([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.asarray([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    turn: npt.NDArray[np.float64] = about_z @ about_y @ about_x
    return turn


def _pose(cut: Image.Image, size: int, scale: float, rng: Rng) -> Pose:
    longest = max(cut.size)
    half = (0.5 * scale * size * cut.width / longest, 0.5 * scale * size * cut.height / longest)
    angles = np.clip(rng.normal(0, (0.18, 0.26, 0.22)), -0.44, 0.44)
    turn = _rotation(float(angles[0]), float(angles[1]), float(angles[2]))
    slack = max(0.04, 0.46 - 0.5 * scale)
    shift = rng.uniform(-slack, slack, 2) * (0.75, 0.6)
    return Pose((size * (0.5 + shift[0]), size * (0.48 + shift[1])), half, turn)


def _placed(cut: Image.Image, pose: Pose, size: int) -> tuple[Image.Image, tuple[int, int]]:
    """The warped cut-out on the smallest canvas that holds it, and that canvas's place."""
    corners = pose.corners()
    left = max(0, math.floor(min(x for x, _ in corners)) - 1)
    top = max(0, math.floor(min(y for _, y in corners)) - 1)
    right = min(size, math.ceil(max(x for x, _ in corners)) + 1)
    bottom = min(size, math.ceil(max(y for _, y in corners)) + 1)
    moved = [(x - left, y - top) for x, y in corners]
    flat = warp(cut.convert("RGBa"), moved, (max(1, right - left), max(1, bottom - top)))
    return flat.convert("RGBA"), (left, top)


def _cast_shadow(
    picture: Image.Image, shape: Image.Image, place: tuple[int, int], rng: Rng
) -> None:
    """A soft dark copy of the product's outline, moved away from the light."""
    size = picture.width
    small = size // 4
    mask = Image.new("L", (small, small))
    shift = rng.uniform((-0.05, 0.01), (0.05, 0.07)) * small
    outline = shape.getchannel("A").resize((max(1, shape.width // 4), max(1, shape.height // 4)))
    mask.paste(outline, (round(place[0] / 4 + shift[0]), round(place[1] / 4 + shift[1])))
    strength = rng.uniform(0.2, 0.55)
    mask = mask.filter(ImageFilter.BoxBlur(small * rng.uniform(0.015, 0.05)))
    mask = mask.point(lambda value: value * strength).resize(
        picture.size, Image.Resampling.BILINEAR
    )
    picture.paste((18, 16, 20), (0, 0), mask)


# Hands.


def _limb(draw: ImageDraw.ImageDraw, points: Points, widths: Sequence[float], tone: Colour) -> None:
    """A rounded, shaded limb along `points`, `widths` across at each."""
    length = sum(math.dist(a, b) for a, b in pairwise(points))
    steps = int(np.clip(5 * length / max(1.0, min(widths)), 8, 160))
    t = np.linspace(0, len(points) - 1, steps)
    xs = np.interp(t, range(len(points)), [x for x, _ in points])
    ys = np.interp(t, range(len(points)), [y for _, y in points])
    radii = np.interp(t, range(len(points)), widths) / 2
    layers = (
        (mix(tone, (50, 14, 10), 0.42), 1.0, 0.0),
        (mix(tone, (80, 30, 22), 0.14), 0.9, -0.06),
        (tone, 0.72, -0.14),
        (mix(tone, (255, 236, 220), 0.2), 0.36, -0.28),
    )
    for colour, share, lift in layers:
        for x, y, radius in zip(xs, ys, radii, strict=True):
            r, shift = radius * share, radius * lift
            draw.ellipse((x + shift - r, y + shift - r, x + shift + r, y + shift + r), fill=colour)


def _nail(draw: ImageDraw.ImageDraw, tip: tuple[float, float], width: float, tone: Colour) -> None:
    r = width * 0.24
    x, y = tip
    draw.ellipse((x - r, y - r, x + r, y + r), fill=mix(tone, (255, 214, 206), 0.5))


@dataclass(frozen=True)
class _Grip:
    """One hand: its tone and sleeve, its side (-1 left, 1 right), a finger's width."""

    tone: Colour
    sleeve: Colour
    side: int
    finger: float
    height: float
    reach: float


def _draw_grip(grip: _Grip, pose: Pose, size: int) -> tuple[Image.Image, Image.Image]:
    """What of a gripping hand lies behind the product and what before it, RGBA."""
    behind = Image.new("RGBA", (size * 2, size * 2))
    before = Image.new("RGBA", (size * 2, size * 2))
    pen, front = ImageDraw.Draw(behind), ImageDraw.Draw(before)
    side, finger = grip.side, grip.finger * 2

    def at(u: float, v: float) -> tuple[float, float]:
        x, y = pose.at(side * u, v)
        return 2 * x, 2 * y

    palm, wrist = at(0.5, grip.height), at(1.15, grip.height + 0.55)
    elbow = (2 * size * (0.5 + side * grip.reach), 2 * size * 1.15)
    cuff = (wrist[0] + (elbow[0] - wrist[0]) * 0.5, wrist[1] + (elbow[1] - wrist[1]) * 0.5)
    _limb(pen, [palm, wrist, elbow], [finger * 3.4, finger * 2.7, finger * 4.2], grip.tone)
    _limb(pen, [cuff, elbow], [finger * 4.0, finger * 5.4], grip.sleeve)
    for k in range(4):
        v = grip.height - 0.02 + (k - 1.5) * finger / (2 * pose.half[1]) * 1.02
        knuckle, tip = at(-1.0, v), at(-0.78 + 0.05 * abs(k - 1.2), v - 0.02)
        outside = at(-1.0 - 0.35 * finger / (2 * pose.half[0]), v)
        _limb(front, [outside, knuckle, tip], [finger * 0.95, finger, finger * 0.86], grip.tone)
        _nail(front, tip, finger, grip.tone)
    root = at(1.0 + 0.5 * finger / (2 * pose.half[0]), grip.height + 0.12)
    thumb = at(0.5, grip.height - 0.22)
    _limb(
        front,
        [root, at(0.92, grip.height), thumb],
        [finger * 1.5, finger * 1.25, finger],
        grip.tone,
    )
    _nail(front, thumb, finger * 1.1, grip.tone)
    half = (size, size)
    return (
        behind.resize(half, Image.Resampling.BOX),
        before.resize(half, Image.Resampling.BOX),
    )


def _choose_grip(pose: Pose, size: int, rng: Rng) -> _Grip:
    tone = SKIN_TONES[int(rng.integers(len(SKIN_TONES)))]
    across = min(pose.half[0], 0.75 * pose.half[1])
    return _Grip(
        tone=mix(tone, _vivid(rng), 0.04),
        sleeve=_vivid(rng),
        side=int(rng.choice([-1, 1])),
        finger=float(np.clip(across * rng.uniform(0.2, 0.3), size * 0.022, size * 0.075)),
        height=float(rng.uniform(0.3, 0.68)),
        reach=float(rng.uniform(0.1, 0.62)),
    )


# The camera.


@lru_cache(maxsize=4)
def _grain(size: int) -> Floats:
    noise = np.random.default_rng(5).normal(0, 1, (2 * size, 2 * size, 3)).astype(np.float32)
    soft = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 1.7
    return soft.astype(np.float32)


def _develop(picture: Image.Image, rng: Rng) -> Image.Image:
    """Light that falls off across the frame, a colour cast, exposure, blur and grain."""
    size = picture.width
    blur = size / 256 * float(rng.choice([0.0, 0.35, 0.7, 1.2], p=[0.3, 0.35, 0.25, 0.1]))
    if blur > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
    pixels = np.asarray(picture, np.float32)
    if rng.random() < 0.15:
        reach, axis = int(rng.integers(1, max(2, size // 100) + 1)), int(rng.integers(2))
        moved = [np.roll(pixels, step, axis) for step in range(-reach, reach + 1)]
        pixels = np.mean(moved, axis=0, dtype=np.float32)
    axis_values = np.linspace(-1, 1, size, dtype=np.float32)
    angle, depth = rng.uniform(0, math.tau), rng.uniform(0, 0.3)
    fall = depth * (math.cos(angle) * axis_values[None, :] + math.sin(angle) * axis_values[:, None])
    cast = 1 + rng.normal(0, 0.055, 3).clip(-0.13, 0.13)
    gain = (rng.uniform(0.78, 1.14) * cast).astype(np.float32)
    lit = pixels * ((1 + fall)[..., None].astype(np.float32) * gain)
    contrast = np.float32(rng.uniform(0.86, 1.1))
    lit = (lit - 118) * contrast + np.float32(118 + rng.uniform(-8, 8))
    x, y = rng.integers(0, size, 2)
    lit += _grain(size)[y : y + size, x : x + size] * np.float32(rng.uniform(0.5, 5.0))
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def photograph(
    product: Product, others: Sequence[Product], rng: Rng, *, size: int = 256
) -> Image.Image:
    """The product out in the world, RGB [size, size]; `others` stand on the shelves behind it."""
    scale = float(rng.uniform(*SCALES))
    fitting = next((s for s in (128, 224) if s >= scale * size), 384)
    cut = sprite(product, int(rng.integers(len(TURNS))), fitting)
    picture = background(size, others, rng)
    pose = _pose(cut, size, scale, rng)
    shape, place = _placed(cut, pose, size)
    _cast_shadow(picture, shape, place, rng)
    held = rng.random() < 0.65
    if held:
        behind, before = _draw_grip(_choose_grip(pose, size, rng), pose, size)
        picture.paste(behind, (0, 0), behind)
    picture.paste(shape, place, shape)
    if held:
        picture.paste(before, (0, 0), before)
    return _develop(picture, rng)
